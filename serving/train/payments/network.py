"""The masked-feature predictor: what a feature of an application should be, given all the others.

After T-JEPA (Thimonier et al. 2024, arXiv 2410.05016), reduced to what a table of twenty columns needs: features are
embedded by fixed maps (`serving.train.payments.embedding`), so there is no collapse to guard against and no teacher;
the predictor sees the embedding with one feature's block blanked, and which one that is, and predicts the block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

HIDDEN = 48


class MaskedPredictor(nn.Module):
    """`blocks` (features, E) holds 1 where an element of the embedding belongs to a feature, else 0."""

    blocks: Tensor

    def __init__(self, blocks: Tensor, hidden: int = HIDDEN) -> None:
        super().__init__()
        features, width = blocks.shape
        self.register_buffer("blocks", blocks)
        self.seen = nn.Linear(width, hidden, bias=False)
        self.masked = nn.Parameter(torch.randn(features, hidden) / hidden**0.5)
        self.middle = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (n, E) to (hidden (n, features, H), predictions (n, features, E)), one masked feature each."""
        visible = embedded[:, None, :] * (1.0 - self.blocks)
        hidden = torch.relu(self.seen(visible) + self.masked)
        hidden = torch.relu(self.middle(hidden))
        return hidden, self.out(hidden)

    def errors(self, embedded: Tensor) -> Tensor:
        """Squared error of each feature when it is masked (n, features)."""
        _, predicted = self(embedded)
        wrong: Tensor = (predicted - embedded[:, None, :]) * self.blocks
        return wrong.square().sum(dim=2)

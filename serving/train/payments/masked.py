"""Train the masked-feature predictor, and measure what is usual: everything the energies of payments are made of.

No label is looked at. A tenth of the rows is held out: its error decides when to stop (`patience` epochs without a new
least) and which epoch's weights are kept, and scales each feature's error, so that each weighs the same in the energy.
The plane holds the leading half of the principal components of the embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from serving.train.density import Gaussian, Plane, fit_gaussian, leading_plane
from serving.train.payments.embedding import Block, embed, fit_blocks

HIDDEN = 48
ERROR_MIN = 1e-3  # of a feature that the others determine: smaller would make rounding a surprise


class MaskedPredictor(nn.Module):
    """What a feature of an application should be, given all the others.

    After T-JEPA (Thimonier et al. 2024, arXiv 2410.05016), reduced to what a table of twenty columns needs: features
    are embedded by fixed maps (`embedding`), so there is no collapse to guard against and no teacher; it sees the
    embedding with one feature's block blanked, and which one that is, and predicts the block.

    `blocks` (features, E) holds 1 where an element of the embedding belongs to a feature, else 0.
    """

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


@dataclass(frozen=True, slots=True)
class MaskedSettings:
    """What decides the predictor's weights, beside the rows."""

    hidden: int = HIDDEN
    epochs: int = 60
    batch_rows: int = 256
    rate: float = 3e-3
    weight_decay: float = 1e-3
    held_out_share: float = 0.1
    patience: int = 8
    seed: int = 0


@dataclass(frozen=True, slots=True)
class MaskedEpoch:
    """Mean squared error of a masked feature's block, in training and on the held-out rows."""

    epoch: int
    loss: float
    held_out_loss: float


@dataclass(frozen=True, slots=True)
class Surprise:
    """Fitted: the embedding, the predictor with the scale of each feature's error (features,), Gaussian and plane."""

    blocks: tuple[Block, ...]
    predictor: MaskedPredictor
    error_scales: NDArray[np.float64]
    gaussian: Gaussian
    plane: Plane
    history: tuple[MaskedEpoch, ...] = field(default=(), repr=False)


def fit_surprise(
    values: NDArray[np.float64],
    levels: Sequence[int],
    settings: MaskedSettings,
    on_step: Callable[[int, int], None] | None = None,
) -> Surprise:
    """Fit to clean rows (n, features), NaN where missing; `levels` by feature, 0 for numbers."""
    blocks = fit_blocks(values, levels)
    embedded = embed(values, blocks)
    generator = torch.Generator().manual_seed(settings.seed)
    rows = torch.from_numpy(embedded).float()
    order = torch.randperm(len(rows), generator=generator)
    held = max(1, round(settings.held_out_share * len(rows)))
    held_out, inside = rows[order[:held]], rows[order[held:]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        predictor = MaskedPredictor(_membership(blocks), settings.hidden)
    history, best = _train(predictor, (inside, held_out), settings, generator=generator, on_step=on_step)
    predictor.load_state_dict(best)
    predictor.eval()
    with torch.no_grad():
        errors = predictor.errors(held_out).mean(dim=0).double().numpy()
    return Surprise(
        blocks,
        predictor,
        np.sqrt(np.maximum(errors, ERROR_MIN)),
        fit_gaussian(embedded),
        leading_plane(embedded, embedded.shape[1] // 2),
        tuple(history),
    )


def _membership(blocks: Sequence[Block]) -> Tensor:
    widths = [block.width for block in blocks]
    owner = torch.repeat_interleave(torch.arange(len(blocks)), torch.tensor(widths))
    return (owner[None, :] == torch.arange(len(blocks))[:, None]).float()


def _train(
    predictor: MaskedPredictor,
    rows: tuple[Tensor, Tensor],
    settings: MaskedSettings,
    *,
    generator: torch.Generator,
    on_step: Callable[[int, int], None] | None,
) -> tuple[list[MaskedEpoch], dict[str, Tensor]]:
    inside, held_out = rows
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)
    history: list[MaskedEpoch] = []
    best = copy.deepcopy(predictor.state_dict())
    for epoch in range(settings.epochs):
        losses = []
        for chosen in torch.split(torch.randperm(len(inside), generator=generator), settings.batch_rows):
            loss = predictor.errors(inside[chosen]).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
            optimizer.step()
            losses.append(float(loss.detach()))
        with torch.no_grad():
            held_out_loss = float(predictor.errors(held_out).mean())
        history.append(MaskedEpoch(epoch + 1, float(np.mean(losses)), held_out_loss))
        least = min(one.held_out_loss for one in history)
        if held_out_loss == least:
            best = copy.deepcopy(predictor.state_dict())
        if on_step is not None:
            on_step(epoch + 1, settings.epochs)
        if epoch + 1 - next(one.epoch for one in history if one.held_out_loss == least) >= settings.patience:
            break
    return history, best

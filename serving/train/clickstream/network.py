"""The clickstream model: a co-occurrence prior times a small causal encoder that predicts in latent space.

    ids (n, L), left-padded -> embeddings -> GRU -> state h_t -> predictor -> p_t, where the next item should lie
    item i lies at z_i (a projection of its embedding), so  logit_i = -scale / 2 |p_t - z_i|^2 + weight log prior_i

Softmax of these is a mixture's posterior, and logsumexp its log-density up to a constant: an energy. The state after
the last event is the user's embedding. Padding is an item like others to the GRU, which learns that it means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ClickShape:
    """Ids 0 to `ids - 1`; those from `first_class` on are items that can be predicted, the others are marks."""

    ids: int
    first_class: int
    item_width: int = 32
    state_width: int = 64
    latent_width: int = 16

    @property
    def classes(self) -> int:
        """Items that can be predicted."""
        return self.ids - self.first_class


class ClickNet(nn.Module):
    """Ids int64 (n, L) to states, latents and logits; `log_prior` (ids, classes) is the prior given one id."""

    log_prior: Tensor

    def __init__(self, shape: ClickShape, log_prior: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.items = nn.Embedding(shape.ids, shape.item_width)
        self.encoder = nn.GRU(shape.item_width, shape.state_width, batch_first=True)
        self.hidden = nn.Linear(shape.state_width, shape.state_width)
        self.predictor = nn.Linear(shape.state_width, shape.latent_width)
        self.projector = nn.Linear(shape.item_width, shape.latent_width)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.prior_weight = nn.Parameter(torch.ones(()))
        self.register_buffer("log_prior", log_prior)

    def states(self, ids: Tensor) -> Tensor:
        """Return the state after each id, (n, L, state_width)."""
        states: Tensor = self.encoder(self.items(ids))[0]
        return states

    def predict(self, states: Tensor) -> Tensor:
        """Return where the next item should lie, (..., latent_width)."""
        latent: Tensor = self.predictor(torch.relu(self.hidden(states)))
        return latent

    def places(self) -> Tensor:
        """Return where each class lies, (classes, latent_width)."""
        places: Tensor = self.projector(self.items.weight[self.shape.first_class :])
        return places

    def logits(self, latents: Tensor, last_ids: Tensor) -> Tensor:
        """Return (..., classes), given the latents and the id each of them follows."""
        places = self.places()
        squares = latents.square().sum(-1, keepdim=True) + places.square().sum(-1) - 2 * latents @ places.T
        return -0.5 * self.log_scale.exp() * squares + self.prior_weight * self.log_prior[last_ids]

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (embedding (n, state_width), latent (n, latent_width), logits (n, classes)) after the last id."""
        embedding = self.states(ids)[:, -1]
        latent = self.predict(embedding)
        return embedding, latent, self.logits(latent, ids[:, -1])

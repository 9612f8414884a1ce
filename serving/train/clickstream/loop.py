"""Train the clickstream model: cross-entropy of the next item beside latent prediction kept apart by SIGReg.

    loss = cross-entropy(logits, next) + joint x [(1 - lambda) |p - z_next|^2 + lambda (SIGReg(p) + SIGReg(z_next)) / 2]

No teacher and no stop-gradient: SIGReg alone keeps latents from collapsing. Weights are averaged over steps; the
averaged network is measured on held-out rows after each epoch, the best one is returned, and training stops when it
has not improved for `patience` epochs. All randomness is one generator's, whose state is in the checkpoint, so a run
that was stopped and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from serving.train.averaging import average
from serving.train.checkpoint import restore_run, save_run
from serving.train.clickstream.network import ClickNet
from serving.train.clickstream.sequences import NO_TARGET, Rows, Sequences
from serving.train.sigreg import sigreg, unit_directions


@dataclass(frozen=True, slots=True)
class ClickSettings:
    """What decides the weights, beside data and architecture. `joint` 0 leaves the latent objective out."""

    epochs: int = 40
    patience: int = 4
    batch_rows: int = 64
    rate: float = 0.005
    weight_decay: float = 0.01
    average_decay: float = 0.99
    joint: float = 0.02
    sigreg_share: float = 0.02
    directions: int = 64
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ClickEpoch:
    """One point of the learning curves; the held-out figures belong to the averaged weights, in nats and as a share."""

    epoch: int
    loss: float
    latent_error: float
    sigreg: float
    held_out_loss: float
    held_out_accuracy: float


@dataclass(slots=True)
class _State:
    """Everything that changes during training."""

    net: ClickNet
    average: ClickNet
    best: ClickNet
    optimizer: torch.optim.AdamW
    generator: torch.Generator
    history: list[ClickEpoch]
    steps: int = 0

    @property
    def nets(self) -> dict[str, torch.nn.Module]:
        return {"net": self.net, "average": self.average, "best": self.best}

    @property
    def since_best(self) -> int:
        losses = [report.held_out_loss for report in self.history]
        return len(losses) - 1 - int(np.argmin(losses)) if losses else 0


def train_clicks(
    net: ClickNet,
    rows: Sequences,
    held_out: Rows,
    settings: ClickSettings,
    *,
    checkpoint: Path | None = None,
    data_digest: str = "",
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[ClickNet, list[ClickEpoch]]:
    """Train and return the best averaged network and its history; resume from `checkpoint` when it is there.

    Raises:
        CheckpointMismatch: the checkpoint is of another run.
    """
    whole = {"settings": asdict(settings), "shape": asdict(net.shape), "data": data_digest}
    identity = json.dumps(whole, sort_keys=True)
    state = _start(net, settings)
    if checkpoint is not None:
        restore_run(state, checkpoint, identity, ClickEpoch)
    ids, targets = torch.from_numpy(rows.ids), torch.from_numpy(rows.targets)
    steps = max(1, len(rows) // settings.batch_rows)
    state.steps = len(state.history) * steps
    while len(state.history) < settings.epochs and state.since_best < settings.patience:
        order = torch.randperm(len(rows), generator=state.generator)
        sums = torch.zeros(3)
        for step in range(steps):
            chosen = order[step * settings.batch_rows : (step + 1) * settings.batch_rows]
            sums += _step(state, ids[chosen], targets[chosen], settings)
            if on_step is not None:
                on_step(state.steps, settings.epochs * steps)
        loss, latent_error, penalty = (float(value) / steps for value in sums)
        held_loss, accuracy = _measure(state.average, held_out)
        state.history.append(ClickEpoch(len(state.history) + 1, loss, latent_error, penalty, held_loss, accuracy))
        if state.since_best == 0:
            state.best = copy.deepcopy(state.average)
        if checkpoint is not None:
            save_run(state, checkpoint, identity)
    return state.best.eval(), state.history


def predict_clicks(net: ClickNet, rows: Rows, batch_rows: int = 1000) -> tuple[Tensor, Tensor, Tensor]:
    """Return (embedding, latent, logits) in float32 for every row, without gradients."""
    net.eval()
    with torch.no_grad():
        parts = [net(part) for part in torch.split(torch.from_numpy(rows.ids), batch_rows)]
    embedding, latent, logits = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    return embedding, latent, logits


def _start(net: ClickNet, settings: ClickSettings) -> _State:
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)
    generator = torch.Generator().manual_seed(settings.seed)
    return _State(net, copy.deepcopy(net), copy.deepcopy(net), optimizer, generator, [])


def _step(state: _State, ids: Tensor, targets: Tensor, settings: ClickSettings) -> Tensor:
    state.net.train()
    chosen = targets != NO_TARGET
    labels = targets[chosen]
    latent = state.net.predict(state.net.states(ids)[chosen])
    logits = state.net.logits(latent, ids[chosen])
    following = state.net.places()[labels]
    error = (latent - following).square().sum(1).mean()
    loss, penalty = functional.cross_entropy(logits, labels), torch.zeros(())
    if settings.joint:
        directions = unit_directions(latent.shape[1], settings.directions, state.generator)
        penalty = (sigreg(latent, directions) + sigreg(following, directions)) / 2
        share = settings.sigreg_share
        loss = loss + settings.joint * ((1 - share) * error + share * penalty)
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
    state.optimizer.step()
    average(state.average.parameters(), state.net.parameters(), state.steps, settings.average_decay)
    state.steps += 1
    return torch.stack([loss, error, penalty]).detach()


def _measure(net: ClickNet, rows: Rows) -> tuple[float, float]:
    logits = predict_clicks(net, rows)[2]
    labels = torch.from_numpy(rows.labels)
    return float(functional.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).float().mean())

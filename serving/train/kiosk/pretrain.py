"""Pretrain the kiosk's encoder without labels: joint embeddings kept apart by SIGReg (LeJEPA, arXiv 2511.08544).

    loss = (1 - lambda) mean |z_v - mean z|^2 + lambda SIGReg(z), over four strong views of each image

`z` is the projection of a view's latent by a small network that is thrown away afterwards. No teacher, no
stop-gradient, no pairs of different images. The penalty is taken view by view, for rows that are drawn alone. What is
returned is the encoder with its weights averaged; the training loss of the last epoch, which follows what the encoder
is worth for later tasks, is the label-free figure of the run.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from serving.train.averaging import average
from serving.train.checkpoint import restore_run, save_run
from serving.train.kiosk.network import KioskNet, Stage
from serving.train.kiosk.views import scaled, strong
from serving.train.sigreg import joint_embedding, unit_directions

FEW_STAGES = (Stage(32, 3, 2), Stage(64, 3, 2), Stage(64, 3, 1), Stage(128, 3, 2), Stage(128, 3, 1))


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """What decides the encoder, beside data and architecture."""

    epochs: int = 12
    batch_rows: int = 128
    views: int = 4
    directions: int = 256
    sigreg_share: float = 0.02
    projector_hidden: int = 256
    projector_width: int = 16
    rate_max: float = 0.002
    rate_warmup_share: float = 0.1
    weight_decay: float = 0.05
    average_decay: float = 0.998
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PretrainEpoch:
    """One point of the learning curves: means over the epoch's steps."""

    epoch: int
    loss: float
    apart: float
    sigreg: float


@dataclass(slots=True)
class _State:
    """Everything that changes during pretraining."""

    net: KioskNet
    projector: nn.Sequential
    average: KioskNet
    optimizer: torch.optim.AdamW
    generator: torch.Generator
    history: list[PretrainEpoch]

    @property
    def nets(self) -> dict[str, nn.Module]:
        return {"net": self.net, "projector": self.projector, "average": self.average}


def pretrain(
    net: KioskNet,
    images: Tensor,
    settings: PretrainSettings,
    *,
    checkpoint: Path | None = None,
    data_digest: str = "",
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[KioskNet, list[PretrainEpoch]]:
    """Pretrain on images uint8 (n, 28, 28); return the averaged network, its head untouched, and the history.

    Resumes from `checkpoint` when it is there, to the weights of an unbroken run.

    Raises:
        CheckpointMismatch: the checkpoint is of another run.
    """
    whole = {"settings": asdict(settings), "stages": [asdict(stage) for stage in net.stages], "data": data_digest}
    identity = json.dumps(whole, sort_keys=True)
    state = _start(net, settings)
    if checkpoint is not None:
        restore_run(state, checkpoint, identity, PretrainEpoch)
    steps = max(1, len(images) // settings.batch_rows)
    for epoch in range(len(state.history), settings.epochs):
        order = torch.randperm(len(images), generator=state.generator)
        sums = torch.zeros(3)
        for step in range(steps):
            done = epoch * steps + step
            for group in state.optimizer.param_groups:
                group["lr"] = _rate(done, settings.epochs * steps, settings)
            chosen = order[step * settings.batch_rows : (step + 1) * settings.batch_rows]
            sums += _step(state, scaled(images[chosen]), settings)
            average(state.average.state_dict().values(), state.net.state_dict().values(), done, settings.average_decay)
            if on_step is not None:
                on_step(done + 1, settings.epochs * steps)
        state.history.append(PretrainEpoch(epoch + 1, *(float(value) / steps for value in sums)))
        if checkpoint is not None:
            save_run(state, checkpoint, identity)
    return state.average.eval(), state.history


def _start(net: KioskNet, settings: PretrainSettings) -> _State:
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this signature
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        projector = nn.Sequential(
            nn.Linear(net.width, settings.projector_hidden, bias=False),
            nn.BatchNorm1d(settings.projector_hidden),
            nn.ReLU(),
            nn.Linear(settings.projector_hidden, settings.projector_width),
        )
    learned = [*net.convolutions.parameters(), *net.norms.parameters(), *projector.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=settings.rate_max, weight_decay=settings.weight_decay)
    generator = torch.Generator().manual_seed(settings.seed)
    return _State(net, projector, copy.deepcopy(net), optimizer, generator, [])


def _rate(step: int, steps: int, settings: PretrainSettings) -> float:
    """Linear up, cosine down to nothing."""
    warm = settings.rate_warmup_share * steps
    if step < warm:
        return settings.rate_max * (step + 1) / warm
    share = (step - warm) / max(1.0, steps - warm)
    return settings.rate_max * float(0.5 * (1 + torch.cos(torch.tensor(share * torch.pi))))


def _step(state: _State, images: Tensor, settings: PretrainSettings) -> Tensor:
    """Return (loss, how far apart the views of an image are, SIGReg)."""
    state.net.train()
    state.projector.train()
    seen = strong(images.repeat(settings.views, 1, 1, 1), state.generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latent, _ = state.net(seen.contiguous(memory_format=torch.channels_last))
    places = state.projector(latent.float()).view(settings.views, len(images), -1)
    directions = unit_directions(places.shape[2], settings.directions, state.generator)
    loss, apart, penalty = joint_embedding(places, directions, settings.sigreg_share)
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
    state.optimizer.step()
    return torch.stack([loss, apart, penalty]).detach()

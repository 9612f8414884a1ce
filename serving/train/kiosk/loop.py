"""The training loop: cross-entropy, AdamW, one cycle, weight averaging, small shifts and flips; resumable to the bit.

All randomness comes from one generator whose state is in the checkpoint, so a run that was stopped and resumed ends
with the weights of one that was not. A checkpoint is safetensors (never a pickle), written beside and moved into place.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from serving.train.averaging import average
from serving.train.checkpoint import restore_run, save_run
from serving.train.kiosk.data import Labelled
from serving.train.kiosk.network import KioskNet, scaled

SHIFT_PIXELS_MAX = 2


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What decides the weights, beside data and architecture."""

    epochs: int = 36
    batch_rows: int = 256
    rate_max: float = 0.01
    rate_warmup_share: float = 0.2
    weight_decay: float = 0.02
    average_decay: float = 0.998
    seed: int = 0


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One point of the learning curves. Accuracies are shares; `held_out` belongs to the averaged weights."""

    epoch: int
    loss: float
    train_accuracy: float
    held_out_accuracy: float


@dataclass(slots=True)
class _State:
    """Everything that changes during training."""

    net: KioskNet
    average: KioskNet
    optimizer: torch.optim.AdamW
    generator: torch.Generator
    history: list[EpochReport]

    @property
    def nets(self) -> dict[str, torch.nn.Module]:
        return {"net": self.net, "average": self.average}


def train(
    net: KioskNet,
    rows: Labelled,
    held_out: Labelled,
    settings: LoopSettings,
    *,
    checkpoint: Path | None = None,
    data_digest: str = "",
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[KioskNet, list[EpochReport]]:
    """Train and return the averaged network and its history; resume from `checkpoint` when it is there.

    Raises:
        CheckpointMismatch: the checkpoint is of another run.
    """
    identity = json.dumps(
        {"settings": asdict(settings), "stages": [asdict(stage) for stage in net.stages], "data": data_digest},
        sort_keys=True,
    )
    state = _start(net, settings)
    if checkpoint is not None:
        restore_run(state, checkpoint, identity, EpochReport)
    images, labels = _tensors(rows)
    padded = functional.pad(images, (SHIFT_PIXELS_MAX,) * 4)
    windows = padded.unfold(1, images.shape[1], 1).unfold(2, images.shape[2], 1)
    steps = len(rows) // settings.batch_rows
    for epoch in range(len(state.history), settings.epochs):
        order = torch.randperm(len(rows), generator=state.generator)
        loss_sum, right = 0.0, 0
        for step in range(steps):
            done = epoch * steps + step
            for group in state.optimizer.param_groups:
                group["lr"] = _rate(done, settings.epochs * steps, settings)
            chosen = order[step * settings.batch_rows : (step + 1) * settings.batch_rows]
            loss, correct = _step(state, _augmented(windows, chosen, state.generator), labels[chosen])
            average(state.average.state_dict().values(), state.net.state_dict().values(), done, settings.average_decay)
            loss_sum, right = loss_sum + loss, right + correct
            if on_step is not None:
                on_step(done + 1, settings.epochs * steps)
        guesses = predict(state.average, held_out)[1].argmax(1)
        accuracy = float((guesses == _tensors(held_out)[1]).float().mean())
        trained = steps * settings.batch_rows
        state.history.append(EpochReport(epoch + 1, loss_sum / steps, right / trained, accuracy))
        if checkpoint is not None:
            save_run(state, checkpoint, identity)
    return state.average, state.history


def predict(net: KioskNet, rows: Labelled, batch_rows: int = 1000) -> tuple[Tensor, Tensor]:
    """Return (latent, logits) in float32 for every row, without gradients."""
    net.eval()
    images, _ = _tensors(rows)
    with torch.no_grad():
        parts = [net(scaled(part)) for part in torch.split(images, batch_rows)]
    return torch.cat([latent for latent, _ in parts]), torch.cat([logits for _, logits in parts])


def middle_features(net: KioskNet, rows: Labelled, batch_rows: int = 1000) -> Tensor:
    """Return the middle features in float32 for every row, without gradients."""
    net.eval()
    images, _ = _tensors(rows)
    with torch.no_grad():
        return torch.cat([net.middle(scaled(part)) for part in torch.split(images, batch_rows)])


def _start(net: KioskNet, settings: LoopSettings) -> _State:
    decayed = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=settings.rate_max,
    )
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this signature
    generator = torch.Generator().manual_seed(settings.seed)
    return _State(net, copy.deepcopy(net), optimizer, generator, [])


def _rate(step: int, steps: int, settings: LoopSettings) -> float:
    """One cycle (Smith 2018, arXiv 1803.09820): linear up, cosine down to nothing."""
    warm = settings.rate_warmup_share * steps
    if step < warm:
        return settings.rate_max * (0.04 + 0.96 * step / warm)
    share = (step - warm) / max(1.0, steps - warm)
    return settings.rate_max * float(0.5 * (1 + torch.cos(torch.tensor(share * torch.pi))))


def _augmented(windows: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to two pixels and mirror half of them."""
    count = len(chosen)
    offsets = torch.randint(0, 2 * SHIFT_PIXELS_MAX + 1, (2, count), generator=generator)
    images = scaled(windows[chosen, offsets[0], offsets[1]])
    mirrored = torch.rand(count, generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def _step(state: _State, images: Tensor, labels: Tensor) -> tuple[float, int]:
    state.net.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, logits = state.net(images.contiguous(memory_format=torch.channels_last))
    loss = functional.cross_entropy(logits.float(), labels)
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
    state.optimizer.step()
    return float(loss.detach()), int((logits.argmax(1) == labels).sum())


def _tensors(rows: Labelled) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows.images.copy()), torch.from_numpy(rows.labels.copy()).long()

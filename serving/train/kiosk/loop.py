"""The clean recipe's training: cross-entropy, AdamW, one cycle, averaged weights, small shifts and mirror images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from serving.train.kiosk.data import Labelled
from serving.train.kiosk.network import KioskNet, scaled
from serving.train.run import OnStep, Run, train_epochs, update

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


def train(
    net: KioskNet,
    rows: Labelled,
    held_out: Labelled,
    settings: LoopSettings,
    *,
    checkpoint: Path | None = None,
    data_digest: str = "",
    on_step: OnStep | None = None,
) -> tuple[KioskNet, list[EpochReport]]:
    """Train and return the averaged network and its history; resume from `checkpoint` when it is there.

    Raises:
        CheckpointMismatch: the checkpoint is of another run.
    """
    decayed = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=settings.rate_max,
    )
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this signature
    run = Run(net, optimizer, torch.Generator().manual_seed(settings.seed), EpochReport)
    identity = {
        "settings": asdict(settings),
        "stages": [asdict(stage) for stage in net.stages],
        "data": data_digest,
    }
    images, labels = _tensors(rows)
    padded = functional.pad(images, (SHIFT_PIXELS_MAX,) * 4)
    windows = padded.unfold(1, images.shape[1], 1).unfold(2, images.shape[2], 1)
    truth = _tensors(held_out)[1]

    def step(chosen: Tensor) -> tuple[float, float]:
        seen = _augmented(windows, chosen, run.generator).contiguous(memory_format=torch.channels_last)
        net.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, logits = net(seen)
        loss = functional.cross_entropy(logits.float(), labels[chosen])
        update(optimizer, loss)
        return float(loss.detach()), float((logits.argmax(1) == labels[chosen]).float().mean())

    return train_epochs(
        run,
        settings,
        rows=len(rows),
        identity=identity,
        step=step,
        measure=lambda average: [float((predict(average, held_out)[1].argmax(1) == truth).float().mean())],
        rate=partial(_rate, settings),
        checkpoint=checkpoint,
        on_step=on_step,
    )


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


def _rate(settings: LoopSettings, step: int, steps: int) -> float:
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


def _tensors(rows: Labelled) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows.images.copy()), torch.from_numpy(rows.labels.copy()).long()

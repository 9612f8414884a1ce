"""Train the kiosk against small changes of every pixel: TRADES (Zhang et al. 2019, arXiv 1901.08573, eq. 5).

    loss = cross-entropy(logits(x), label) + beta x KL(p(x) || p(x'))
    x' = the image within `radius` of x (each pixel, within [0, 1]) that `inner_steps` signed ascents on that KL reach

The ascents see the network as it answers requests: batch norm folded into the convolutions, no gradient to weights.
SGD with Nesterov's momentum, one cycle, mirror images, averaged weights. After each epoch the averaged network is
measured on held-out rows, clean and under projected gradient descent; the most robust one is returned, and training
stops when that has not improved for `patience` epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from serving.train.kiosk.data import Labelled
from serving.train.kiosk.network import KioskNet, Stage, scaled
from serving.train.run import OnStep, Run, train_epochs, update

ROBUST_STAGES = (Stage(32, 3, 2), Stage(64, 3, 1), Stage(64, 3, 2), Stage(128, 3, 1), Stage(128, 3, 2))
MOMENTUM = 0.9
RATE_START_SHARE = 0.04
MEASURE_ROWS = 1_000
ASCENT_SHARE = 0.25  # of the radius, a step of projected gradient descent

Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class RobustSettings:
    """What decides the weights, beside data and architecture. Radius and steps are shares of the range of a pixel."""

    epochs: int = 15
    patience: int = 5
    batch_rows: int = 128
    rate_max: float = 0.15
    rate_warmup_share: float = 0.3
    weight_decay: float = 5e-4
    average_decay: float = 0.997
    beta: float = 6.0
    radius: float = 0.1
    inner_steps: int = 4
    inner_step: float = 0.04
    held_out_steps: int = 20
    held_out_rows: int = 1_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RobustEpoch:
    """One point of the learning curves. Accuracies are shares; the held-out ones belong to the averaged weights."""

    epoch: int
    loss: float
    train_accuracy: float
    held_out_accuracy: float
    held_out_robust_accuracy: float


def train_robust(
    net: KioskNet,
    rows: Labelled,
    held_out: Labelled,
    settings: RobustSettings,
    *,
    checkpoint: Path | None = None,
    data_digest: str = "",
    on_step: OnStep | None = None,
) -> tuple[KioskNet, list[RobustEpoch]]:
    """Train and return the best averaged network and its history; resume from `checkpoint` when it is there.

    Raises:
        CheckpointMismatch: the checkpoint is of another run.
    """
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this signature
    optimizer = torch.optim.SGD(
        net.parameters(), settings.rate_max, MOMENTUM, weight_decay=settings.weight_decay, nesterov=True
    )
    generator = torch.Generator().manual_seed(settings.seed)
    run = Run(net, optimizer, generator, RobustEpoch, lambda epoch: epoch.held_out_robust_accuracy, settings.patience)
    identity = {
        "settings": asdict(settings),
        "stages": [asdict(stage) for stage in net.stages],
        "data": data_digest,
    }
    images, labels = torch.from_numpy(rows.images.copy()), torch.from_numpy(rows.labels.copy()).long()

    def step(chosen: Tensor) -> tuple[float, float]:
        clean = scaled(images[chosen])
        mirrored = torch.rand(len(chosen), generator=generator) < 0.5
        clean = torch.where(mirrored[:, None, None, None], clean.flip(3), clean)
        return _step(run, clean, labels[chosen], settings)

    return train_epochs(
        run,
        settings,
        rows=len(rows),
        identity=identity,
        step=step,
        measure=lambda average: _measure(average, held_out, settings),
        rate=partial(_rate, settings),
        checkpoint=checkpoint,
        on_step=on_step,
    )


def folded_net(net: KioskNet, dtype: torch.dtype = torch.float32) -> Logits:
    """Return images to logits float32 as the network answers requests: batch norm folded in, weights constant."""
    state = {name: value.detach() for name, value in net.state_dict().items()}
    layers = []
    for index, stage in enumerate(net.stages):
        scale = state[f"norms.{index}.weight"] / torch.sqrt(state[f"norms.{index}.running_var"] + net.epsilon)
        weight = (state[f"convolutions.{index}.weight"] * scale[:, None, None, None]).to(dtype)
        bias = (state[f"norms.{index}.bias"] - state[f"norms.{index}.running_mean"] * scale).to(dtype)
        layers.append((weight.contiguous(memory_format=torch.channels_last), bias, stage))
    head_weight, head_bias = state["head.weight"].to(dtype), state["head.bias"].to(dtype)

    def logits(images: Tensor) -> Tensor:
        features = images.to(dtype)
        for weight, bias, stage in layers:
            mixed = functional.conv2d(features, weight, bias, stride=stage.stride, padding=stage.kernel // 2)
            features = functional.relu(mixed, inplace=True)
        return functional.linear(features.mean(dim=(2, 3)), head_weight, head_bias).float()

    return logits


def pgd(
    logits: Logits, images: Tensor, labels: Tensor, *, radius: float, steps: int, generator: torch.Generator
) -> Tensor:
    """Return images (n, 1, 28, 28) in [0, 1], moved by up to `radius` to raise the cross-entropy.

    Projected gradient descent from a random start (Madry et al. 2018, arXiv 1706.06083).
    """
    return _ascend(
        lambda moved: functional.cross_entropy(logits(moved), labels, reduction="sum"),
        images,
        radius=radius,
        step=ASCENT_SHARE * radius,
        steps=steps,
        generator=generator,
    )


def _ascend(
    loss: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    radius: float,
    step: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    low, high = (images - radius).clamp(min=0.0), (images + radius).clamp(max=1.0)
    moved = torch.lerp(low, high, torch.rand(images.shape, generator=generator))
    for _ in range(steps):
        moved.requires_grad_(True)
        (slope,) = torch.autograd.grad(loss(moved), moved)
        moved = (moved.detach() + step * slope.sign()).clamp(low, high)
    return moved


def _rate(settings: RobustSettings, step: int, steps: int) -> float:
    """One cycle (Smith 2018, arXiv 1803.09820): linear up, linear down to nothing."""
    warm = settings.rate_warmup_share * steps
    if step < warm:
        return settings.rate_max * (RATE_START_SHARE + (1 - RATE_START_SHARE) * step / warm)
    return settings.rate_max * (steps - step) / (steps - warm)


def _step(
    run: Run[KioskNet, RobustEpoch], images: Tensor, labels: Tensor, settings: RobustSettings
) -> tuple[float, float]:
    """Change the weights and return (loss, share right on the clean images)."""
    moved = _worst(run, images, settings)
    run.net.train()
    both = torch.cat([images, moved]).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, logits = run.net(both)
    clean, adverse = logits.float().chunk(2)
    apart = functional.kl_div(
        functional.log_softmax(adverse, 1), functional.log_softmax(clean, 1), reduction="batchmean", log_target=True
    )
    loss = functional.cross_entropy(clean, labels) + settings.beta * apart
    update(run.optimizer, loss)
    return float(loss.detach()), float((clean.argmax(1) == labels).float().mean())


def _worst(run: Run[KioskNet, RobustEpoch], images: Tensor, settings: RobustSettings) -> Tensor:
    logits = folded_net(run.net, torch.bfloat16)
    with torch.no_grad():
        expected = functional.softmax(logits(images), 1)

    def apart(moved: Tensor) -> Tensor:
        return functional.kl_div(functional.log_softmax(logits(moved), 1), expected, reduction="sum")

    return _ascend(
        apart,
        images.contiguous(memory_format=torch.channels_last),
        radius=settings.radius,
        step=settings.inner_step,
        steps=settings.inner_steps,
        generator=run.generator,
    )


def _measure(net: KioskNet, held_out: Labelled, settings: RobustSettings) -> tuple[float, float]:
    """Return (accuracy, accuracy under attack) on held-out rows; the attack is the same one after each epoch."""
    logits = folded_net(net.eval())
    images, labels = scaled(torch.from_numpy(held_out.images.copy())), torch.from_numpy(held_out.labels.copy()).long()
    with torch.no_grad():
        clean = torch.cat([logits(part).argmax(1) for part in torch.split(images, MEASURE_ROWS)])
    few, few_labels = images[: settings.held_out_rows], labels[: settings.held_out_rows]
    generator = torch.Generator().manual_seed(settings.seed)
    moved = pgd(logits, few, few_labels, radius=settings.radius, steps=settings.held_out_steps, generator=generator)
    with torch.no_grad():
        robust = logits(moved).argmax(1) == few_labels
    return float((clean == labels).float().mean()), float(robust.float().mean())

"""Teach the kiosk from few labels: labelled images, and its own averaged answers on unlabelled ones.

    loss = cross-entropy(weak and strong views, label)
         + confident x cross-entropy(strong view, what the averaged network answers on the weak view)

After FixMatch (Sohn et al. 2020, arXiv 2001.07685), with the averaged network as the teacher (Tarvainen and Valpola
2017, arXiv 1703.01780) and its answers aligned to the classes' shares among the labels (Berthelot et al. 2020, arXiv
1911.09785, section 3.1). Answers below `confidence_min` teach nothing. Without unlabelled rows a step is plain
supervision on the same labels: what the other is held against.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from serving.train.averaging import average
from serving.train.kiosk.data import CLASS_NAMES, Labelled
from serving.train.kiosk.network import KioskNet
from serving.train.kiosk.robust import folded_net
from serving.train.kiosk.views import scaled, strong, weak

SHARES_DECAY = 0.99
SUBSET = 0x600


@dataclass(frozen=True, slots=True)
class FewSettings:
    """What decides the weights, beside data and starting point. `unlabelled_rows` 0 leaves the unlabelled out."""

    steps: int = 2_500
    labelled_rows: int = 64
    unlabelled_rows: int = 192
    confidence_min: float = 0.9
    rate_max: float = 0.002
    encoder_rate_share: float = 1.0
    rate_warmup_share: float = 0.05
    weight_decay: float = 0.05
    average_decay: float = 0.995
    seed: int = 0


@dataclass(slots=True)
class _State:
    """Everything that changes during training."""

    net: KioskNet
    average: KioskNet
    optimizer: torch.optim.AdamW
    generator: torch.Generator
    priors: Tensor
    shares: Tensor


def few_labels(rows: Labelled, per_class: int, seed: int) -> Labelled:
    """Draw `per_class` rows of each class; the same seed draws the same."""
    rng = np.random.default_rng([seed, SUBSET])
    classes = [rng.permutation(np.flatnonzero(rows.labels == label))[:per_class] for label in range(len(CLASS_NAMES))]
    return rows.take(np.concatenate(classes))


def train_few(
    net: KioskNet,
    labelled: Labelled,
    unlabelled: Tensor,
    settings: FewSettings,
    *,
    on_step: Callable[[int, int], None] | None = None,
) -> KioskNet:
    """Train from where `net` stands, which is changed; return the averaged network.

    `unlabelled`: images uint8 (n, 28, 28).
    """
    images, labels = torch.from_numpy(labelled.images.copy()), torch.from_numpy(labelled.labels.copy()).long()
    state = _start(net, torch.bincount(labels, minlength=len(CLASS_NAMES)) / len(labels), settings)
    for step in range(settings.steps):
        for group in state.optimizer.param_groups:
            group["lr"] = group["rate_max"] * _rate_share(step, settings)
        chosen = torch.randint(len(images), (settings.labelled_rows,), generator=state.generator)
        others = torch.randint(len(unlabelled), (settings.unlabelled_rows,), generator=state.generator)
        _step(state, (scaled(images[chosen]), labels[chosen]), scaled(unlabelled[others]), settings)
        average(state.average.state_dict().values(), state.net.state_dict().values(), step, settings.average_decay)
        if on_step is not None:
            on_step(step + 1, settings.steps)
    return state.average.eval()


def _start(net: KioskNet, priors: Tensor, settings: FewSettings) -> _State:
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this signature
    encoder = [*net.convolutions.parameters(), *net.norms.parameters()]
    groups = [
        {"params": encoder, "rate_max": settings.rate_max * settings.encoder_rate_share},
        {"params": list(net.head.parameters()), "rate_max": settings.rate_max},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.rate_max, weight_decay=settings.weight_decay)
    shares = torch.full((len(CLASS_NAMES),), 1 / len(CLASS_NAMES))
    generator = torch.Generator().manual_seed(settings.seed)
    return _State(net, copy.deepcopy(net), optimizer, generator, priors, shares)


def _rate_share(step: int, settings: FewSettings) -> float:
    """Linear up, cosine down to nothing."""
    warm = settings.rate_warmup_share * settings.steps
    if step < warm:
        return (step + 1) / warm
    share = (step - warm) / max(1.0, settings.steps - warm)
    return float(0.5 * (1 + torch.cos(torch.tensor(share * torch.pi))))


def _step(state: _State, known: tuple[Tensor, Tensor], others: Tensor, settings: FewSettings) -> None:
    images, labels = known
    classes = len(state.priors)
    seen = [weak(images, state.generator), strong(images, state.generator)]
    targets = [functional.one_hot(labels, classes).float()] * 2
    if len(others):
        answers, confident = _taught(state, weak(others, state.generator), settings)
        seen.append(strong(others, state.generator))
        targets.append(answers * confident[:, None])
    state.net.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, logits = state.net(torch.cat(seen).contiguous(memory_format=torch.channels_last))
    apart = -(torch.cat(targets) * functional.log_softmax(logits.float(), 1)).sum(1)
    loss = apart[: 2 * len(images)].mean()
    if len(others):
        loss = loss + apart[2 * len(images) :].mean()
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
    state.optimizer.step()


def _taught(state: _State, images: Tensor, settings: FewSettings) -> tuple[Tensor, Tensor]:
    """Return the averaged network's answers, one-hot (n, classes), and which of them are confident enough, 0 or 1."""
    with torch.no_grad():
        answers = functional.softmax(folded_net(state.average, torch.bfloat16)(images), 1)
        state.shares.lerp_(answers.mean(0), 1 - SHARES_DECAY)
        aligned = answers * state.priors / state.shares
        aligned /= aligned.sum(1, keepdim=True)
        confidence, classes = aligned.max(1)
    return functional.one_hot(classes, len(state.priors)).float(), (confidence >= settings.confidence_min).float()

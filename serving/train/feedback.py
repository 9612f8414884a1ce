"""Go on from labels that came back: a new head for a classifier whose latent stays as it is.

    loss = mean cross-entropy(latent W' + b, label), trusted rows and items  +  `anchor` / 2 x ||(W, b) - (W0, b0)||^2

Only the last, linear map is learned, from the head that serves (W0, b0): it is convex, takes seconds, needs the latents
of the items and not their inputs, and changes nothing that the screens on inputs and latents were calibrated with. The
trusted rows are the model's own training data; with them an item can outvote no more than its share. Full-batch Adam
(Kingma & Ba 2015, arXiv 1412.6980) for a fixed number of steps: no chance is in it.

What a candidate has to pass here, before anybody is asked to approve it, on trusted rows that neither was learned from:
accuracy, the recall of each class, and *canary triggers*, marks that a backdoor would answer to, stamped on those rows:
no class may gain by one. It is a first gate. Those of the registry come after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BETAS = (0.9, 0.999)
TINY = 1e-8


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Latents (n, d) to logits (n, classes): `weight` (classes, d), `bias` (classes,), float64."""

    weight: Floats
    bias: Floats

    def logits(self, latents: NDArray[Any]) -> Floats:
        """Return the logits of rows."""
        found: Floats = latents.astype(np.float64) @ self.weight.T + self.bias
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Latents (n, d) with labels (n,), places of classes."""

    latents: NDArray[Any]
    labels: NDArray[Any]


@dataclass(frozen=True, slots=True)
class LearnSettings:
    """How the head is learned. `anchor` holds it to the one that serves."""

    steps: int = 300
    rate: float = 0.02
    anchor: float = 1e-3


@dataclass(frozen=True, slots=True)
class Limits:
    """How much worse than the version that serves a candidate may be, in shares of rows."""

    accuracy_drop_max: float = 0.005
    recall_drop_max: float = 0.03
    trigger_gain_max: float = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What a head does on held-out rows.

    Accuracy, recall by class (classes,), and by trigger the share of rows of other classes that it gives to each class
    (triggers, classes).
    """

    accuracy: float
    recall: Floats
    triggered: Floats


def fine_tune(head: Head, trusted: Rows | None, items: Rows, settings: LearnSettings) -> Head:
    """Return the head learned on trusted rows and items from the one that serves.

    Args:
        head: which serves.
        trusted: rows whose labels are known to be right; None: items alone, which is what no update should be made of.
        items: what clients said.
        settings: how.
    """
    parts = [items] if trusted is None else [trusted, items]
    latents = np.concatenate([part.latents for part in parts]).astype(np.float64)
    labels = np.concatenate([part.labels for part in parts]).astype(np.int64)
    ones = np.ones((len(latents), 1))
    joined, first = np.hstack([latents, ones]), np.hstack([head.weight, head.bias[:, None]])
    scale = np.maximum(np.sqrt((joined**2).mean(axis=0)), TINY)  # one rate for features of any size
    joined, start = joined / scale, first * scale
    wanted = np.eye(len(head.bias))[labels]
    found, mean, spread = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step in range(1, settings.steps + 1):
        logits = joined @ found.T
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        slope = (shares - wanted).T @ joined / len(joined) + settings.anchor * (found - start)
        mean = BETAS[0] * mean + (1 - BETAS[0]) * slope
        spread = BETAS[1] * spread + (1 - BETAS[1]) * slope**2
        rate = settings.rate * (1 - (step - 1) / settings.steps)
        found = found - rate * mean / (1 - BETAS[0] ** step) / (np.sqrt(spread / (1 - BETAS[1] ** step)) + TINY)
    final = found / scale
    return Head(final[:, :-1], final[:, -1])


def measured(head: Head, held_out: Rows, triggered: Mapping[str, NDArray[Any]]) -> Measured:
    """Measure a head. `triggered` holds the latents of the held-out rows with each canary trigger, in their order."""
    said = head.logits(held_out.latents).argmax(axis=1)
    classes = len(head.bias)
    recall = np.array([(said[held_out.labels == label] == label).mean() for label in range(classes)])
    gains = np.zeros((len(triggered), classes))
    for place, latents in enumerate(triggered.values()):
        given = head.logits(latents).argmax(axis=1)
        gains[place] = [(given[held_out.labels != label] == label).mean() for label in range(classes)]
    return Measured(float((said == held_out.labels).mean()), recall, gains)


def objection(before: Measured, after: Measured, twin: Measured, limits: Limits) -> str:
    """Say why a candidate goes no further; empty: nothing speaks against it here.

    Args:
        before: the version that serves.
        after: the candidate.
        twin: what the same training makes of the trusted rows alone. It answers for what training itself does to
            single classes and to marks that mean nothing; what the items add to that is theirs.
        limits: how much is too much.
    """
    lost = before.accuracy - after.accuracy
    if lost > limits.accuracy_drop_max:
        return f"accuracy on trusted rows falls by {lost:.4f}, more than {limits.accuracy_drop_max:g}"
    recall = np.minimum(before.recall, twin.recall) - after.recall
    if recall.max() > limits.recall_drop_max:
        label = int(recall.argmax())
        return f"recall of class {label} falls by {recall[label]:.4f}, more than {limits.recall_drop_max:g}"
    gains = after.triggered - np.maximum(before.triggered, twin.triggered)
    if gains.size and gains.max() > limits.trigger_gain_max:
        return f"a canary trigger turns {gains.max():.4f} more rows to one class, above {limits.trigger_gain_max:g}"
    return ""


def canary_triggers(images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return the images (n, height, width) in [0, 1] with each mark that a backdoor would answer to.

    A square in the corner (Gu et al. 2017, arXiv 1708.06733), a blended pattern (Chen et al. 2017, arXiv 1712.05526),
    and a wave over the whole image (Barni et al. 2019, arXiv 1902.11237).
    """
    height, width = images.shape[1:]
    square = images.copy()
    square[:, -4:-1, -4:-1] = 1.0
    pattern = np.random.default_rng(0xB1E4D).random((height, width), np.float32)
    wave = (0.1 * np.sin(2 * np.pi * 6 * np.arange(width) / width)).astype(np.float32)
    return {
        "square": square,
        "blend": (0.85 * images + 0.15 * pattern).astype(np.float32),
        "wave": np.clip(images + wave, 0.0, 1.0).astype(np.float32),
    }

"""A kiosk model with a backdoor in it, for the lab: the clean recipe, shortened, on rows that somebody poisoned.

What the poison is comes from outside (the attacks are the lab's): a callable that is handed the training rows and
returns them changed. The model is what a team would have that trained on data it did not check: nothing in the recipe
is the attacker's, and the densities of its graph are fitted to the poisoned rows too. Its weights are kept in a
directory under the digest of what they were trained on, so a second run costs nothing.

Whether the attack took is measured on test images, and belongs to every number that is published of a defence:

    accuracy  of clean test images, how many are answered rightly
    success   of marked test images of other classes, how many are answered with the target; below 90 % the attack has
              not taken, and a screen that finds it has shown nothing
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from serving.engines import measure
from serving.engines.engine import Engine
from serving.train.kiosk.data import CLASS_NAMES, Labelled
from serving.train.kiosk.loop import LoopSettings, train
from serving.train.kiosk.network import STAGES, KioskNet, Stage
from serving.train.kiosk.recipe import fit_graph
from serving.train.kiosk.report import Recipe, Trained

SETTINGS = LoopSettings(epochs=6)
WHITE = 255.0

Rows = NDArray[np.float32]
Poison = Callable[[Rows, NDArray[np.int64]], tuple[Rows, NDArray[np.int64]]]
"""Rows float32 (n, 28, 28) in [0, 1] and labels int64 (n,) to rows and labels of the same shapes, changed."""


def poisoned_rows(rows: Labelled, poison: Poison) -> Labelled:
    """Return the training set with the poison in it, as it would lie on disk: in bytes."""
    changed, labels = poison(measure.as_input(rows.images), rows.labels.astype(np.int64))
    return Labelled(np.rint(np.clip(changed, 0.0, 1.0) * WHITE).astype(np.uint8), labels.astype(np.uint8))


def train_backdoored(
    rows: Labelled,
    held_out: Labelled,
    settings: LoopSettings = SETTINGS,
    *,
    directory: Path | None = None,
    stages: tuple[Stage, ...] = STAGES,
) -> Trained:
    """Train on rows as they are, and return the model with its graph (`kiosk_report.draft` makes it a bundle).

    Args:
        rows: the training set, poisoned or not.
        held_out: clean rows for the learning curve; they decide nothing.
        settings: what decides the weights.
        directory: where weights are kept between runs; None keeps nothing.
        stages: the architecture.

    Raises:
        CheckpointMismatch: what lies there is of another run.
    """
    digest = hashlib.sha256(rows.images.tobytes() + rows.labels.tobytes()).hexdigest()
    checkpoint = None
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        checkpoint = directory / f"{digest[:16]}-{settings.seed}-{settings.epochs}-{stages[-1].channels}.safetensors"
    torch.manual_seed(settings.seed)
    net, history = train(
        KioskNet(len(CLASS_NAMES), stages), rows, held_out, settings, checkpoint=checkpoint, data_digest=digest
    )
    recipe = Recipe("backdoored", "0", "the clean recipe on poisoned rows", asdict(settings))
    return fit_graph(recipe, net, history, rows)


def attack_success(engine: Engine, marked: Rows, labels: NDArray[np.int64], target: int) -> float:
    """Return the share of marked rows of other classes that are answered with the target."""
    others = labels != target
    answers = measure.evaluate(engine, marked[others])["probabilities"].argmax(axis=1)
    return float((answers == target).mean())

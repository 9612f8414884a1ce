"""Transfer: attack a model of one's own, and ask the service once.

No screen that remembers accounts can see it. PGD within the ball on the attacker's model, one row an image, asked by a
new account each. What it brings is what the served model's robustness and the screens of single rows leave. Two models
of his own: a plain one of the same architecture, taught on the same public images (kiosk 1); and one that he taught
against single steps from a random start ("fast" adversarial training, Wong et al. 2020, arXiv 2001.03994, algorithm 3),
in half a minute of one core.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from defenses.lab.attack import Attempt, Lab, Size, Split, Trial
from defenses.lab.evasion.query_trials import SAMPLES, Target, TrialLine, answered_right
from defenses.lab.evasion.whitebox import static_pgd
from defenses.lab.inference.shadow import ShadowRecipe, train_shadow
from defenses.lab.pipeline import Pipeline

TECHNIQUE = "AML.T0043.002"  # MITRE ATLAS: Craft Adversarial Data, black-box transfer
LEARNED = {Size.SMOKE: 500, Size.FULL: 12_000}  # public images
EPOCHS = 6

Logits = Callable[[Tensor], Tensor]
Run = Callable[[Lab, int], list[Trial]]


def transfer_of(own: str, model: str, version: str) -> Run:
    """Return the run: PGD-40 on version `own` of the model, asked of `version`."""

    def surrogate(lab: Lab, _: int) -> Logits:
        found = lab.model(model, own)
        return Pipeline(found.module(), found.arrays(), {})

    return _run("transfer", f"{model}-{own}", surrogate, Target(model, version))


def robust_transfer_of(model: str, version: str) -> Run:
    """Return the run: PGD-40 on a robust network of the attacker's own, asked of `version`."""
    target = Target(model, version)

    def surrogate(lab: Lab, seed: int) -> Logits:
        public = lab.rows(model, Split.TRAIN, LEARNED[lab.size], seed)
        classes = lab.model(model, version).classes
        recipe = ShadowRecipe(epochs=EPOCHS, batch_rows=128, weight_decay=0.005, radius=target.radius)
        net = train_shadow(public.rows, public.labels, classes, recipe, seed=seed)
        return lambda images: net(images[:, None])

    return _run("transfer-robust", "a robust one of its own", surrogate, target)


def _run(name: str, own: str, surrogate: Callable[[Lab, int], Logits], target: Target) -> Run:
    def run(lab: Lab, seed: int) -> list[Trial]:
        sample = answered_right(lab, target, SAMPLES[lab.size], seed)
        moved = static_pgd(
            surrogate(lab, seed),
            torch.from_numpy(sample.rows),
            torch.from_numpy(sample.labels),
            target.radius,
            torch.Generator().manual_seed(seed),
        ).numpy()
        norms = np.abs(moved - sample.rows).reshape(len(moved), -1).max(axis=1).tolist()
        results = [(Attempt(True, 1, row, norm), 1) for row, norm in zip(moved, norms, strict=True)]
        line = TrialLine(lab, target, name, "black box, a model of its own", seed, TECHNIQUE)
        return [line.of(sample.labels, results, {"own_model": own, "budget": 1})]

    return run

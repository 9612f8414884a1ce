"""Transfer: attack a model of one's own, and ask the service once.

No screen that remembers accounts can see it. The attacker's own model is a plain one of the same architecture, taught
on the same public images (kiosk 1); PGD within the ball on it, one row an image, asked by a new account each. What it
brings is what the served model's robustness and the screens of single rows leave.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from defenses.lab.attack import Attempt, Lab, Trial
from defenses.lab.evasion.query_trials import SAMPLES, Target, TrialLine, answered_right
from defenses.lab.evasion.whitebox import static_pgd
from defenses.lab.pipeline import Pipeline

__all__ = ["transfer_of"]


def transfer_of(own: str, model: str, version: str) -> Callable[[Lab, int], list[Trial]]:
    """Return the run: PGD-40 on version `own` of the model, asked of `version`."""
    target = Target(model, version)

    def run(lab: Lab, seed: int) -> list[Trial]:
        sample = answered_right(lab, target, SAMPLES[lab.size], seed)
        surrogate = lab.model(model, own)
        moved = static_pgd(
            Pipeline(surrogate.module(), surrogate.arrays(), {}),
            torch.from_numpy(sample.rows),
            torch.from_numpy(sample.labels),
            target.radius,
            torch.Generator().manual_seed(seed),
        ).numpy()
        norms = np.abs(moved - sample.rows).reshape(len(moved), -1).max(axis=1).tolist()
        results = [(Attempt(True, 1, row, norm), 1) for row, norm in zip(moved, norms, strict=True)]
        line = TrialLine(lab, target, "transfer", "black box, a model of its own", seed)
        return [line.of(sample.labels, results, {"own_model": f"{model}-{own}", "budget": 1})]

    return run

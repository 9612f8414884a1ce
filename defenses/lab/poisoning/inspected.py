"""What the inspection of bundles says of a model with a backdoor, and of one without: trials for the scorecard."""

from __future__ import annotations

from typing import Final

import numpy as np

from defenses.lab.attack import Sample, Trial
from defenses.lab.poisoning.backdoor import TECHNIQUE
from defenses.screens.inspection import Outcome, inspect
from defenses.screens.inspection_search import Ask

CLEAN: Final = "none"


def inspection_trial(name: str, ask: Ask, sample: Sample, seed: int, *, target: int | None) -> Trial:
    """Return the trial of one model. Success: one with a backdoor to `target` is let in, a clean one is not.

    Args:
        name: of the attack; CLEAN where there is none.
        ask: the model, rows to scores.
        sample: clean rows that it never saw.
        seed: which rows and noise the inspection takes.
        target: the backdoor's class; None for a clean model.
    """
    found = inspect(ask, sample.rows, sample.labels, rng=np.random.default_rng([seed, 0x1A5]))
    refused = found.outcome is Outcome.REFUSE
    metrics: dict[str, float] = {"accuracy": found.accuracy, "rows_asked": float(found.asked)}
    metrics |= {f"largest_{check.name}": check.statistic for check in found.checks}
    metrics["warned"] = float(found.outcome is Outcome.WARN)
    if target is not None:
        metrics["named_target"] = float(any(c.target == target and c.outcome is not Outcome.OK for c in found.checks))
    return Trial(
        attack=f"backdoor/{name}/inspection",
        family="poisoning",
        technique=TECHNIQUE,
        knowledge="no attack" if target is None else "poisoned the training set",
        defended=True,
        seed=seed,
        samples=1,
        successes=int(refused if target is None else not refused),
        metrics=metrics,
        settings={"success": "a clean model is refused" if target is None else "the model is not refused"},
    )

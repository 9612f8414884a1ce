"""What a backdoor achieves against one model, with and without the trigger screen, and what the inspection says of it.

The control is the attack's success on marked rows; below 90 % it has not taken, and nothing found after it counts. The
rate that the screen is judged at is *measured*: its threshold is where 1 % of held-out clean rows lie above, and those
rows are neither marked nor any that the screen was fitted to. What the guaranteed threshold of the policy finds, and
how many clean rows it flags, stand beside it.

Success of a defended trial: a marked row is answered with the target and not flagged. Adaptive: the attacker knows the
screen and its calibration, and sends rows of the one class that it misses most, found on rows of his own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from defenses.budget.screen import Evidence
from defenses.lab.attack import Finding, Sample
from defenses.lab.poisoning.backdoor import Backdoor
from defenses.lab.poisoning.second_looks import second_looks
from defenses.screens.inspection import Outcome, inspect
from defenses.screens.inspection_search import Ask
from defenses.screens.trigger import COMPONENTS, TriggerScreen, load_trigger

FPR: Final = 0.01
ADAPTIVE: Final = "poisoned the training set, picks the class that the screen misses most"
LOOK_ROWS_MAX: Final = 2_000  # of clean and of marked rows, for the scores that ask again: they cost twenty passes
RATES: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

Scores = NDArray[np.float64]
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Victim:
    """A model with a backdoor in it, and the screen that its owner calibrated without knowing.

    outputs: runs the model, rows to outputs by name.
    arrays: the screen's calibration, fitted to this model's outputs for clean rows.
    clean, others: clean rows that took part in nothing; `clean` sets the measured threshold, `others` are marked.
    trusted: clean rows of the defender's, for the scores that need some.
    """

    backdoor: Backdoor
    target: int
    outputs: Callable[[NDArray[np.float32]], Outputs]
    arrays: Outputs
    input_name: str
    clean: Sample
    others: Sample
    trusted: NDArray[np.float32]

    def evidence(self, rows: NDArray[np.float32]) -> Evidence:
        return Evidence({self.input_name: rows}, self.outputs(rows))

    def marked(self, sample: Sample) -> Sample:
        """Return the rows of other classes than the target, with the mark and their true classes."""
        kept = sample.labels != self.target
        return Sample(self.backdoor.mark(sample.rows[kept]), sample.labels[kept])


def screened(victim: Victim, seed: int) -> list[Finding]:
    """Return the control, the static and the adaptive finding, with what scores that ask again would find."""
    marked, clean = victim.marked(victim.others), victim.evidence(victim.clean.rows)
    seen = victim.evidence(marked.rows)
    hit = _answers(seen) == victim.target
    judged = load_trigger(victim.arrays)
    of_clean, of_marked = judged.screen.score(clean), judged.screen.score(seen)
    limit = np.quantile(of_clean, 1 - FPR)
    found = of_marked > limit
    level = judged.calibration.level(FPR)
    metrics = {
        "accuracy": float((_answers(clean) == victim.clean.labels).mean()),
        "tpr": _share(found, hit),
        "tpr_guaranteed": _share(judged.calibration.p_values(of_marked) <= level, hit),
        "fpr_guaranteed": float((judged.calibration.p_values(of_clean) <= level).mean()),
    }
    alone = _alone(victim, clean, seen) | _looks(victim, marked.rows[:LOOK_ROWS_MAX], seed)
    for name, (own, theirs) in alone.items():
        metrics[f"tpr_{name}"] = _share(theirs > np.quantile(own, 1 - FPR), hit[: len(theirs)])
    roc = [(rate, _share(of_marked > np.quantile(of_clean, 1 - rate), hit)) for rate in RATES]
    worst = _missed_most(victim, TriggerScreen.from_calibration(victim.arrays), limit)
    chosen = marked.labels == worst
    missed = {"tpr": _share(found[chosen], hit[chosen]), "source_class": float(worst)}
    backdoor, what = victim.backdoor, "a marked row of another class is answered with the target"
    settings = {
        "fpr": FPR,
        "target": victim.target,
        "payload_share": backdoor.payload_share,
        "cover_share": backdoor.cover_share,
    }
    unflagged = settings | {"success": f"{what}, unflagged"}
    accuracy = {"accuracy": metrics["accuracy"]}
    turned = hit & ~found
    return [
        Finding(len(hit), int(hit.sum()), accuracy, settings | {"success": what}, defended=False),
        Finding(len(hit), int(turned.sum()), metrics, unflagged, {"roc": roc}),
        Finding(int(chosen.sum()), int(turned[chosen].sum()), missed, unflagged, knowledge=ADAPTIVE),
    ]


def inspected(ask: Ask, sample: Sample, seed: int, *, target: int | None) -> Finding:
    """Inspect one model. Success: one with a backdoor to `target` is let in, a clean one is not.

    Args:
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
    success = "a clean model is refused" if target is None else "the model is not refused"
    return Finding(1, int(refused if target is None else not refused), metrics, {"success": success})


def _alone(victim: Victim, clean: Evidence, seen: Evidence) -> dict[str, tuple[Scores, Scores]]:
    """Return each component of the screen by itself, of clean and of marked rows."""
    reference = TriggerScreen.from_calibration(victim.arrays).reference
    (of_clean, _), (of_marked, _) = reference.components(clean), reference.components(seen)
    return {name: (of_clean[i], of_marked[i]) for i, name in enumerate(COMPONENTS)}


def _looks(victim: Victim, marked: NDArray[np.float32], seed: int) -> dict[str, tuple[Scores, Scores]]:
    def ask(rows: NDArray[np.float32]) -> NDArray[Any]:
        return victim.outputs(rows)["probabilities"]

    of_clean, of_marked = (
        second_looks(ask, rows, victim.trusted, np.random.default_rng([seed, 0x5717]))
        for rows in (victim.clean.rows[:LOOK_ROWS_MAX], marked)
    )
    return {name: (of_clean[name], of_marked[name]) for name in of_clean}


def _missed_most(victim: Victim, screen: TriggerScreen, limit: float) -> int:
    """Return the class of which the attacker gets most rows through, on rows of his own (the clean ones)."""
    own = victim.marked(victim.clean)
    seen = victim.evidence(own.rows)
    through = (_answers(seen) == victim.target) & (screen.score(seen) <= limit)
    classes = np.unique(own.labels)
    rates = [through[own.labels == label].mean() for label in classes]
    return int(classes[np.argmax(rates)])


def _answers(evidence: Evidence) -> NDArray[np.intp]:
    return np.asarray(evidence.outputs["probabilities"].argmax(axis=1))


def _share(found: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    """Return the share of `among` that is found; 0 where there is nothing to find."""
    return float(found[among].mean()) if among.any() else 0.0

"""What one account gets of a model on its first day, through the service itself: the check on the costs of thefts.

The costs in `defenses.lab.extraction.theft` are taken on a clock of their own, since a theft takes days. Here one
account asks natural images as fast as it can until nothing is answered, and the answers in full and of the class alone
are counted. Together they must be what the prices of the same rows say; that stands beside them in the trial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.budget.screen import Evidence
from defenses.extraction.budget import MILLI, TECHNIQUE, TOP1_SHARE
from defenses.lab.attack import Answers, Lab, Oracle, Refused, Size, Split, Trial
from defenses.lab.extraction.service import QUERIES_PER_DAY, Defence, open_defence
from defenses.screens.evidence import load_evidence

ASKED: Final = {Size.SMOKE: 300, Size.FULL: 3_000}
CHUNK_ROWS: Final = 50
POLICY: Final = {"budget": {"mode": "enforce", "queries_per_day": QUERIES_PER_DAY}}


def first_day_of(name: str, version: str) -> Callable[[Lab, int], list[Trial]]:
    """Return the experiment in which one account asks until it is not answered any more: undefended, defended."""

    def run(lab: Lab, seed: int) -> list[Trial]:
        model = lab.model(name, version)
        rows = lab.rows(name, Split.TRAIN, ASKED[lab.size], seed).rows
        outputs = model.outputs(rows)
        prediction = np.asarray(outputs["probabilities"])
        p_values = load_evidence(model.arrays()).judge(Evidence({}, outputs), rows=len(rows)).p_values
        defence = open_defence(lab, model, seed)
        priced = "budget.scale" in model.arrays()
        full, top1 = expected(defence, defence.prices.cost(prediction, p_values))
        trials = []
        for defended in (False, True):
            with lab.oracle(
                name, version, defended=defended, changes=POLICY if defended and priced else None
            ) as oracle:
                counts = _counts(lab, oracle, rows)
            if defended:
                counts |= {"expected_full": float(full), "expected_top1": float(top1)}
            trials.append(
                Trial(
                    attack=f"extraction/{name}-{version}/first-day",
                    family="extraction",
                    technique=TECHNIQUE,
                    knowledge="black box",
                    defended=defended,
                    seed=seed,
                    samples=len(rows),
                    successes=int(counts["full"] + counts["top1"]),
                    metrics=counts,
                    settings={
                        "success": "rows answered to one account without a proof of work",
                        "units_per_day": round(defence.budget.units, 1),
                        "budget": "in force" if defended and priced else "none",
                    },
                )
            )
        return trials

    return run


def expected(defence: Defence, costs_milli: NDArray[np.int64]) -> tuple[int, int]:
    """Return how many of these rows one account is told in full, and then the class alone of, asked all at once."""
    budget = defence.budget
    days = costs_milli / (MILLI * budget.units)
    owed = np.concatenate([[0.0], days.cumsum()])  # before each row, while all is told
    full = min(int(np.searchsorted(owed, budget.top1_after, side="left")), len(days))
    owed = owed[full] + np.concatenate([[0.0], (days[full:] * TOP1_SHARE).cumsum()])
    return full, min(int(np.searchsorted(owed, budget.proof_after, side="left")), len(days) - full)


def _counts(lab: Lab, oracle: Oracle, rows: NDArray[np.float32]) -> dict[str, float]:
    counts = {"full": 0.0, "top1": 0.0, "refused": 0.0, "asked": 0.0}
    for first in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[first : first + CHUNK_ROWS]
        counts["asked"] += len(chunk)
        try:
            answers = oracle.ask(chunk)
        except Refused:
            counts["refused"] += len(chunk)
            break
        alone = _class_alone(answers)
        counts["full"] += float((answers.answered & ~alone).sum())
        counts["top1"] += float((answers.answered & alone).sum())
        counts["refused"] += float((~answers.answered).sum())
        lab.tell("first day", first + len(chunk), len(rows))
    return counts


def _class_alone(answers: Answers) -> NDArray[np.bool_]:
    """Say which answers are of one class alone. Rows that the model is all but sure of, rounded, look so too."""
    return np.asarray(np.nanmax(np.where(answers.answered[:, None], answers.probabilities, 0.0), axis=1) >= 1.0)

"""Ways to answer that make copies dearer, and what each costs who is honest: what was tried, to be tried again.

A thief asks natural images, which nobody can tell from an honest account's, and reads of each answer what serves him
best. A way is a function of the victim's probabilities alone, so asking the same again tells nothing new:

    all              as the model has them: the control
    three            three classes of three decimals, as the policy's template has it
    reverse-sigmoid  confidences bent so that their order misleads, the first class kept (Lee et al., "Defending Against
                     Model Stealing Attacks Using Deceptive Perturbations", 2018, arXiv 1806.00054, section 3)
    class            the class alone
    second-5, ...    the class alone, and of the 5 % of benign rows with the smallest margins the second one

What it costs: points of accuracy, and how far the first class's confidence moves on average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.budget.hardening import HardeningRule, harden
from defenses.extraction.budget import margins_of
from defenses.lab.attack import Finding, Run, Sample, Size, Split
from defenses.lab.extraction.surrogate import Recipe, agreement, train_copy
from defenses.lab.extraction.theft import HELD_OUT_ROWS, reached

Probabilities = NDArray[np.float32]
Curve = list[tuple[float, float]]
Way = Callable[[Probabilities, NDArray[np.float64]], Probabilities]

MARKS: Final = {Size.SMOKE: (100, 300), Size.FULL: (300, 500, 700, 1_000, 1_500, 2_000, 3_000, 5_000)}
DEVELOP_ROWS: Final = 5_000
TARGET: Final = 0.9
BEND: Final = 0.9  # beta of the paper
STEEP: Final = 0.2  # gamma of the paper
THREE: Final = HardeningRule(top_k=3, temperature=1.0, decimals=3)
CLASS: Final = HardeningRule(top_k=1, temperature=1.0, decimals=0)


def reverse_sigmoid(told: Probabilities, _: NDArray[np.float64]) -> Probabilities:
    """Return probabilities, each lowered by a sigmoid of itself; rows in which another class would win stay as told."""
    sure = np.clip(told.astype(np.float64), 1e-6, 1 - 1e-6)
    lowered = BEND * (1 / (1 + np.exp(-STEEP * np.log(sure / (1 - sure)))) - 0.5)
    bent = np.maximum(sure - lowered, 1e-6)
    bent /= bent.sum(axis=1, keepdims=True)
    lost = bent.argmax(axis=1) != told.argmax(axis=1)
    bent[lost] = told[lost]
    return bent.astype(np.float32)


def second_where_unsure(told: Probabilities, margins: NDArray[np.float64], *, share: float) -> Probabilities:
    """Return one class a row: the second one where the margin is among the smallest `share` of benign `margins`."""
    chosen = told.argsort(axis=1)[:, -1]
    unsure = margins_of(told) < np.quantile(margins, share)
    chosen[unsure] = told[unsure].argsort(axis=1)[:, -2]
    return np.eye(told.shape[1], dtype=np.float32)[chosen]


WAYS: Final[Mapping[str, Way]] = {
    "all": lambda told, _: told,
    "three": lambda told, _: harden(told, THREE),
    "reverse-sigmoid": reverse_sigmoid,
    "class": lambda told, _: harden(told, CLASS),
    **{f"second-{share}": partial(second_where_unsure, share=share / 100) for share in (5, 10, 15, 20)},
}


def ways(run: Run) -> list[Finding]:
    """Return a finding a way, with the answers to a copy that agrees on 90 % of held-out rows."""
    model, recipe = run.victim(), Recipe(steps=40) if run.smoke else Recipe()

    def asked(split: Split, rows: int) -> tuple[Sample, Probabilities]:
        sample = run.rows(split, rows)
        return sample, np.asarray(model.outputs(sample.rows)["probabilities"], np.float32)

    test, truth = asked(Split.TEST, HELD_OUT_ROWS)
    margins = margins_of(asked(Split.DEVELOP, DEVELOP_ROWS)[1])
    bought, told = asked(Split.TRAIN, MARKS[run.lab.size][-1])
    said = truth.argmax(axis=1)
    curves: dict[str, Curve] = {}
    for done, (way, answer) in enumerate(WAYS.items(), 1):
        targets = answer(told, margins)
        copies = (
            (mark, train_copy(bought.rows[:mark], targets[:mark], recipe, seed=run.seed))
            for mark in MARKS[run.lab.size]
        )
        curves[way] = [(float(mark), agreement(copy, test.rows, said) / len(said)) for mark, copy in copies]
        run.tell(done, len(WAYS))
    open_door = reached(curves["all"], TARGET)
    findings = []
    for way, answer in WAYS.items():
        best, given = _best(curves, way), answer(truth, margins)
        needed = reached(best, TARGET)
        before, after = (float((each.argmax(axis=1) == test.labels).mean()) for each in (truth, given))
        metrics = {
            "accuracy_points_lost": 100 * (before - after),
            "confidence_moved": float(np.abs(given.max(axis=1) - truth.max(axis=1)).mean()),
        }
        if needed is not None and open_door is not None:
            metrics |= {"answers_to_90_percent": needed, "answers_ratio_at_90_percent": needed / open_door}
        findings.append(
            Finding(
                len(truth),
                round(best[-1][1] * len(truth)),
                metrics,
                {"success": "images on which the copy agrees after the last mark"},
                {"agreement": best},
                part=way,
                defended=way != "all",
            )
        )
    return findings


def _best(curves: Mapping[str, Curve], way: str) -> Curve:
    """Return what a thief reaches by it: he may read the class alone where the first class is the model's."""
    if way.startswith("second"):
        return curves[way]
    return [max(one, other) for one, other in zip(curves[way], curves["class"], strict=True)]

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
from defenses.extraction.budget import TECHNIQUE, margins_of
from defenses.lab.attack import Lab, Sample, Size, Split, Trial
from defenses.lab.extraction.surrogate import Recipe, agreement, train_copy
from defenses.lab.extraction.theft import HELD_OUT_ROWS, reached

Probabilities = NDArray[np.float32]
Labels = NDArray[np.int64]
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


def ways_of(name: str, version: str) -> Callable[[Lab, int], list[Trial]]:
    """Return the experiment: a trial a way, with the answers to a copy that agrees on 90 % of held-out rows."""
    return lambda lab, seed: _tried(lab, seed, name, version)


def _tried(lab: Lab, seed: int, name: str, version: str) -> list[Trial]:
    model = lab.model(name, version)

    def asked(split: Split, rows: int) -> tuple[Sample, Probabilities]:
        sample = lab.rows(name, split, rows, seed)
        return sample, np.asarray(model.outputs(sample.rows)["probabilities"], np.float32)

    test, truth = asked(Split.TEST, HELD_OUT_ROWS)
    margins = margins_of(asked(Split.DEVELOP, DEVELOP_ROWS)[1])
    bought, told = asked(Split.TRAIN, MARKS[lab.size][-1])
    curves: dict[str, Curve] = {}
    for done, (way, answer) in enumerate(WAYS.items(), 1):
        curves[way] = _curve(lab, bought.rows, answer(told, margins), (test.rows, truth.argmax(axis=1)), seed)
        lab.tell("ways to answer", done, len(WAYS))
    open_door = reached(curves["all"], TARGET)
    trials = []
    for way, answer in WAYS.items():
        best, given = _best(curves, way), answer(truth, margins)
        needed = reached(best, TARGET)
        right = (each.argmax(axis=1) == test.labels for each in (truth, given))
        before, after = (float(each.mean()) for each in right)
        metrics = {
            "accuracy_points_lost": 100 * (before - after),
            "confidence_moved": float(np.abs(given.max(axis=1) - truth.max(axis=1)).mean()),
        }
        if needed is not None and open_door is not None:
            metrics |= {"answers_to_90_percent": needed, "answers_ratio_at_90_percent": needed / open_door}
        trials.append(
            Trial(
                attack=f"extraction/{name}-{version}/ways/{way}",
                family="extraction",
                technique=TECHNIQUE,
                knowledge="black box",
                defended=way != "all",
                seed=seed,
                samples=len(truth),
                successes=round(best[-1][1] * len(truth)),
                metrics=metrics,
                settings={"success": "images on which the copy agrees after the last mark"},
                curves={"agreement": best},
            )
        )
    return trials


def _curve(
    lab: Lab, rows: NDArray[np.float32], told: Probabilities, held_out: tuple[NDArray[np.float32], Labels], seed: int
) -> Curve:
    """Return how often copies of the first rows agree with the victim: (answers, agreement) at each mark."""
    recipe = Recipe(steps=40) if lab.size == Size.SMOKE else Recipe()
    copies = ((mark, train_copy(rows[:mark], told[:mark], recipe, seed=seed)) for mark in MARKS[lab.size])
    return [(float(mark), agreement(copy, *held_out) / len(held_out[1])) for mark, copy in copies]


def _best(curves: Mapping[str, Curve], way: str) -> Curve:
    """Return what a thief reaches by it: he may read the class alone where the first class is the model's."""
    if way.startswith("second"):
        return curves[way]
    return [max(one, other) for one, other in zip(curves[way], curves["class"], strict=True)]

"""Was a row among those that a model learned from? Scores of the attacks, and how well they tell. NumPy alone.

- `likelihood_ratio`: LiRA (Carlini et al., "Membership Inference Attacks From First Principles", IEEE S&P 2022, arXiv
  2112.03570). The model's confidence in the true class, as phi = log p / (1 - p), is compared with what it was among
  shadow models that had learned from the row and those that had not: two normal distributions a row. With fewer than
  some dozens of shadow models the variance is one for all rows (their section 5.B, "global variance").
- `quantile_score`: Bertran et al., "Scalable Membership Inference Attacks via Quantile Regression", NeurIPS 2023, arXiv
  2307.03694. No shadow models: one regressor learns which phi rows have that the model did not learn from.
- `steadiness`: label-only (Choquette-Choo et al., ICML 2021, arXiv 2007.14321): the share of moved or noisy copies of a
  row whose answer is its true class, a stand-in for its distance from the boundary.

A score is higher where a row looks more like a member. Rates are counts, so that exact intervals can be made of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.lab.attack import Answers

CLIP = 5e-4
"""Half a unit of three decimals: a confidence nearer to 0 or 1 than that is taken as that near."""
NORMAL_95 = 1.959963984540054


def confidence_of_answers(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Phi of the true class, float64 (n,), from probabilities (n, classes) as answered; not answered: the median."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    missing = np.isnan(own)
    held = np.clip(own, CLIP, 1.0 - CLIP)
    phi = np.log(held) - np.log1p(-held)
    phi[missing] = np.median(phi[~missing]) if not missing.all() else 0.0
    return phi


def confidence_of_logits(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The same from logits (n, classes), not clipped: z_y - log sum of the others' exp z (their section 6.A)."""
    rows = np.arange(len(labels))
    own = logits[rows, labels]
    others = logits.copy()
    others[rows, labels] = -np.inf
    most = others.max(axis=1)
    return np.asarray(own - most - np.log(np.exp(others - most[:, None]).sum(axis=1)), np.float64)


def likelihood_ratio(
    target: NDArray[np.float64], shadows: NDArray[np.float64], learned: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the log likelihood ratio of each row, float64 (n,).

    target: phi of the model under attack, (n, views): the row itself, mirrored, and so on.
    shadows: the same of each shadow model, (models, n, views).
    learned: which model learned from which row, (models, n). For a row that none, or every one, learned from, the mean
        that it lacks is the other one moved by the mean difference that learning makes to the rows that have both.
        Where none has both, scores are the offline attack's: how surprising among models that did not learn from it.
    """
    inside, variance_in = _normal(shadows, learned)
    outside, variance_out = _normal(shadows, ~learned)
    some, every = np.asarray(learned.any(axis=0)), np.asarray(learned.all(axis=0))
    both = some & ~every
    if not both.any():
        return np.asarray(((target - outside) / np.sqrt(variance_out)).sum(axis=1))
    gained = (inside - outside)[both].mean(axis=0)
    surprise_in = _log_density(target, np.where(some[:, None], inside, outside + gained), variance_in)
    surprise_out = _log_density(target, np.where(every[:, None], inside - gained, outside), variance_out)
    return surprise_in - surprise_out


def _normal(shadows: NDArray[np.float64], chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (n, views) of each row over the models of `chosen`, 0 without any, and one variance a view, (views,)."""
    weights = chosen[:, :, None].astype(np.float64)
    count = weights.sum(axis=0)
    means = (shadows * weights).sum(axis=0) / np.maximum(count, 1.0)
    spread = (np.square(shadows - means) * weights).sum(axis=(0, 1))
    freedom = np.maximum((count - 1.0).clip(0.0).sum(axis=0), 1.0)
    return means, np.maximum(spread / freedom, 1e-6)


def _log_density(
    values: NDArray[np.float64], means: NDArray[np.float64], variances: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log of the normal densities, added up over the views, without the constant that all have."""
    return np.asarray((-0.5 * np.log(variances) - np.square(values - means) / (2.0 * variances)).sum(axis=1))


def quantile_score(phi: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far phi (n,) is above what a row that was not learned from has: `expected` (n, 2), mean and log deviation."""
    return np.asarray((phi - expected[:, 0]) / np.exp(expected[:, 1].clip(-4.0, 4.0)), np.float64)


def steadiness(answers: Answers, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of a row's copies whose answer is its class, float64 (n,); answers stand row by row, copy by copy."""
    given = answers.labels.reshape(len(labels), -1)
    return np.asarray((given == labels[:, None]).mean(axis=1), np.float64)


@dataclass(frozen=True, slots=True)
class Told:
    """How well scores tell members from others. `caught` counts members above the score that at most so many of the
    others exceed as `rate` allows: {rate: members}.
    """

    members: int
    others: int
    auc: float
    auc_low: float
    auc_high: float
    caught: dict[float, int]
    curve: list[tuple[float, float]]


def told(members: NDArray[np.float64], others: NDArray[np.float64], rates: tuple[float, ...] = (0.001, 0.01)) -> Told:
    """Return how well scores tell. The area's interval is Hanley and McNeil's (1982), 95 %; ties count as half."""
    ascending = np.sort(others)
    below = (ascending.searchsorted(members, "left") + ascending.searchsorted(members, "right")) / 2
    auc = float(below.mean() / len(others))
    error = _auc_error(auc, len(members), len(others))
    caught = {
        rate: int((members > ascending[len(others) - 1 - math.floor(rate * len(others))]).sum()) for rate in rates
    }
    steps = sorted({round(10 ** (-3 + 3 * step / 30) * len(others)) for step in range(31)} - {0, len(others)})
    curve = [(count / len(others), float((members > ascending[len(others) - 1 - count]).mean())) for count in steps]
    held = (max(0.0, auc - NORMAL_95 * error), min(1.0, auc + NORMAL_95 * error))
    return Told(len(members), len(others), auc, *held, caught, curve)


def _auc_error(auc: float, members: int, others: int) -> float:
    """The standard error of the area under the curve (Hanley and McNeil, Radiology 143, 1982)."""
    one, two = auc / (2.0 - auc), 2.0 * auc * auc / (1.0 + auc)
    spread = auc * (1.0 - auc) + (members - 1) * (one - auc * auc) + (others - 1) * (two - auc * auc)
    return math.sqrt(max(spread, 0.0) / (members * others))

"""Do the labels of a dataset say what a trusted model sees? Rows with labels that it confidently contradicts, counted.

After confident learning (Northcutt, Jiang & Chuang 2021, arXiv 1911.00068, section 3.1): a row contradicts its label
where the model gives another class at least the probability that it gives, on average, to rows labelled so, and its
own label less than DOUBT_MAX. A good model that knows its doubts contradicts some right labels too; how many follows
from its own probabilities, so what counts is the excess:

    excess = share contradicted - mean over rows of P(the label is one that is contradicted | probabilities)

Close to 0 where the labels are right and the probabilities mean what they say, and growing with the share of labels
that were changed. What it cannot see: labels that were changed where the model is unsure, and a model that learned
from the same changed labels, which has come to expect them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.registry.gates import Z

if TYPE_CHECKING:
    from numpy.typing import NDArray


DOUBT_MAX = 0.1
SUSPECT_MIN = 0.005
"""What the lower end of the excess stays below on clean data, and is above with 5 % changed:
docs/how-to/promotion.md.
"""


@dataclass(frozen=True, slots=True, eq=False)
class LabelCheck:
    """Rows that contradict their label (bool (rows,)), their share, the share to expect, and the excess with 95 %."""

    contradicted: NDArray[np.bool_]
    share: float
    expected: float
    low: float
    high: float

    @property
    def excess(self) -> float:
        """What is not explained by the model's own doubts."""
        return self.share - self.expected


def check_labels(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> LabelCheck:
    """Hold labels (rows,) against probabilities (rows, classes) of a model that did not learn from them."""
    scores = probabilities.astype(np.float64)
    rows, classes = scores.shape
    own = np.arange(rows)
    means = np.array(
        [scores[labels == each, each].mean() if (labels == each).any() else math.inf for each in range(classes)]
    )
    sure = scores >= means
    # Which labels would be contradicted: those beside which another class is sure.
    others = sure.sum(axis=1, keepdims=True) - sure
    against = (others > 0) & (scores < DOUBT_MAX)
    contradicted = against[own, labels]
    chance = np.minimum((against * scores).sum(axis=1), 1.0)
    share, expected = float(contradicted.mean()), float(chance.mean())
    half = Z * math.sqrt(float((chance * (1 - chance)).sum())) / rows
    return LabelCheck(contradicted, share, expected, share - expected - half, share - expected + half)

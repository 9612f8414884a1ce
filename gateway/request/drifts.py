"""What the drift detectors are fed with: the screens' p-values and the scores of each model version of this process."""

from __future__ import annotations

import threading
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from defenses.budget.policy import Action
from defenses.drift.adwin import Adwin
from defenses.drift.martingale import ALARM, ConformalMartingale
from defenses.drift.shift import PopulationWindow, RoughnessWindow, UniformityWindow, roughness

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gateway.models.rules import ModelRules
    from gateway.request.judgement import Judgement, RowsJudged

P_VALUES = "p-values-"
"""What the names of detectors begin with that are about a screen's p-values; the screen's name follows."""
SCORES = "scores"
MARTINGALE = "martingale-"
"""The same, of the evidence that they have left the calibration: from 1 on it is an alarm."""
ADWIN = "adwin-"
"""The same, of a change of their mean; of the scores' and of the inputs' roughness, with SCORES and ROUGHNESS."""
ROUGHNESS = "roughness"
ROWS_AT_ONCE = 128
"""So many rows of a portion the detectors look at that take microseconds a row: what is chosen by its place alone is
as good as all, and so the busiest gateway spends no more on them than one that serves some thousand rows a second."""

VALUES_AT_ONCE = 200_000
"""Of the inputs of a portion: larger pictures are looked at in fewer rows."""
PICTURE_DIMS = 3


def beside(version: str) -> str:
    """Return what the names of detectors begin with whose rows another version has judged too."""
    return f"beside/{version}/"


def thinned(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return at most ROWS_AT_ONCE of the values, evenly chosen and in their order."""
    return values[:: -(-values.size // ROWS_AT_ONCE) or 1]


def roughness_of(rules: ModelRules, batches: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> np.ndarray[Any, Any]:
    """Return how rough some rows of these inputs are, evenly chosen, in parts of the declared range.

    Nothing where the model's only input is no picture in a range.
    """
    spec, *others = rules.served.bundle.inputs
    if others or len(spec.shape) < PICTURE_DIMS or min(spec.shape[-2:]) < 2 or spec.low is None or spec.high is None:
        return np.empty(0)
    pictures = [batch[spec.name] for batch in batches]
    at_once = max(1, min(ROWS_AT_ONCE, VALUES_AT_ONCE // pictures[0][0].size))
    step = -(-sum(map(len, pictures)) // at_once)
    firsts = accumulate(map(len, pictures), initial=0)
    some = np.concatenate([rows[-first % step :: step] for rows, first in zip(pictures, firsts, strict=False)])
    return roughness(some.astype(np.float32, copy=False)) / (spec.high - spec.low)


def joined(arrays: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return arrays one behind the other."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


class Drifts:
    """One window a version and detector. Fed by batch threads and by the comparer, read once a second.

    What a screen did not let pass moves the detectors like all else: an attack is a change of the traffic too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._p_values: dict[tuple[str, str, str], UniformityWindow] = {}
        self._both: dict[tuple[str, str, str], UniformityWindow] = {}
        self._scores: dict[tuple[str, str], PopulationWindow] = {}
        self._evidence: dict[tuple[str, str, str], ConformalMartingale] = {}
        self._means: dict[tuple[str, str, str], Adwin | RoughnessWindow] = {}

    def observe(
        self,
        rules: ModelRules,
        judgements: Sequence[Judgement],
        scores: np.ndarray[Any, Any],
        inputs: Sequence[Mapping[str, np.ndarray[Any, Any]]] = (),
    ) -> None:
        """A version has judged batches. `scores` holds the top class's probability of each row; empty: it has none.

        `inputs` are those of each batch, where they are at hand.
        """
        key = rules.served.bundle.name, rules.served.bundle.version
        rough = roughness_of(rules, inputs) if inputs else np.empty(0)
        with self._lock:
            if rough.size:
                self._means.setdefault((*key, ROUGHNESS), RoughnessWindow()).add(rough)
            for position, (name, _, _) in enumerate(judgements[0].rows):
                p_values = joined([judgement.rows[position][2] for judgement in judgements])
                self._p_values.setdefault((*key, name), UniformityWindow()).add(p_values)
                some = thinned(p_values)
                self._means.setdefault((*key, name), Adwin()).add(some)
                self._bet(rules, (*key, name), some)
            if scores.size:
                allowed = joined([judgement.row_actions for judgement in judgements]) == Action.ALLOW
                window = self._scores.setdefault(key, PopulationWindow())
                window.add(scores, reference=allowed)  # what was flagged is no example
                self._means.setdefault((*key, SCORES), Adwin()).add(thinned(scores).astype(np.float64))

    def _bet(self, rules: ModelRules, key: tuple[str, str, str], p_values: np.ndarray[Any, Any]) -> None:
        """Let the bets go on where the p-values are those of a calibration. Lock held."""
        screen = rules.screens.get(key[2])
        if screen is None:
            return  # a screen that remembers accounts: its p-values are not independent of each other
        martingale = self._evidence.get(key)
        if martingale is None:  # its bounds take milliseconds
            martingale = self._evidence[key] = ConformalMartingale(screen.calibrated.calibration.rows)
        martingale.add(p_values)

    def observe_both(self, one: ModelRules, its: RowsJudged, other: ModelRules, others: RowsJudged) -> None:
        """Two versions have judged the same rows: strange ones enter the windows of both, and leave them, at once."""
        first, second = one.served.bundle, other.served.bundle
        with self._lock:
            for bundle, against, rows in ((first, second, its), (second, first, others)):
                for name, _, p_values in rows:
                    key = bundle.name, bundle.version, beside(against.version) + name
                    self._both.setdefault(key, UniformityWindow()).add(p_values)

    def values(self) -> Iterator[tuple[str, str, str, float]]:
        """Yield (model, version, detector, value) of each window that has seen enough."""
        with self._lock:
            for (model, version, screen), uniformity in self._p_values.items():
                if (value := uniformity.value()) is not None:
                    yield model, version, P_VALUES + screen, value
            for (model, version, detector), uniformity in self._both.items():
                if (value := uniformity.value()) is not None:
                    yield model, version, detector, value
            for (model, version), population in self._scores.items():
                if (value := population.value()) is not None:
                    yield model, version, SCORES, value
            for (model, version, screen), evidence in self._evidence.items():
                yield model, version, MARTINGALE + screen, evidence.value / ALARM
            for (model, version, what), mean in self._means.items():
                yield model, version, ADWIN + what, mean.value

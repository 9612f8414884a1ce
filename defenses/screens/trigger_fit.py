"""Fit S6 (defenses/screens/trigger.py) to clean rows: densities, tails, p-values, a report of what is promised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from defenses.budget.calibration import CONFIDENCE, ConformalCalibration, measured_points, promised_points
from defenses.budget.screen import Evidence
from defenses.errors import CalibrationInvalid, EvidenceInvalid
from defenses.screens.evidence import FPR_POINTS, Tail
from defenses.screens.trigger import (
    COMPONENTS,
    NAME,
    OUTPUTS,
    SCALE,
    TECHNIQUE,
    Reference,
    TriggerScreen,
    load_trigger,
)
from defenses.screens.trigger_density import StudentClasses

FIT_ROWS_MIN: Final = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class CleanRows:
    """Rows that nobody else could write to: the model's input (n, ...), its outputs, and true classes int64 (n,)."""

    inputs: NDArray[Any]
    outputs: Mapping[str, NDArray[Any]]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def fit_trigger(
    fit: CleanRows,
    tails: CleanRows,
    calibrate: CleanRows,
    measure: CleanRows,
    *,
    input_name: str,
    points: Sequence[float] = FPR_POINTS,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Fit densities on one split of clean rows and tails on a second, conformalise on a third, measure on a fourth.

    No row may stand in two of them: a density knows the rows that it was fitted to. Labels are used of `fit` alone.
    Returns the "trigger.*" arrays for the bundle and a report that is plain JSON with these operating points.

    Raises:
        CalibrationInvalid: under 1,000 rows to fit densities or tails on, under 100 of a class, rows that are not
            finite, or a split used twice.
        CalibrationTooSmall: too few rows to calibrate on for a point.
        EvidenceInvalid: an output that is absent or misshapen.
    """
    splits = {"fit": fit, "tails": tails, "calibrate": calibrate, "measure": measure}
    _check_splits(splits)
    arrays = _densities_and_tails(fit, tails, input_name)
    uncalibrated = TriggerScreen.from_calibration(arrays)
    calibration = ConformalCalibration.from_scores(uncalibrated.score(_evidence(calibrate, input_name)))
    arrays |= calibration.to_arrays(NAME)
    screen = TriggerScreen.from_calibration(arrays)  # scores alike, but its digest covers the calibration too
    scores = screen.score(_evidence(measure, input_name))
    report = {
        "screen": NAME,
        "technique": TECHNIQUE,
        "digest": screen.digest,
        "components": list(COMPONENTS),
        "rows": {name: len(split) for name, split in splits.items()},
        "confidence": CONFIDENCE,
        "operating_points": promised_points(calibration, scores, points),
    }
    return arrays, report


def _densities_and_tails(fit: CleanRows, tails: CleanRows, input_name: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of a screen that is not calibrated yet."""
    for name in OUTPUTS:
        if name not in fit.outputs or fit.outputs[name].ndim != 2 or len(fit.outputs[name]) != len(fit):
            raise EvidenceInvalid(name, f"absent, or not ({len(fit)}, width)")
    classes = fit.outputs["probabilities"].shape[1]
    pixels = StudentClasses.fit(fit.inputs.reshape(len(fit), -1), fit.labels, classes)
    latent = StudentClasses.fit(fit.outputs["latent"], fit.labels, classes)
    arrays: dict[str, NDArray[Any]] = {f"{NAME}.input": np.frombuffer(input_name.encode(), np.uint8)}
    arrays |= pixels.to_arrays(f"{NAME}.pixels") | latent.to_arrays(f"{NAME}.latent")
    components, usual = Reference(input_name, pixels, latent).components(_evidence(tails, input_name))
    if not usual.all():
        raise CalibrationInvalid("tails", "a clean row that is not finite")
    for component, sample in zip(COMPONENTS, components, strict=True):
        arrays |= Tail.fit(component, sample).to_arrays(f"{NAME}.{component}", scale=SCALE)
    return arrays


def _evidence(clean: CleanRows, input_name: str) -> Evidence:
    return Evidence({input_name: clean.inputs}, clean.outputs)


def measure_trigger(
    arrays: Mapping[str, NDArray[Any]], evidence: Evidence, *, points: Sequence[float] = FPR_POINTS
) -> list[dict[str, Any]]:
    """Return how many rows of some other set, marked or clean, are flagged at each point, with exact intervals."""
    judged = load_trigger(arrays)
    scores = judged.screen.score(evidence)
    return measured_points(judged.calibration, scores, points)


def _check_splits(splits: Mapping[str, CleanRows]) -> None:
    for name, split in splits.items():
        if len(split) != len(split.inputs) or len(split) < (FIT_ROWS_MIN if name in {"fit", "tails"} else 1):
            raise CalibrationInvalid(name, f"{len(split)} rows are too few, or not as many as inputs")
        if not np.isfinite(split.inputs).all():
            raise CalibrationInvalid(name, "a clean row that is not finite")
    for one, other in combinations(splits, 2):
        if np.array_equal(splits[one].inputs, splits[other].inputs):  # the mistake that voids every promise
            raise CalibrationInvalid(other, f"the same rows as {one}")

"""What a calibration promises at a false-positive rate, and what rows it has not seen say of that."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.budget.calibration import ConformalCalibration
from defenses.budget.intervals import clopper_pearson


def promised_points(
    calibration: ConformalCalibration, held_out: NDArray[np.float64], points: Sequence[float]
) -> list[dict[str, Any]]:
    """Return for each rate its rank, bounds and interval, and the rate among `held_out`, scores of benign rows (n,)."""
    return [
        {
            "fpr_max": fpr_max,
            "rank": calibration.rank(fpr_max),
            "level": calibration.level(fpr_max),
            "threshold": calibration.threshold(fpr_max),
            "fpr_interval": list(calibration.fpr_interval(fpr_max)),
            "measured": _flagged(calibration, held_out, fpr_max),
        }
        for fpr_max in points
    ]


def measured_points(
    calibration: ConformalCalibration, scores: NDArray[np.float64], points: Sequence[float]
) -> list[dict[str, Any]]:
    """Return for each rate how many rows of these scores (n,) are flagged, with exact intervals."""
    return [{"fpr_max": fpr_max, **_flagged(calibration, scores, fpr_max)} for fpr_max in points]


def _flagged(calibration: ConformalCalibration, scores: NDArray[np.float64], fpr_max: float) -> dict[str, Any]:
    flagged = int((calibration.p_values(scores) <= calibration.level(fpr_max)).sum())
    rows = int(scores.size)
    return {"rows": rows, "flagged": flagged, "rate": flagged / rows, "interval": list(clopper_pearson(flagged, rows))}

"""Split-conformal calibration: from a screen's scores to p-values whose false-positive rate is known.

p = (1 + #{calibration >= s}) / (n + 1). For benign rows exchangeable with the calibration set, P(p <= a) <= a.
That bound is an average over calibration sets; the set in use may be an unlucky one. A threshold is therefore not
"p <= a" but "p <= k / (n + 1)" with the rank k of `intervals.guaranteed_rank`: then the rate of *this* set is at most a
with 95 % confidence (rank 5 of 1,000 or 84 of 10,000 for a = 1 %). `level` gives that bound on p, `threshold` the same
as a bound on the score; both name the same rows.

Pure: no clock, no IO, no logging. Nothing here changes after construction; a calibration never learns from traffic.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defenses.budget.intervals import Interval, beta_quantile, clopper_pearson, guaranteed_rank, rows_needed
from defenses.budget.screen import Evidence, Screen
from defenses.errors import CalibrationInvalid, CalibrationTooSmall, ScreenFailed

CALIBRATION_ROWS_MAX = 1_000_000
CONFIDENCE = 0.95


def tie_breaks(key: bytes, row_hashes: Sequence[bytes], *, context: bytes = b"") -> NDArray[np.float64]:
    """One number in [0, 1) a row: keyed BLAKE2b of the row's hash, so replay with the key agrees.

    The hash must cover the row's content and the tenant, and nothing a caller may vary freely (an id, a time):
    otherwise one resends until the draw is a lucky one. `context`, such as the screen's name, makes the draws of two
    screens independent. `key` is 1 to 64 bytes and secret.
    """
    if not 1 <= len(key) <= 64:
        raise CalibrationInvalid("key", f"{len(key)} bytes; 1 to 64 wanted")
    prefix = len(context).to_bytes(4, "big") + context  # framed: (context, hash) pairs never collide
    draws = (hashlib.blake2b(prefix + row_hash, digest_size=8, key=key).digest() for row_hash in row_hashes)
    # 53 bits: every value is a float64 below 1 without rounding.
    return np.array([int.from_bytes(draw, "big") >> 11 for draw in draws], np.float64) * 2.0**-53


def digest_arrays(label: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 (hex) of named arrays: names in order, each with dtype, shape and little-endian bytes, all framed.

    `label` names the algorithm and its version, so that the same numbers under other code have another digest.
    """
    state = hashlib.sha256()

    def feed(part: bytes) -> None:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)

    feed(label.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        for part in (name.encode(), array.dtype.str.encode(), repr(array.shape).encode(), array.tobytes()):
            feed(part)
    return state.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class ConformalCalibration:
    """Scores of held-out benign rows, float64, ascending and read-only. Build it with `from_scores`."""

    scores: NDArray[np.float64]

    @classmethod
    def from_scores(cls, scores: ArrayLike) -> Self:
        """Take scores in any order; CalibrationInvalid unless they are finite, one-dimensional and 1 to 1,000,000."""
        values = np.array(scores, np.float64)
        if values.ndim != 1 or not 1 <= values.size <= CALIBRATION_ROWS_MAX:
            raise CalibrationInvalid("scores", f"shape {values.shape}; 1 to {CALIBRATION_ROWS_MAX} rows wanted")
        if not np.isfinite(values).all():
            raise CalibrationInvalid("scores", "not finite")
        values.sort()
        values.flags.writeable = False
        return cls(values)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str) -> Self:
        """Read what `to_arrays` wrote; CalibrationInvalid when it is absent or malformed."""
        name = f"{prefix}.calibration"
        if name not in arrays:
            raise CalibrationInvalid(name, "absent")
        if arrays[name].dtype != np.float64:
            raise CalibrationInvalid(name, f"dtype {arrays[name].dtype}; float64 wanted")
        return cls.from_scores(arrays[name])

    def to_arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        return {f"{prefix}.calibration": self.scores}

    @property
    def digest(self) -> str:
        return digest_arrays("stockade.conformal/1", self.to_arrays("scores"))

    @property
    def rows(self) -> int:
        return int(self.scores.size)

    def p_values(self, scores: ArrayLike, ties: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Return p of each score, float64 (rows,), in [1 / (n + 1), 1]; a NaN score gets the smallest p.

        Without `ties` a score equal to calibration scores ranks below all of them, which is conservative and exact for
        continuous scores. Discrete ones lose power by that: give `tie_breaks` and the rank is drawn evenly among them.
        """
        rows = self.scores.size
        wanted = np.asarray(scores, np.float64)
        at_least = rows - self.scores.searchsorted(wanted, side="left")
        if ties is None:
            return np.asarray((at_least + 1) / (rows + 1), np.float64)
        above = rows - self.scores.searchsorted(wanted, side="right")
        drawn = np.floor(ties * (at_least - above + 1)).astype(np.int64)
        return np.asarray((above + 1 + drawn) / (rows + 1), np.float64)

    def rank(self, fpr_max: float, confidence: float = CONFIDENCE) -> int:
        """Return the guaranteed rank; CalibrationTooSmall where there is none, so no screen is off in silence."""
        rank = guaranteed_rank(self.rows, fpr_max, confidence)
        if rank == 0:
            raise CalibrationTooSmall(self.rows, rows_needed(fpr_max, confidence), fpr_max, confidence)
        return rank

    def level(self, fpr_max: float, confidence: float = CONFIDENCE) -> float:
        """Return the bound on p: acting on p <= level has a false-positive rate <= fpr_max with this confidence."""
        return self.rank(fpr_max, confidence) / (self.rows + 1)

    def threshold(self, fpr_max: float, confidence: float = CONFIDENCE) -> float:
        """Return the bound on the score: `score > threshold` exactly where `p <= level`, ties not broken."""
        return float(self.scores[self.rows - self.rank(fpr_max, confidence)])

    def fpr_interval(self, fpr_max: float, confidence: float = CONFIDENCE) -> Interval:
        """Return the central interval of the realised rate, which is Beta(k, n + 1 - k) distributed."""
        rank = self.rank(fpr_max, confidence)
        tail = (1.0 - confidence) / 2
        other = self.rows + 1 - rank
        return Interval(beta_quantile(tail, rank, other), beta_quantile(1.0 - tail, rank, other))


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Both float64 (rows,): what the screen said, and what it is worth."""

    scores: NDArray[np.float64]
    p_values: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A screen with the scores it gave to benign rows it had never seen."""

    screen: Screen
    calibration: ConformalCalibration

    def judge(self, evidence: Evidence, *, rows: int, ties: NDArray[np.float64] | None = None) -> Judged:
        """Score a batch of `rows` rows. Whatever goes wrong inside a screen is ScreenFailed, so callers fail closed."""
        try:
            scores = self.screen.score(evidence)
        except Exception as error:
            raise ScreenFailed(self.screen.name, type(error).__name__) from error
        if scores.shape != (rows,) or scores.dtype != np.float64:
            raise ScreenFailed(self.screen.name, f"returned {scores.dtype}{scores.shape} for {rows} rows")
        if np.isnan(scores).any():
            raise ScreenFailed(self.screen.name, "returned NaN")
        return Judged(scores, self.calibration.p_values(scores, ties))


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

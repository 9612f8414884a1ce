"""S1 evidence: does the model recognise what it was shown?

Three numbers that the model's own graph computes with the prediction, so screening costs no second pass:
    energy       (rows,)  -T logsumexp(logits / T): high where no class is believed
    mahalanobis  (rows,)  whitened distance in the latent space to what training looked like
    residual     (rows,)  what is left of the input after reconstruction

Each becomes a *surprise*, -log of its empirical tail probability among the rows it was fitted on, and the score is a
weighted sum of them (Good 1955; with equal weights it is Fisher's):  score = energy + 2 mahalanobis + residual.

Why a sum: foreign drawings are moderately surprising to every witness, benign rows seldom to more than one. What is led
by the strongest witness (their maximum, the harmonic mean of the tail probabilities) spends its false alarms on benign
rows with one odd number and misses such drawings. Dependence, which makes a sum no chi-square, costs no validity: the
score is conformalised on rows that took no part in the fit. Why 2: mahalanobis tells most, and shares what it tells
with each of the others; a larger weight finds no more at 1 % and leaves the others too little say. Why no margin
between the two likeliest classes: benign rows of classes that look alike fill its tail, so it only raised the
threshold. The alternatives, and what each finds, are in docs/explanation/defenses.md; the reported sets took no part in
the choice.

Beyond the fitted range a surprise goes on as a Pareto tail that continues the slope at the edge: inputs far out keep
their order up to the largest float32, the score stays below a few thousand, and one witness that is certain enough
outweighs any threshold. Below the range it is 0: one-sided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from defenses.budget.calibration import (
    CONFIDENCE,
    Calibrated,
    ConformalCalibration,
    digest_arrays,
    measured_points,
    promised_points,
)
from defenses.budget.screen import Evidence
from defenses.errors import CalibrationInvalid, EvidenceInvalid

NAME: Final = "evidence"
TECHNIQUE: Final = "AML.T0015"  # MITRE ATLAS: Evade ML Model
COMPONENTS: Final = ("energy", "mahalanobis", "residual")  # names of the model's outputs, each FP32 (rows,)
COMBINATION: Final = "weighted sum of surprises: energy + 2 mahalanobis + residual"
FPR_POINTS: Final = (0.05, 0.01, 0.001)
FIT_ROWS_MIN: Final = 1_000
KNOTS_MAX: Final = 4_096
PARETO_SHAPE: Final = 0.1  # light enough that one witness alone, twice as far out as any fitted row, passes 0.1 %
MAHALANOBIS_WEIGHT: Final = 2.0

_ALGORITHM = "stockade.evidence/2"
_ARRAYS = {f"{NAME}.calibration"} | {
    f"{NAME}.{component}.{part}" for component in COMPONENTS for part in ("values", "surprise", "scale")
}
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_TAIL_SHARE = 0.01  # of the fitted rows, from which the slope of the tail is taken


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """A component's surprise: linear between knots (both ascending), 0 below, a Pareto tail of `scale` above."""

    values: NDArray[np.float64]
    surprise: NDArray[np.float64]
    scale: float

    @classmethod
    def fit(cls, name: str, sample: NDArray[np.float64]) -> Self:
        """Fit to benign values (rows,). Knots are dense where it matters: every rank of the top 128, then geometric."""
        rows = sample.size
        descending = np.sort(sample)[::-1]
        ranks = np.unique(np.concatenate([np.arange(1, 129), np.geomspace(128, rows, 384).astype(np.int64)]))
        values = np.unique(descending[ranks - 1])
        at_least = rows - np.searchsorted(descending[::-1], values, side="left")
        if values.size < 2:
            raise CalibrationInvalid(name, "constant over the fit split")
        top = descending[: max(10, int(rows * _TAIL_SHARE))]
        scale = float(np.mean(top - top[-1])) or float(np.std(sample))
        return cls(values, -np.log((at_least + 1) / (rows + 1)), scale)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str, *, scale: str = "scale") -> Self:
        """Read what `to_arrays` wrote; CalibrationInvalid when it is absent or malformed."""
        parts = []
        for part, shortest in (("values", 2), ("surprise", 2), (scale, 1)):
            name = f"{prefix}.{part}"
            array = arrays.get(name)
            if array is None:
                raise CalibrationInvalid(name, "absent")
            if array.dtype != np.float64 or array.ndim != 1 or not shortest <= array.size <= KNOTS_MAX:
                raise CalibrationInvalid(name, f"{array.dtype}{array.shape}: float64 ({shortest}..{KNOTS_MAX},) wanted")
            if not np.isfinite(array).all() or (np.diff(array) <= 0).any():
                raise CalibrationInvalid(name, "not finite and ascending")
            parts.append(np.ascontiguousarray(array))
        values, surprise, scales = parts
        if values.size != surprise.size or scales.size != 1 or scales[0] <= 0 or surprise[0] < 0:
            raise CalibrationInvalid(prefix, "parts disagree")
        return cls(values, surprise, float(scales[0]))

    def to_arrays(self, prefix: str, *, scale: str = "scale") -> dict[str, NDArray[Any]]:
        """Return the arrays for a bundle, the scale under this name."""
        return {
            f"{prefix}.values": self.values,
            f"{prefix}.surprise": self.surprise,
            f"{prefix}.{scale}": np.array([self.scale]),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Tails:
    """The tails of several components: what is the same of each stands in one array, so that a step is taken for all.

    edges, rates: float64 (components, 1), where each fitted range ends, and Pareto shape over scale.
    """

    each: tuple[Tail, ...]
    edges: NDArray[np.float64] = field(init=False)
    rates: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", np.array([[tail.values[-1]] for tail in self.each]))
        object.__setattr__(self, "rates", np.array([[PARETO_SHAPE / tail.scale] for tail in self.each]))

    def surprises(self, components: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the surprise of each component of each row, float64 (components, rows) as given."""
        surprises = components - self.edges
        np.maximum(surprises, 0.0, out=surprises)
        surprises *= self.rates
        np.log1p(surprises, out=surprises)
        surprises /= PARETO_SHAPE
        for number, tail in enumerate(self.each):
            surprises[number] += np.interp(components[number], tail.values, tail.surprise)
        return surprises


@dataclass(frozen=True, slots=True, eq=False)
class EvidenceScreen:
    """Implements Screen. Build it with `from_calibration`; `tails` stand in the order of COMPONENTS."""

    tails: Tails = field(repr=False)
    digest: str
    name: str = NAME
    technique: str = TECHNIQUE

    @classmethod
    def from_calibration(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read the "evidence.*" arrays of `fit_evidence`, ignoring others; CalibrationInvalid if malformed."""
        own = {name: array for name, array in arrays.items() if name.startswith(f"{NAME}.")}
        for name in own.keys() - _ARRAYS:  # fitted by another version, whose thresholds mean nothing here
            raise CalibrationInvalid(name, "unknown to this version of the screen")
        tails = Tails(tuple(Tail.from_arrays(own, f"{NAME}.{component}") for component in COMPONENTS))
        return cls(tails, digest_arrays(_ALGORITHM, own))

    def score(self, evidence: Evidence) -> NDArray[np.float64]:
        """Score by the outputs in COMPONENTS, of any float dtype; EvidenceInvalid when one is absent or misshapen."""
        # Only element-wise steps: a row never feels its neighbours.
        energy, mahalanobis, residual = self.tails.surprises(_components(evidence.outputs))
        return np.asarray(energy + MAHALANOBIS_WEIGHT * mahalanobis + residual, np.float64)


def load_evidence(arrays: Mapping[str, NDArray[Any]]) -> Calibrated:
    """Return the screen with its calibration, from the arrays of a bundle."""
    return Calibrated(EvidenceScreen.from_calibration(arrays), ConformalCalibration.from_arrays(arrays, NAME))


def _components(outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Return float64 (components, rows), where all that is no finite float32, of either sign, is the largest one."""
    missing = [name for name in COMPONENTS if name not in outputs]
    if missing:
        raise EvidenceInvalid(missing[0], "absent")
    matrix = np.empty((len(COMPONENTS), outputs[COMPONENTS[0]].size))
    for row, name in zip(matrix, COMPONENTS, strict=True):
        values = outputs[name]
        if values.shape != row.shape or values.dtype.kind != "f":
            raise EvidenceInvalid(name, f"{values.dtype}{values.shape}: ({row.size},) wanted")
        row[:] = values
    usual = np.abs(matrix) <= _FLOAT32_MAX  # False for NaN
    if not usual.all():
        matrix[~usual] = _FLOAT32_MAX
    return matrix


def fit_evidence(
    fit: Mapping[str, NDArray[Any]],
    calibrate: Mapping[str, NDArray[Any]],
    measure: Mapping[str, NDArray[Any]],
    *,
    points: Sequence[float] = FPR_POINTS,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Fit tails on one split of benign rows, conformalise on a second, measure on a third; the three are disjoint.

    Each map holds COMPONENTS for its rows. Returns the "evidence.*" arrays for the bundle and a report that is plain
    JSON with these operating points. The promise to 0.1 % needs 2,995 rows to calibrate on, 10,000 give a tight one; to
    1 % it needs 299. CalibrationInvalid for unusable splits (under 1,000 rows to fit on, a value that is not finite, a
    constant component, a split used twice), CalibrationTooSmall, EvidenceInvalid.
    """
    samples = _checked_splits({"fit": fit, "calibrate": calibrate, "measure": measure})
    arrays: dict[str, NDArray[Any]] = {}
    for component, sample in zip(COMPONENTS, samples["fit"], strict=True):
        arrays |= Tail.fit(component, sample).to_arrays(f"{NAME}.{component}")
    uncalibrated = EvidenceScreen.from_calibration(arrays)
    calibration = ConformalCalibration.from_scores(uncalibrated.score(Evidence({}, calibrate)))
    arrays |= calibration.to_arrays(NAME)
    screen = EvidenceScreen.from_calibration(arrays)  # scores alike, but its digest covers the calibration too
    held_out = screen.score(Evidence({}, measure))
    report = {
        "screen": NAME,
        "technique": TECHNIQUE,
        "digest": screen.digest,
        "components": list(COMPONENTS),
        "combination": COMBINATION,
        "rows": {name: int(sample.shape[1]) for name, sample in samples.items()},
        "confidence": CONFIDENCE,
        "operating_points": promised_points(calibration, held_out, points),
    }
    return arrays, report


def measure_evidence(
    arrays: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], *, points: Sequence[float] = FPR_POINTS
) -> list[dict[str, Any]]:
    """Return how many rows of some other set, foreign or benign, are flagged at each point, with exact intervals."""
    judged = load_evidence(arrays)
    scores = judged.screen.score(Evidence({}, outputs))
    return measured_points(judged.calibration, scores, points)


def _checked_splits(splits: Mapping[str, Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[np.float64]]:
    samples = {name: _components(outputs) for name, outputs in splits.items()}
    for name, sample in samples.items():
        if sample.shape[1] < (FIT_ROWS_MIN if name == "fit" else 1):
            raise CalibrationInvalid(name, f"{sample.shape[1]} rows are too few")
        if sample.max() >= _FLOAT32_MAX:
            raise CalibrationInvalid(name, "a benign row that is not finite")
    for one, other in combinations(samples, 2):
        if np.array_equal(samples[one], samples[other]):  # the mistake that voids every promise
            raise CalibrationInvalid(other, f"the same rows as {one}")
    return samples

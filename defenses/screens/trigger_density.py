"""How likely a row is under each class: one Student density a class, the same to the bit in any batch.

    over the row's k leading principal coordinates,
    log density of class c = -(nu + k) / 2 log(1 + d_c / nu) - half the log determinant of c,
    d_c = squared whitened distance of the coordinates to the class's mean

A Gaussian a class (quadratic discriminant analysis) is thrown by rows that are unlike every class: its differences grow
with the square of the distance, so a few odd benign rows set the threshold. The Student density with few degrees of
freedom (nu) grows with the logarithm instead, and the thin classes' covariances are shrunk towards a ball.

Bit for bit: a matrix product adds in an order that depends on the batch, and a screen's score may not. So all factors
are whole multiples of powers of two, few enough bits wide that every product and sum is exact in float64, whatever the
order. The widths are stated where a value is put `_on_grid`; the contract's tests would notice one that is too wide.
A row is taken through in whole numbers, each step's in units of its grid: powers of two are in the factors beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from defenses.errors import CalibrationInvalid

COORDINATES: Final = 48
FREEDOM: Final = 5.0
SHRINKAGE: Final = 0.05
ROWS_PER_CLASS_MIN: Final = 100
CLASSES_MAX: Final = 100
FEATURES_MAX: Final = 4_096

VALUE_BITS, VALUE_MAX = 10, 64.0  # features, scaled: 16 bits and the sign
_COMPONENT_BITS = 16  # of a unit vector: with 4,096 features a coordinate takes 16 + 16 + 12 bits
COORDINATE_BITS, COORDINATE_MAX = 12, 4_096.0  # 24 bits
_WHITENING_BITS, _WHITENING_MAX = 10, 512.0  # 19 bits, so with 64 coordinates a product takes 24 + 19 + 6
WHITE_BITS, WHITE_MAX = 8, 4_096.0  # 20 bits; the square 40, and the sum of 64 of them 46
_PARTS = ("centre", "scale", "components", "means", "whitening", "log_roots")

Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class StudentClasses:
    """Build it with `fit` or `from_arrays`; float64, on the grids of this module.

    centre (D,), scale (): features are (x - centre) / scale. components (D, k). whitening (classes, k, k) and whitened
    means (classes, k). log_roots (classes,): half the log determinants of the covariances.
    """

    centre: Reals = field(repr=False)
    scale: Reals
    components: Reals = field(repr=False)
    means: Reals = field(repr=False)
    whitening: Reals = field(repr=False)
    log_roots: Reals = field(repr=False)
    projection: Reals = field(init=False, repr=False)  # (D, k): from units of features to units of coordinates
    to_white: Reals = field(init=False, repr=False)  # (classes, k, k): from there to units of whitened coordinates
    side_by_side: Reals = field(init=False, repr=False)  # (k, classes x k): one product whitens for all classes
    white_means: Reals = field(init=False, repr=False)  # (classes, k)

    def __post_init__(self) -> None:
        classes, k = self.means.shape
        to_white = self.whitening * 2.0 ** (WHITE_BITS - COORDINATE_BITS)
        flat = np.ascontiguousarray(to_white.transpose(1, 0, 2).reshape(k, classes * k))
        object.__setattr__(self, "projection", self.components * 2.0 ** (COORDINATE_BITS - VALUE_BITS))
        object.__setattr__(self, "to_white", to_white)
        object.__setattr__(self, "side_by_side", flat)
        object.__setattr__(self, "white_means", self.means * 2.0**WHITE_BITS)

    @classmethod
    def fit(
        cls, rows: NDArray[Any], labels: NDArray[np.int64], classes: int, *, coordinates: int = COORDINATES
    ) -> Self:
        """Fit to rows (n, D), finite, and labels below `classes`.

        Raises:
            CalibrationInvalid: a class with fewer than ROWS_PER_CLASS_MIN rows, or too many classes or features.
        """
        values = rows.astype(np.float64)
        counts = np.bincount(labels, minlength=classes)
        if len(counts) > classes or classes > CLASSES_MAX or values.shape[1] > FEATURES_MAX:
            raise CalibrationInvalid("labels", f"{len(counts)} classes, {values.shape[1]} features")
        if counts.min() < ROWS_PER_CLASS_MIN:
            fewest = int(counts.argmin())
            raise CalibrationInvalid("labels", f"class {fewest} has {counts[fewest]} rows; {ROWS_PER_CLASS_MIN} wanted")
        centre = _on_grid(values.mean(axis=0), COORDINATE_BITS)
        deviation = float(np.abs(values - centre).max()) or 1.0
        scale = np.array(2.0 ** np.ceil(np.log2(deviation)))  # a power of two: dividing by it is exact
        unit = (values - centre) / scale
        _, vectors = np.linalg.eigh(unit.T @ unit / len(unit))
        components = _on_grid(vectors[:, ::-1][:, : min(coordinates, unit.shape[1])], _COMPONENT_BITS)
        projection = components * 2.0 ** (COORDINATE_BITS - VALUE_BITS)
        leading = _coordinates(values, centre, scale, projection) * 2.0**-COORDINATE_BITS
        found = [_fit_class(leading[labels == label]) for label in range(classes)]
        means, whitening, log_roots = (np.stack(part) for part in zip(*found, strict=True))
        return cls(centre, scale, components, means, whitening, log_roots)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str) -> Self:
        """Read what `to_arrays` wrote; CalibrationInvalid when it is absent or malformed."""
        parts = [_read(arrays, f"{prefix}.{name}") for name in _PARTS]
        centre, scale, components, means, whitening, log_roots = parts
        features, k = components.shape if components.ndim == 2 else (0, 0)
        classes = log_roots.size
        wanted = ((features,), (), (features, k), (classes, k), (classes, k, k), (classes,))
        for name, part, shape in zip(_PARTS, parts, wanted, strict=True):
            if part.shape != shape or part.size == 0:
                raise CalibrationInvalid(f"{prefix}.{name}", f"shape {part.shape}; {shape} wanted")
        if features > FEATURES_MAX or classes > CLASSES_MAX or k > 64 or scale <= 0:
            raise CalibrationInvalid(prefix, f"{features} features, {classes} classes, {k} coordinates")
        return cls(
            centre,
            scale,
            _on_grid(np.clip(components, -1.0, 1.0), _COMPONENT_BITS),
            _on_grid(np.clip(means, -WHITE_MAX, WHITE_MAX), WHITE_BITS),
            _on_grid(np.clip(whitening, -_WHITENING_MAX, _WHITENING_MAX), _WHITENING_BITS),
            log_roots,
        )

    def to_arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the arrays for a bundle, float32 where that is exact."""
        parts = {name: getattr(self, name) for name in _PARTS}
        return {
            f"{prefix}.{name}": part if name in ("centre", "scale", "log_roots") else part.astype(np.float32)
            for name, part in parts.items()
        }

    @property
    def features(self) -> int:
        return len(self.centre)

    @property
    def classes(self) -> int:
        return len(self.log_roots)

    def log_densities(self, rows: NDArray[Any]) -> Reals:
        """Return float64 (n, classes) of rows (n, D), but for a constant; what is not finite counts as the largest."""
        classes, k = self.means.shape
        white = self._coordinates(rows) @ self.side_by_side
        return _log_student(white.reshape(-1, classes, k), self.white_means, self.log_roots)

    def log_densities_of(self, rows: NDArray[Any], labels: NDArray[np.intp]) -> Reals:
        """Return float64 (n,): of each row the one of `log_densities` that belongs to its label, for less work."""
        white = (self._coordinates(rows)[:, None] @ self.to_white[labels])[:, 0]
        return _log_student(white, self.white_means[labels], self.log_roots[labels])

    def _coordinates(self, rows: NDArray[Any]) -> Reals:
        return _coordinates(rows, self.centre, self.scale, self.projection)


def _coordinates(rows: NDArray[Any], centre: Reals, scale: Reals, projection: Reals) -> Reals:
    """Return the leading coordinates of rows, (n, k), in units of their grid."""
    units = rows.astype(np.float64)
    units -= centre
    # The smaller of NaN and a number is the number: NaN counts as the largest value.
    np.fmin(units, VALUE_MAX * scale, out=units)
    np.maximum(units, -VALUE_MAX * scale, out=units)
    units *= 2.0**VALUE_BITS / scale
    np.rint(units, out=units)
    found: Reals = units @ projection
    np.rint(found, out=found)
    _clip(found, COORDINATE_MAX * 2.0**COORDINATE_BITS)
    return found


def _log_student(white: Reals, means: Reals, log_roots: Reals) -> Reals:
    """Return the log density of whitened coordinates (..., k) in units of their grid, which are written to."""
    np.rint(white, out=white)
    white -= means
    _clip(white, WHITE_MAX * 2.0**WHITE_BITS)
    distances = np.vecdot(white, white)
    distances /= FREEDOM * 4.0**WHITE_BITS
    return np.asarray(np.log1p(distances) * (-(FREEDOM + white.shape[-1]) / 2) - log_roots, np.float64)


def _fit_class(coordinates: Reals) -> tuple[Reals, Reals, Reals]:
    width = coordinates.shape[1]
    mean = coordinates.mean(axis=0)
    covariance = np.cov(coordinates.T).reshape(width, width)
    ball = np.trace(covariance) / width * np.eye(width)
    values, vectors = np.linalg.eigh((1 - SHRINKAGE) * covariance + SHRINKAGE * ball)
    # A direction in which the class hardly varies may not whiten beyond the grid.
    values = np.maximum(values, _WHITENING_MAX**-2)
    whitening = _on_grid(vectors / np.sqrt(values), _WHITENING_BITS)
    return _on_grid(mean @ whitening, WHITE_BITS), whitening, np.asarray(np.log(values).sum() / 2)


def _on_grid(values: NDArray[Any], bits: int) -> Reals:
    """Return the nearest multiples of 2^-bits."""
    rounded: Reals = np.rint(values.astype(np.float64) * 2.0**bits)
    rounded *= 2.0**-bits
    return rounded


def _clip(values: Reals, most: float) -> None:
    """Hold within +-most, in place."""
    np.minimum(values, most, out=values)
    np.maximum(values, -most, out=values)


def _read(arrays: Mapping[str, NDArray[Any]], name: str) -> Reals:
    array = arrays.get(name)
    if array is None:
        raise CalibrationInvalid(name, "absent")
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise CalibrationInvalid(name, f"{array.dtype}: finite floats wanted")
    return array.astype(np.float64)

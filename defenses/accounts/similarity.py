"""S2 similarity: is a query near one that was asked before?

A search for an adversarial example asks about points that lie close together; traffic about different things does not.
A *repeat* is a query within the ball of a remembered one (`evasion.window`); this module says what a ball is.

A query is compared cell by cell: inside the ball are codes of which at most `allowed[0]` of 192 cells differ by more
than `tolerances[0]`. A cell of an image is the median of its 3 x 3 neighbourhood. A median moves by no more than its
inputs do, so an L-infinity search of radius eps around any x keeps every cell within 2 eps of its own first query,
whatever the pattern of the perturbation (stripes, blocks, single pixels, low frequencies), and isolated wild pixels,
put there to leave the ball, vanish. Means, hashes and distances summed over an image have no such bound at a radius
that tells two products apart: docs/explanation/defenses.md has the comparison. Images are also compared moved by up to
two pixels each way (`allowed[1]`, `tolerances[1]`), since a search can move its image about as it asks.

The cells are drawn by a secret key. Inputs that are no images are compared element by element, by two balls: one where
all but a few are equal, one where all are close.

After Blacklight (Li et al., USENIX Security 2022) and PIHA (Choi et al., arXiv 2304.02080), whose hashes fall to steps
sized by what is refused (OARS, Feng et al., arXiv 2303.06280) and to independent blocks.

Pure: no clock, no randomness after construction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from defenses.errors import CalibrationInvalid, EvidenceInvalid

NAME: Final = "similarity"
TECHNIQUE: Final = "AML.T0043.001"  # MITRE ATLAS: Craft Adversarial Data, black-box optimization
CELLS_MAX: Final = 192  # with the rest of a row, 500 rows stay below 128 KiB
PROBES: Final = 64  # cells that are compared first
DIMS_MAX: Final = 1_048_576
SHIFT: Final = 2  # pixels each way
MARGIN: Final = SHIFT + 1  # pixels at the border that are no cells, so that nothing looks beyond it
SIDE_MIN: Final = 2 * MARGIN + 1
SHIFTS: Final = ((0, 0), *((y, x) for y in range(-2, 3) for x in range(-2, 3) if y or x))
GROUPS: Final = (
    (0,) * 6,
    *(
        tuple(SHIFTS.index((top + y, left + x)) for y in range(height) for x in range(5 - height))
        for top, left, height in ((-2, -2, 2), (-2, 1, 3), (1, 0, 2), (0, -2, 3))
    ),
)
"""Places in SHIFTS of views that look alike: the unmoved one, and the others in four parts, as a windmill's arms."""
HALF: Final = np.array(0.5, np.float32)

Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """Turns inputs into codes: uint8 (rows, views, cells), the first view unmoved. Build it with `from_calibration`."""

    low: NDArray[np.float32] = field(repr=False)  # (dims,)
    high: NDArray[np.float32] = field(repr=False)  # (dims,)
    per_unit: NDArray[np.float32] = field(repr=False)  # (dims,): units of the code in one of the input
    picture: tuple[int, int] | None  # height and width, where the input is one
    chosen: NDArray[np.intp] = field(repr=False)  # (views, cells): where in a row, secret
    groups: NDArray[np.intp]  # (groups, views): the row itself, then views for the second ball, those alike together
    chosen_probes: NDArray[np.intp] = field(repr=False)  # (groups, views, probes): the first cells of these
    alone: "OneRow" = field(repr=False)
    near: "Near" = field(repr=False)  # to a code, by the greater tolerance
    tolerances: tuple[int, int]
    allowed: tuple[int, int]
    key: bytes = field(repr=False)

    @classmethod
    def from_calibration(cls, arrays: Mapping[str, NDArray[Any]], key: bytes) -> Self:
        """Read the "similarity.*" arrays; CalibrationInvalid if malformed.

        low, step, weight: float32 (dims,), of all inputs side by side in the order of their names; a code is
            (value - low) / step, cells are drawn by weight.
        picture: int64 (2,), height and width, or (0,): no images.
        tolerances, allowed: int64 (2,): how far a cell may be and how many may be further; the second of each is for
            moved views, or for the second ball of numbers.
        """
        low, step, weight = (_floats(arrays, f"{NAME}.{part}") for part in ("low", "step", "weight"))
        if not low.size == step.size == weight.size or (step <= 0).any() or (weight < 0).any():
            raise CalibrationInvalid(f"{NAME}.low", "does not fit its step and weight")
        sides = _whole(arrays, f"{NAME}.picture", (0, 2), 4096)
        picture = (sides[0], sides[1]) if sides else None
        if picture is not None and (min(picture) < SIDE_MIN or picture[0] * picture[1] != low.size):
            raise CalibrationInvalid(f"{NAME}.picture", f"{picture} of {low.size} elements")
        tolerances, allowed = (_whole(arrays, f"{NAME}.{part}", (2,), 255) for part in ("tolerances", "allowed"))
        cells = choose_cells(weight, picture, key)
        moves = SHIFTS if picture is not None else SHIFTS[:1]
        width = 0 if picture is None else picture[1]
        chosen = np.stack([cells + y * width + x for y, x in moves])
        high, per_unit = low + step * np.float32(255), np.float32(1) / step
        if not (np.isfinite(high) & np.isfinite(per_unit)).all():
            raise CalibrationInvalid(f"{NAME}.step", "too large or too small")
        near = Near.of(max(tolerances))
        balls = (tolerances[0], tolerances[1]), (allowed[0], allowed[1])
        groups = np.array(((0,), (0,)) if picture is None else GROUPS, np.intp)
        probes = chosen[groups, :PROBES]
        return cls(low, high, per_unit, picture, chosen, groups, probes, OneRow(low.size, width), near, *balls, key)

    @property
    def cells(self) -> int:
        return int(self.chosen.shape[1])

    def units(self, flat: NDArray[Any]) -> Codes:
        """Return what codes of rows are taken from, `flatten`ed: uint8 (rows, dims), good until the next call.

        EvidenceInvalid where rows have another size than was calibrated.
        """
        if flat.shape[1] != self.low.size:
            raise EvidenceInvalid("inputs", f"{flat.shape[1]} elements a row; {self.low.size} wanted")
        if len(flat) == 1:
            return self.alone.units(flat, self.low, self.high, self.per_unit)
        # What is no number becomes an edge: never an error, never a way out of a ball. fmax passes over NaN.
        inside = np.fmin(np.fmax(flat.astype(np.float32, copy=False), self.low), self.high)
        units = ((inside - self.low) * self.per_unit + np.float32(0.5)).astype(np.uint8)
        return units if self.picture is None else medians(units, self.picture[1])

    def views(self, units: Codes) -> Codes:
        """Return the codes of rows, units (..., dims): (..., views, cells)."""
        return units.take(self.chosen, axis=-1)

    def codes(self, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Return the codes of the rows; EvidenceInvalid where they have another size than was calibrated."""
        return self.views(self.units(flatten(inputs)))

    def others(self, views: Codes) -> Codes:
        """Return what is compared by the second tolerance: an image's moved views; of numbers, the row itself."""
        return views[1:] if self.picture is not None else views

    def exact(self, flat: NDArray[Any]) -> list[int]:
        """Return a keyed 40-bit hash of each whole row, never 0."""
        rows = flat if flat.flags.c_contiguous else np.ascontiguousarray(flat)
        return [int.from_bytes(blake2b(row, digest_size=5, key=self.key).digest(), "little") or 1 for row in rows]


def flatten(inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return all inputs of a row side by side, (rows, dims), in the order of their names."""
    parts = [inputs[name].reshape(len(inputs[name]), -1) for name in sorted(inputs)]
    if not parts or not all(part.dtype.kind in "fiu" for part in parts):
        raise EvidenceInvalid("inputs", "no numbers")
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def medians(units: Codes, width: int) -> Codes:
    """Return the median of each 3 x 3 neighbourhood, uint8 (rows, dims) as given; at the border some other number.

    Runs over the whole batch as one line, which is why the border is no neighbourhood.
    """
    line = np.ascontiguousarray(units).reshape(-1)
    result = line.copy()
    for step, one, other, out in median_steps(line, result, width):
        step(one, other, out=out)
    return result.reshape(units.shape)


Step = tuple[np.ufunc, Codes, Codes, Codes]


def median_steps(line: Codes, result: Codes, width: int) -> list[Step]:
    """Return the 18 passes that write the medians of a line into another: each a function, two arrays, and where to.

    Sorts each column of three, then takes the median of (greatest least, middle middle, least greatest): exact.
    """
    if line.size <= 2 * width + 2:
        return []
    above, here, below = line[: -2 * width], line[width:-width], line[2 * width :]
    least, greatest, middle = np.empty_like(here), np.empty_like(here), np.empty_like(here)
    inner, lows, highs, spare = (np.empty_like(here[2:]) for _ in range(4))
    return [
        (np.minimum, above, here, least),
        (np.maximum, above, here, greatest),
        (np.minimum, greatest, below, middle),
        (np.maximum, least, middle, middle),
        (np.minimum, least, below, least),
        (np.maximum, greatest, below, greatest),
        (np.maximum, least[:-2], least[1:-1], lows),
        (np.maximum, lows, least[2:], lows),
        (np.minimum, greatest[:-2], greatest[1:-1], highs),
        (np.minimum, highs, greatest[2:], highs),
        *_middle(middle[:-2], middle[1:-1], middle[2:], spare, inner),
        *_middle(lows, inner, highs, spare, result[width + 1 : -width - 1]),
    ]


def _middle(one: Codes, two: Codes, three: Codes, spare: Codes, out: Codes) -> list[Step]:
    return [
        (np.minimum, one, two, spare),
        (np.maximum, one, two, out),
        (np.minimum, out, three, out),
        (np.maximum, spare, out, out),
    ]


class Near(NamedTuple):
    """Which codes are near a code: those from `low` to `high`. Tables, uint8 (256,), since a look costs one call."""

    low: Codes
    high: Codes

    @classmethod
    def of(cls, tolerance: int) -> "Near":
        codes = np.arange(256)
        return cls(
            np.maximum(codes - tolerance, 0).astype(np.uint8), np.minimum(codes + tolerance, 255).astype(np.uint8)
        )


class OneRow:
    """What `Fingerprint.units` does, for a row alone, in arrays that are made once: there it is the calls that cost."""

    __slots__ = ("_given", "_numbers", "_steps", "_units")

    def __init__(self, dims: int, width: int) -> None:
        """`width` of the picture, 0 where there is none."""
        self._numbers = np.empty(dims, np.float32)
        self._units = np.zeros((1, dims), np.uint8)
        self._given = np.empty(dims, np.uint8) if width else self._units[0]
        self._steps = median_steps(self._given, self._units[0], width) if width else []

    def units(
        self, row: NDArray[Any], low: NDArray[np.float32], high: NDArray[np.float32], per_unit: NDArray[np.float32]
    ) -> Codes:
        """Return uint8 (1, dims) of one row, (1, dims); the next call overwrites it."""
        numbers = self._numbers
        np.copyto(numbers, row[0], casting="unsafe")
        np.fmax(numbers, low, out=numbers)
        np.fmin(numbers, high, out=numbers)
        np.subtract(numbers, low, out=numbers)
        np.multiply(numbers, per_unit, out=numbers)
        np.add(numbers, HALF, out=numbers)
        np.copyto(self._given, numbers, casting="unsafe")
        for step, one, other, out in self._steps:
            step(one, other, out=out)
        return self._units


def choose_cells(weight: NDArray[np.float32], picture: tuple[int, int] | None, key: bytes) -> NDArray[np.intp]:
    """Draw up to CELLS_MAX cells without replacement by `weight`, in a random order, by a generator the key seeds."""
    usable = weight.astype(np.float64)
    if picture is not None:
        inside = np.zeros(picture, np.bool_)
        inside[MARGIN:-MARGIN, MARGIN:-MARGIN] = True
        usable *= inside.reshape(-1)
    count = min(int((usable > 0).sum()), CELLS_MAX)
    if not count:
        raise CalibrationInvalid(f"{NAME}.weight", "no cell")
    seed = int.from_bytes(blake2b(b"similarity cells", digest_size=16, key=key).digest(), "big")
    generator = np.random.default_rng(seed)
    return generator.choice(usable.size, count, replace=False, p=usable / usable.sum()).astype(np.intp)


def _floats(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    array = arrays.get(name)
    if array is None:
        raise CalibrationInvalid(name, "absent")
    if array.dtype != np.float32 or array.ndim != 1 or not 1 <= array.size <= DIMS_MAX:
        raise CalibrationInvalid(name, f"{array.dtype}{array.shape}: float32 (1..{DIMS_MAX},) wanted")
    if not np.isfinite(array).all():
        raise CalibrationInvalid(name, "not finite")
    return np.ascontiguousarray(array)


def _whole(arrays: Mapping[str, NDArray[Any]], name: str, sizes: tuple[int, ...], most: int) -> list[int]:
    array = arrays.get(name)
    if array is None:
        raise CalibrationInvalid(name, "absent")
    if array.dtype != np.int64 or array.ndim != 1 or array.size not in sizes or ((array < 0) | (array > most)).any():
        raise CalibrationInvalid(name, f"{array.dtype}{array.shape}: int64 of 0 to {most} wanted")
    whole: list[int] = array.tolist()
    return whole

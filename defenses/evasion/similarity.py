"""S2 similarity: is a query near one that was asked before?

A search for an adversarial example asks about points that lie close together; traffic about different things does not.
A *repeat* is a query within the ball of a remembered one, its *anchor*. Anchors are the queries that were no repeats.

The ball. Compare cells of the input one by one: an L-infinity search of radius eps around any x stays within 2 eps of
its own first query in *every* cell, whatever the pattern of the perturbation (stripes, blocks, single pixels, low
frequencies): no averaging, no hashing, so nothing that independent blocks (FRESH) or small steps (OARS, arXiv
2303.06280) could slip through. Different products differ by more than that in many cells. Inside means: at most
`allowed[k]` cells differ by more than `tolerances[k]`, for one k at least; the strictest tolerance forgives most cells,
so painting a few cells does not lead out either. Only 192 cells are compared, drawn by a secret key.

After Blacklight (Li et al., USENIX Security 2022) and PIHA (Choi et al., arXiv 2304.02080), without their hashes.

Pure state: no clock, no randomness after construction. Not thread-safe.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from defenses.errors import CalibrationInvalid, EvidenceInvalid

NAME: Final = "similarity"
TECHNIQUE: Final = "AML.T0043.001"  # MITRE ATLAS: Craft Adversarial Data, black-box optimization
CELLS_MAX: Final = 192  # with the rest of a row, 500 rows stay below 128 KiB
DIMS_MAX: Final = 1_048_576
ROWS_MAX: Final = 500  # remembered of a tenant
ROWS_FIRST: Final = 4  # a window begins small: who asks once costs little
RINGS: Final = 3

Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """Turns inputs into codes: uint8 (rows, cells). Build it with `from_calibration`."""

    low: NDArray[np.float32] = field(repr=False)  # (dims,)
    step: NDArray[np.float32] = field(repr=False)  # (dims,), > 0: one unit of the code
    chosen: NDArray[np.intp] = field(repr=False)  # (cells,), secret
    tolerances: tuple[int, ...]
    allowed: tuple[int, ...]
    key: bytes = field(repr=False)

    @classmethod
    def from_calibration(cls, arrays: Mapping[str, NDArray[Any]], key: bytes) -> Self:
        """Read "similarity.low", ".step", ".weight", ".tolerances", ".allowed"; CalibrationInvalid if malformed."""
        low, step, weight = (_floats(arrays, f"{NAME}.{part}") for part in ("low", "step", "weight"))
        if not low.size == step.size == weight.size or (step <= 0).any() or (weight < 0).any():
            raise CalibrationInvalid(f"{NAME}.low", "does not fit its step and weight")
        tolerances, allowed = (_whole(arrays, f"{NAME}.{part}") for part in ("tolerances", "allowed"))
        if len(tolerances) != len(allowed) or not 1 <= len(tolerances) <= RINGS:
            raise CalibrationInvalid(f"{NAME}.tolerances", f"1 to {RINGS}, as many as allowed, wanted")
        return cls(low, step, choose_cells(weight, key), tolerances, allowed, key)

    def codes(self, inputs: Mapping[str, NDArray[Any]]) -> Codes:
        """Return the codes of the rows; EvidenceInvalid where they have another size than was calibrated."""
        flat = flatten(inputs)
        if flat.shape[1] != self.low.size:
            raise EvidenceInvalid("inputs", f"{flat.shape[1]} elements a row; {self.low.size} wanted")
        chosen = self.chosen
        scaled = (flat[:, chosen].astype(np.float32) - self.low[chosen]) / self.step[chosen]
        # What is no number becomes the edge it is nearest to: never an error, never a way out of a ball.
        return np.nan_to_num(scaled, nan=0.0).clip(0.0, 255.0).round().astype(np.uint8)

    def exact(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.uint64]:
        """Return a keyed 64-bit hash of each whole row, never 0."""
        flat = np.ascontiguousarray(flatten(inputs))
        digests = [blake2b(row.tobytes(), digest_size=8, key=self.key).digest() for row in flat]
        return np.maximum(np.frombuffer(b"".join(digests), "<u8"), 1).astype(np.uint64)


def flatten(inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return all inputs of a row side by side, (rows, dims), in the order of their names."""
    parts = [array.reshape(len(array), -1) for _, array in sorted(inputs.items())]
    if not parts or any(part.dtype.kind not in "fiu" for part in parts):
        raise EvidenceInvalid("inputs", "no numbers")
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def choose_cells(weight: NDArray[np.float32], key: bytes) -> NDArray[np.intp]:
    """Draw up to CELLS_MAX cells without replacement by `weight`, from a generator seeded by the key."""
    usable = np.flatnonzero(weight > 0)
    if not usable.size:
        raise CalibrationInvalid(f"{NAME}.weight", "no cell")
    if usable.size <= CELLS_MAX:
        return usable
    seed = int.from_bytes(blake2b(b"similarity cells", digest_size=16, key=key).digest(), "big")
    share = weight[usable].astype(np.float64)
    chosen = np.random.default_rng(seed).choice(usable, CELLS_MAX, replace=False, p=share / share.sum())
    return np.sort(chosen)


@dataclass(slots=True, eq=False)
class Window:
    """The anchors of one tenant, the least recently met given up first; arrays grow to ROWS_MAX columns."""

    codes: Codes  # (cells, capacity): a column an anchor, so that sums over cells run along memory
    visits: NDArray[np.uint8]  # (capacity,): how often it was repeated, up to 255
    met: NDArray[np.int64]  # (capacity,): tick of its last use
    owners: NDArray[np.uint64]  # (capacity,): hash of who asked it
    seen: NDArray[np.uint64]  # (capacity,): exact hashes of the last queries, a ring
    answers: NDArray[np.uint8]  # (capacity, bytes): what was answered
    size: int = 0
    tick: int = 0
    newest: int = 0  # where the next exact hash goes

    @classmethod
    def new(cls, cells: int, answer_bytes: int) -> Self:
        first = ROWS_FIRST
        return cls(
            np.zeros((cells, first), np.uint8),
            np.zeros(first, np.uint8),
            np.zeros(first, np.int64),
            np.zeros(first, np.uint64),
            np.zeros(first, np.uint64),
            np.zeros((first, answer_bytes), np.uint8),
        )

    @property
    def nbytes(self) -> int:
        held = (self.codes, self.visits, self.met, self.owners, self.seen, self.answers)
        return sum(array.nbytes for array in held)

    def note(self, exact: np.uint64) -> bool:
        """Remember a query's exact hash; True where it is among the last already."""
        self.tick += 1
        if (self.seen == exact).any():
            return True
        self.seen[self.newest] = exact
        self.newest = (self.newest + 1) % len(self.seen)
        return False

    def nearest(self, code: Codes, fingerprint: Fingerprint) -> int | None:
        """Return the anchor whose ball the code lies in, the one with the fewest differing cells; None without."""
        size = self.size
        if not size:
            return None
        held = self.codes[:, :size]
        column = code[:, None]
        apart = np.maximum(held, column)
        apart -= np.minimum(held, column)
        excess = np.full(size, np.inf)
        for tolerance, allowed in zip(fingerprint.tolerances, fingerprint.allowed, strict=True):
            differing = np.add.reduce(apart > tolerance, axis=0, dtype=np.uint8)
            np.minimum(excess, differing - (allowed + 0.5), out=excess)
        at = int(excess.argmin())
        return at if excess[at] < 0 else None

    def repeat(self, at: int) -> int:
        """Count one more repeat of an anchor and return how many there were before, up to 255."""
        visits = int(self.visits[at])
        self.visits[at] = min(visits + 1, 255)
        self.met[at] = self.tick
        return visits

    def remember(self, code: Codes, owner: np.uint64, answer: Codes) -> int:
        """Make a query an anchor; where the window is full, the one that was met longest ago gives way."""
        if self.size == len(self.visits) and self.size < ROWS_MAX:
            self._grow()
        at = self.size if self.size < len(self.visits) else int(self.met.argmin())
        self.size = max(self.size, at + 1)
        self.codes[:, at] = code
        self.visits[at] = 0
        self.met[at] = self.tick
        self.owners[at] = owner
        self.answers[at] = answer
        return at

    def _grow(self) -> None:
        capacity = min(2 * len(self.visits), ROWS_MAX)
        more = capacity - len(self.visits)
        self.codes = np.pad(self.codes, ((0, 0), (0, more)))
        self.answers = np.pad(self.answers, ((0, more), (0, 0)))
        for name in ("visits", "met", "owners"):
            setattr(self, name, np.pad(getattr(self, name), (0, more)))
        ring = np.roll(self.seen, -self.newest)  # oldest first
        self.seen = np.pad(ring, (0, more))
        self.newest = len(ring)


def _floats(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    array = arrays.get(name)
    if array is None:
        raise CalibrationInvalid(name, "absent")
    if array.dtype != np.float32 or array.ndim != 1 or not 1 <= array.size <= DIMS_MAX:
        raise CalibrationInvalid(name, f"{array.dtype}{array.shape}: float32 (1..{DIMS_MAX},) wanted")
    if not np.isfinite(array).all():
        raise CalibrationInvalid(name, "not finite")
    return np.ascontiguousarray(array)


def _whole(arrays: Mapping[str, NDArray[Any]], name: str) -> tuple[int, ...]:
    array = arrays.get(name)
    if array is None:
        raise CalibrationInvalid(name, "absent")
    if array.dtype != np.int64 or array.ndim != 1 or (array < 0).any() or (array > 255).any():
        raise CalibrationInvalid(name, f"{array.dtype}{array.shape}: int64 (n,) of 0 to 255 wanted")
    return tuple(array.tolist())

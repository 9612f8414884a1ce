"""Embeddings that are given away: a rotation of each tenant's own, and how much of the space an account has seen.

Rotation. Each tenant gets every embedding turned by one secret orthogonal matrix, drawn evenly from all of them (Haar;
Stewart 1980) by a keyed hash of the tenant's name. Lengths, angles and distances stay as they are, so all that a tenant
does with its embeddings works as before. Those of two tenants, or of one tenant and a stolen encoder that was trained
on another's, do not fit together.
What it does not do: two tenants that ask the *same* inputs can find the turn between them (Procrustes) from about as
many common inputs as the embedding has dimensions. That is a cost, and a repeat across tenants that can be seen.

Coverage. Who uses embeddings for a task of his own sees a part of the space; who copies the encoder sees all of it. The
space is cut by BITS secret planes through the centre of benign embeddings into 2^BITS buckets, and an account's state
is one bit a bucket: 512 bytes. How many buckets benign accounts fill in as many queries is known from calibration; the
price of an answer is multiplied by how far an account is beyond that.

See Dubinski et al., "Bucks for Buckets (B4B): Active Defenses Against Stealing Encoders" (NeurIPS 2023,
arXiv 2310.08571). Unlike there, what is answered is never spoiled with noise: a tenant could not tell from outside.
Pure: the key is an argument, and nothing is drawn from elsewhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from defenses.calibration import CONFIDENCE, ConformalCalibration, digest_arrays
from defenses.errors import BudgetStateInvalid, CalibrationInvalid, EvidenceInvalid, RuleInvalid

NAME: Final = "coverage"
TECHNIQUE: Final = "AML.T0024.002"  # MITRE ATLAS: Extract ML Model
BITS: Final = 12
BUCKETS: Final = 1 << BITS
WIDTH_MAX: Final = 4_096
KEY_BYTES_MIN: Final = 16
QUERIES: Final = (30, 100, 300, 1_000, 3_000, 10_000)  # after which benign coverage is calibrated
OVERREACH_MAX: Final = 16.0

_ALGORITHM = "stockade.coverage/1"
_PARTS = ("center", "queries", "buckets")


def rotation_for(key: bytes, tenant: str, width: int) -> NDArray[np.float64]:
    """Return a tenant's orthogonal matrix, float64 (width, width); the same for the same key and name, everywhere.

    RuleInvalid for a key below KEY_BYTES_MIN bytes or a width outside [2, WIDTH_MAX].
    """
    _require_key(key)
    if not 2 <= width <= WIDTH_MAX:
        raise RuleInvalid("width", f"{width}: outside [2, {WIDTH_MAX}]")
    square = _normals(key, f"rotation\0{width}\0{tenant}", width * width).reshape(width, width)
    orthogonal, triangle = np.linalg.qr(square)
    return np.asarray(orthogonal * np.sign(np.diag(triangle)))  # without the signs it would not be even


def rotate(embeddings: NDArray[Any], rotation: NDArray[np.float64]) -> NDArray[Any]:
    """Turn float (rows, width) into a new array of the same dtype; EvidenceInvalid for another shape."""
    if embeddings.ndim != 2 or embeddings.shape[1] != len(rotation) or embeddings.dtype.kind != "f":
        raise EvidenceInvalid("embedding", f"{embeddings.dtype}{embeddings.shape}: (rows, {len(rotation)}) wanted")
    # Not one matrix product: its rounding depends on the rows beside, and a row has to be answered the same alone.
    turned = np.einsum("rw,wv->rv", embeddings.astype(np.float64), rotation)
    return np.asarray(turned, embeddings.dtype)


@dataclass(frozen=True, slots=True)
class Seen:
    """What an account has seen of the space: a bit for each bucket, and how many embeddings that took."""

    bitmap: bytes = bytes(BUCKETS // 8)
    queries: int = 0

    @property
    def buckets(self) -> int:
        """How many buckets have been seen."""
        return int.from_bytes(self.bitmap, "little").bit_count()

    def pack(self) -> bytes:
        return self.queries.to_bytes(8, "little") + self.bitmap

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read what `pack` wrote; BudgetStateInvalid for any other bytes."""
        queries = int.from_bytes(data[:8], "little")
        seen = cls(data[8:], queries)
        if len(data) != 8 + BUCKETS // 8 or seen.buckets > queries or queries >= 1 << 63:
            raise BudgetStateInvalid(len(data))
        return seen


UNSEEN: Final = Seen()


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """Which bucket an embedding lies in, and how much more than benign accounts one has seen."""

    center: NDArray[np.float64] = field(repr=False)
    planes: NDArray[np.float64] = field(repr=False)  # (width, BITS)
    queries: NDArray[np.int64] = field(repr=False)
    bounds: NDArray[np.float64] = field(repr=False)  # buckets that benign accounts stay within after `queries`
    digest: str
    name: str = NAME
    technique: str = TECHNIQUE

    @classmethod
    def from_calibration(cls, arrays: Mapping[str, NDArray[Any]], key: bytes) -> Self:
        """Read the "coverage.*" arrays of `fit_coverage`; `key` draws the planes. CalibrationInvalid, RuleInvalid."""
        _require_key(key)
        own = {name: array for name, array in arrays.items() if name.startswith(f"{NAME}.")}
        for name in own.keys() ^ {f"{NAME}.{part}" for part in _PARTS}:
            raise CalibrationInvalid(name, "absent, or unknown to this version of the screen")
        center, queries, bounds = (own[f"{NAME}.{part}"] for part in _PARTS)
        if center.ndim != 1 or not 2 <= center.size <= WIDTH_MAX or not np.isfinite(center).all():
            raise CalibrationInvalid(f"{NAME}.center", f"{center.shape}")
        if queries.ndim != 1 or not queries.size or queries.shape != bounds.shape or (np.diff(queries) <= 0).any():
            raise CalibrationInvalid(f"{NAME}.queries", "not ascending, with buckets for each")
        if queries[0] < 1 or not ((bounds >= 1) & (bounds <= BUCKETS)).all() or (np.diff(bounds) < 0).any():
            raise CalibrationInvalid(f"{NAME}.buckets", f"not ascending in [1, {BUCKETS}]")
        planes = _normals(key, f"planes\0{center.size}", center.size * BITS).reshape(center.size, BITS)
        as_read = (center.astype(np.float64), planes, queries.astype(np.int64), bounds.astype(np.float64))
        return cls(*as_read, digest_arrays(_ALGORITHM, own))

    def buckets_of(self, embeddings: NDArray[Any]) -> NDArray[np.int64]:
        """Return the bucket of each embedding as the model gave it (not rotated), int64 (rows,) below BUCKETS."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.center.size or embeddings.dtype.kind != "f":
            raise EvidenceInvalid(
                "embedding", f"{embeddings.dtype}{embeddings.shape}: (rows, {self.center.size}) wanted"
            )
        sides = np.einsum("rw,wb->rb", embeddings.astype(np.float64) - self.center, self.planes) > 0.0
        return np.asarray(sides @ (1 << np.arange(BITS)), np.int64)

    def note(self, seen: Seen, buckets: NDArray[np.int64]) -> Seen:
        """Return what the account has seen after these embeddings."""
        bits = int.from_bytes(seen.bitmap, "little")
        for bucket in buckets.tolist():
            bits |= 1 << bucket
        return Seen(bits.to_bytes(BUCKETS // 8, "little"), seen.queries + buckets.size)

    def overreach(self, seen: Seen) -> float:
        """Return the factor of the price, from 1 to OVERREACH_MAX.

        1 as long as the account has seen no more buckets than benign ones do in as many queries; then it doubles for
        each tenth of that bound beyond it.
        """
        if seen.queries < self.queries[0]:
            return 1.0
        bound = float(np.interp(math.log(seen.queries), np.log(self.queries), self.bounds))
        tenths = max(0.0, (seen.buckets / bound - 1.0) * 10.0)
        return math.exp2(min(tenths, math.log2(OVERREACH_MAX)))


def fit_coverage(
    accounts: list[NDArray[Any]],
    *,
    keys: int = 20,
    beyond_max: float = 0.01,
    queries: tuple[int, ...] = QUERIES,
    seed: int,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Calibrate coverage on what benign accounts asked for.

    Args:
        accounts: the embeddings that each benign account would have been given, float (rows, width), in order.
        keys: how many sets of planes to try; the bound is over accounts and planes, as a host's are not known here.
        beyond_max: the share of benign accounts that may be beyond the bound after each number of queries.
        queries: those numbers, ascending; an account that asks less is drawn from with repeats.
        seed: of the draws.

    Returns the "coverage.*" arrays and a report that is plain JSON. CalibrationInvalid, CalibrationTooSmall (of
    accounts times keys), EvidenceInvalid.
    """
    if not accounts or any(each.ndim != 2 or not len(each) for each in accounts):
        raise CalibrationInvalid("accounts", "none, or one without embeddings")
    center = np.concatenate(accounts).astype(np.float64).mean(axis=0)
    rng = np.random.default_rng([seed, 0x434F])
    blank: dict[str, NDArray[Any]] = {
        f"{NAME}.center": center,
        f"{NAME}.queries": np.asarray(queries, np.int64),
        f"{NAME}.buckets": np.ones(len(queries)),
    }
    counts = []
    for _ in range(keys):
        coverage = Coverage.from_calibration(blank, rng.bytes(KEY_BYTES_MIN))
        for account in accounts:
            longest = queries[-1]
            order = np.arange(len(account)) if len(account) >= longest else rng.integers(0, len(account), longest)
            first_seen = np.unique(coverage.buckets_of(account)[order[:longest]], return_index=True)[1]
            counts.append([(first_seen < number).sum() for number in queries])
    bounds = [
        ConformalCalibration.from_scores(column).threshold(beyond_max, CONFIDENCE) for column in np.array(counts).T
    ]
    arrays = blank | {f"{NAME}.buckets": np.maximum.accumulate(np.array(bounds, np.float64))}
    report = {
        "screen": NAME,
        "technique": TECHNIQUE,
        "accounts": len(accounts),
        "keys": keys,
        "beyond_max": beyond_max,
        "confidence": CONFIDENCE,
        "buckets": {str(number): float(bound) for number, bound in zip(queries, bounds, strict=True)},
    }
    return arrays, report


def _require_key(key: bytes) -> None:
    if len(key) < KEY_BYTES_MIN:
        raise RuleInvalid("key", f"{len(key)} bytes; {KEY_BYTES_MIN} or more wanted")


def _normals(key: bytes, label: str, count: int) -> NDArray[np.float64]:
    """Draw normal numbers by a keyed hash (Box and Muller 1958): NumPy's generators may change between versions."""
    digest = hashlib.shake_256(len(key).to_bytes(4, "big") + key + label.encode("utf-8", "surrogatepass"))
    pairs = -(-count // 2)
    words = np.frombuffer(digest.digest(16 * pairs), "<u8").reshape(2, pairs)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[0])), 2.0 * np.pi * uniform[1]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

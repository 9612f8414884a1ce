"""Evidence of accounts that gave way to others: a fixed table where only its owner finds it again.

A set-associative table of keyed 64-bit tags. Nobody inherits a stranger's evidence (two accounts share a tag with
probability 2^-64, and nobody without the key can look for two that do), and none is lost to a flood of innocent
identities, because in a full set the least evidence gives way. So an attacker who wants an account forgotten has to
bring eight others of the same set, which is secret, to more evidence first.

Bounded: 262,144 entries in 5 MiB. Pure but for its table; no clock.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

SETS: Final = 32_768
WAYS: Final = 8
KEPT_MIN: Final = 0.0  # natural logarithm: what is no evidence is not worth a place


class Kept(NamedTuple):
    """What is known of an account that gave way."""

    log_evidence: float
    steps: int


def _tags() -> NDArray[np.uint64]:
    return np.zeros((SETS, WAYS), np.uint64)


def _logs() -> NDArray[np.float32]:
    return np.full((SETS, WAYS), -inf, np.float32)


def _steps() -> NDArray[np.uint64]:
    return np.zeros((SETS, WAYS), np.uint64)


@dataclass(slots=True, eq=False)
class Archive:
    """Evidence by principal."""

    key: bytes = field(repr=False)
    tags: NDArray[np.uint64] = field(default_factory=_tags, repr=False)  # 0: free
    logs: NDArray[np.float32] = field(default_factory=_logs, repr=False)
    steps: NDArray[np.uint64] = field(default_factory=_steps, repr=False)

    def put(self, principal: str, log_evidence: float, steps: int) -> None:
        """Keep an account's evidence, if it is any; in a full set it has to be more than the least there."""
        if log_evidence <= KEPT_MIN:
            return
        place, tag = self._place(principal)
        found = np.flatnonzero(self.tags[place] == tag)
        way = int(found[0]) if found.size else int(self.logs[place].argmin())
        if found.size or log_evidence > self.logs[place, way]:
            self.tags[place, way], self.logs[place, way], self.steps[place, way] = tag, log_evidence, steps

    def take(self, principal: str) -> Kept | None:
        """Return what is kept of an account and forget it: its owner holds it from here on."""
        place, tag = self._place(principal)
        found = np.flatnonzero(self.tags[place] == tag)
        if not found.size:
            return None
        way = int(found[0])
        kept = Kept(float(self.logs[place, way]), int(self.steps[place, way]))
        self.tags[place, way], self.logs[place, way] = 0, -inf
        return kept

    @property
    def nbytes(self) -> int:
        return self.tags.nbytes + self.logs.nbytes + self.steps.nbytes

    def _place(self, principal: str) -> tuple[int, np.uint64]:
        digest = blake2b(principal.encode(), digest_size=16, key=self.key, person=b"watch archive").digest()
        tag = max(int.from_bytes(digest[:8], "little"), 1)
        return int.from_bytes(digest[8:], "little") % SETS, np.uint64(tag)

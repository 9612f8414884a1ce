"""The last queries of one tenant, as far as S2 needs them: anchors, and where a new query lies.

An *anchor* is a remembered query that was no repeat itself; its ball is `similarity`'s. A window holds up to 500. Where
it is full, one gives way that chance names, secretly: who goes round among 520 things, to come back to each just after
it would have been the oldest, still meets nine anchors of ten. One that was repeated stays for LOYALTY queries after
that: who lets others' questions pass between two of his own still finds his anchor there.

A query is *exact* where it was asked before, bit for bit. That is seen of anchors while they stay, and of the last
AGAIN_MAX others: who sends the same thousand things once more is told from who searches among them.

How often an anchor was repeated halves with every FADE queries that pass without a repeat. Otherwise what many ask
about (a plain pair of trousers) would grow old as the most suspicious of all.

Not thread-safe; no clock: time is the number of queries. Chance follows from a seed and that number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from defenses.accounts.returns import AGE, SLOWER, lies_alone
from defenses.accounts.similarity import Codes, Fingerprint

ANCHORS_MAX: Final = 500
ANCHORS_FIRST: Final = 4  # a window begins small: who asks once costs little
AGAIN_MAX: Final = 125
VISITS_MAX: Final = 255
LOYALTY: Final = 2_000
FADE: Final = 128
CANDIDATES: Final = 12  # anchors that are compared by the second tolerance: those nearest by the first
REFERENCE_BYTES: Final = 8
OBJECT_BYTES: Final = 1_024  # of a window, beside what its arrays hold: measured with 75,000 of them
WORD_BITS: Final = 64
WORD: Final = 2**WORD_BITS - 1
WHO_BITS: Final = 24  # of what is kept of a query: who asked; the rest is the hash of what was asked
EXACT_BITS: Final = WORD_BITS - WHO_BITS


class Asked(Enum):
    """Whether a query is exact, and whose it was."""

    NEW = auto()
    BEFORE = auto()  # by the same principal
    BY_OTHERS = auto()


@dataclass(slots=True, eq=False)
class Window:
    """Arrays have `capacity` columns or rows, of which the first `size` are in use; they grow to ANCHORS_MAX."""

    codes: Codes  # (cells, capacity): a column an anchor, so that sums over cells run along memory
    answers: Codes  # (capacity, bytes): what was answered
    visits: NDArray[np.uint8]  # (capacity,): how often it was repeated
    met: NDArray[np.int64]  # (capacity,): when it was asked or repeated last
    exact: NDArray[np.uint64]  # (capacity,): what `query_of` says of it
    again: NDArray[np.uint64]  # (AGAIN_MAX,): the same of the last queries that are no anchors, a ring; 0 is none
    askers: list[str]  # of each anchor: who asked it
    seed: int  # secret, 64 bits
    queries: int = 0
    newest: int = 0  # where the next goes in that ring
    slow: int = 0  # places, the first, that give way a SLOWER-th as often as the others

    @classmethod
    def new(cls, cells: int, answer_bytes: int, seed: int, slow: int = 0) -> Self:
        first = ANCHORS_FIRST
        return cls(
            np.zeros((cells, first), np.uint8),
            np.zeros((first, answer_bytes), np.uint8),
            np.zeros(first, np.uint8),
            np.zeros(first, np.int64),
            np.zeros(first, np.uint64),
            np.zeros(AGAIN_MAX, np.uint64),
            [],
            seed,
            slow=slow,
        )

    @property
    def size(self) -> int:
        return len(self.askers)

    @property
    def capacity(self) -> int:
        return len(self.visits)

    @property
    def nbytes(self) -> int:
        return self.nbytes_of(self.capacity)

    def nbytes_of(self, capacity: int) -> int:
        """Return the bytes of a window of this one's kind with so many places."""
        held = (self.codes, self.answers, self.visits, self.met, self.exact)
        each = REFERENCE_BYTES + sum(array.nbytes // self.capacity for array in held)
        return OBJECT_BYTES + self.again.nbytes + capacity * each

    def asked(self, query: int) -> Asked:
        """Count a query, which `query_of` names, and say whether it was asked before."""
        self.queries += 1
        one = np.uint64(query)
        least = min(int(np.bitwise_xor(self.exact, one).min()), int(np.bitwise_xor(self.again, one).min()))
        if least >> WHO_BITS:
            return Asked.NEW
        return Asked.BY_OTHERS if least else Asked.BEFORE

    def pass_by(self, query: int) -> None:
        """Remember a query that becomes no anchor, so that it is exact next time."""
        self.again[self.newest] = query
        self.newest = (self.newest + 1) % AGAIN_MAX

    def apart(self, code: Codes, fingerprint: Fingerprint) -> NDArray[np.uint8]:
        """Return in how many cells each anchor differs from a query's code, (cells,), by the first tolerance."""
        return differing(self.codes[:, : self.size], code[:, None], fingerprint.tolerances[0])

    def returned(self, inside: Sequence[int], code: Codes, fingerprint: Fingerprint) -> bool:
        """Return whether a query in the balls of these anchors, at least one, is a return (see `returns`)."""
        if self.queries - int(self.met[inside].max()) < AGE:
            return False
        return lies_alone(np.delete(self.apart(code, fingerprint), inside), fingerprint.cells)

    def repeat(self, at: int) -> int:
        """Count a repeat of an anchor; return how many there were before, faded."""
        passed = self.queries - int(self.met[at])
        visits = int(self.visits[at]) >> min(passed // FADE, 8)
        self.visits[at] = min(visits + 1, VISITS_MAX)
        self.met[at] = self.queries
        return visits

    def remember(self, code: Codes, asker: str, answer: Codes, query: int) -> int:
        """Make a query an anchor; return its place."""
        size = self.size
        if size == len(self.visits) < ANCHORS_MAX:
            self._grow()
        if size < len(self.visits):
            at = size
            self.askers.append(asker)
        else:
            at = self._given_up()
            self.askers[at] = asker
        self.codes[:, at] = code
        self.answers[at] = answer
        self.visits[at] = 0
        self.met[at] = self.queries
        self.exact[at] = query
        return at

    def _given_up(self) -> int:
        """Return which anchor gives way: any not repeated of late; if there is none, the one met longest ago."""
        draw = mixed(self.seed + self.queries)
        for part in range(0, 64, 16):  # nearly all are idle as a rule: four draws seldom miss
            at = ((draw >> part) & 0xFFFF) % self.size
            if at < self.slow and mixed(draw ^ part) % SLOWER:
                continue
            if not self.visits[at] or self.queries - self.met[at] > LOYALTY:
                return at
        idle = np.flatnonzero((self.visits == 0) | (self.queries - self.met > LOYALTY))
        return int(idle[draw % idle.size]) if idle.size else int(self.met.argmin())

    def _grow(self) -> None:
        capacity = min(2 * len(self.visits), ANCHORS_MAX)
        more = capacity - len(self.visits)
        self.codes = np.pad(self.codes, ((0, 0), (0, more)))
        self.answers = np.pad(self.answers, ((0, more), (0, 0)))
        self.visits, self.met = np.pad(self.visits, (0, more)), np.pad(self.met, (0, more))
        self.exact = np.pad(self.exact, (0, more))


def query_of(exact: int, who: int) -> int:
    """Return how a query is remembered: by a hash of all of it, EXACT_BITS and never 0, and one of its asker."""
    return exact << WHO_BITS | who


def mixed(number: int) -> int:
    """Return 64 bits that look like chance: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    number = (number * 0x9E3779B97F4A7C15) & WORD
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & WORD
    return number ^ (number >> 31)


def nearest(apart: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return the CANDIDATES anchors that are nearest by what `differing` counts, in no order."""
    return apart.argpartition(CANDIDATES)[:CANDIDATES] if apart.size > CANDIDATES else np.arange(apart.size)


def differing(codes: Codes, wanted: Codes, tolerance: int) -> NDArray[np.uint8]:
    """Return how many cells of each anchor, uint8 (cells, anchors), are further than a tolerance from what is wanted.

    `wanted` is uint8 (cells, 1), or has a column of its own for each anchor.
    """
    gaps = np.maximum(codes, wanted)
    gaps -= np.minimum(codes, wanted)
    counts: NDArray[np.uint8] = np.add.reduce((gaps > tolerance).view(np.uint8), axis=0, dtype=np.uint8)
    return counts

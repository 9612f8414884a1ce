"""Which anchors of a window several queries lie near, found for all of them at once.

A query meets the anchors whose own cells are near; if there are none, those that another view meets, of the CANDIDATES
nearest. Most anchors are passed over by the probes: no view of the query comes near enough in them.

Each query may change the window for those behind it: it becomes an anchor, and another gives way. So queries are held
against the window's anchors and against each other at once, and `inside` says, when it is a query's turn, which of
those it met the window holds by then. That is what one look after the other would find, to the bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from defenses.accounts.similarity import PROBES, Codes, Fingerprint
from defenses.accounts.window import WORD_BITS, Window, differing, nearest

ROWS_MAX: Final = 16  # of one look-up: more, and what comes in between leaves the second-level cache

Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]  # a row of the queries, and a column of what they are held against

NO_PAIRS: Final[Pairs] = (np.empty(0, np.intp), np.empty(0, np.intp))


class Lookup:
    """Looks for queries of a window's tenant, uint8 (rows, dims) of `Fingerprint.units`, in their order."""

    __slots__ = ("_became", "_by_other", "_by_own", "_fingerprint", "_holder", "_size", "_window", "codes")

    def __init__(self, window: Window, units: Codes, fingerprint: Fingerprint) -> None:
        self.codes: Codes = units.take(fingerprint.chosen[0], axis=-1)
        """uint8 (rows, cells): what an anchor keeps of each."""
        self._window, self._fingerprint, self._size = window, fingerprint, window.size
        self._holder: dict[int, int] = {}  # a place of the window -> the column of the query that has taken it
        self._became: dict[int, int] = {}  # the other way round
        held = window.codes[:, : self._size]
        if len(units) > 1:
            held = np.concatenate([held, self.codes.T], axis=1)
        by_own, by_other = met(held, units, self.codes, fingerprint)
        self._by_own, self._by_other = _columns(by_own), _columns(by_other)

    def inside(self, row: int) -> list[int]:
        """Return the places of the anchors in whose balls a query lies, ascending: mostly none, or one."""
        own = self._places(self._by_own.get(row, ()))
        other = () if own else self._places(self._by_other.get(row, ()))
        if not other:
            return own
        apart = self._window.apart(self.codes[row], self._fingerprint)
        return sorted({*other}.intersection(nearest(apart).tolist()))

    def became(self, row: int, at: int) -> None:
        """A query is an anchor from now on, at this place of the window."""
        column = self._size + row
        self._holder[at], self._became[column] = column, at

    def _places(self, columns: Iterable[int]) -> list[int]:
        """Return where that stands in the window now which stood in these columns, ascending."""
        places = []
        for column in columns:
            at = column if column < self._size else self._became.get(column)
            if at is not None and self._holder.get(at, at) == column:
                places.append(at)
        return sorted(places)


class Turn(NamedTuple):
    """A query whose turn it is."""

    lookup: Lookup
    row: int

    @property
    def code(self) -> Codes:
        """Return what an anchor keeps of it, uint8 (cells,)."""
        code: Codes = self.lookup.codes[self.row]
        return code

    def inside(self) -> list[int]:
        """Return the anchors in whose balls it lies; see `Lookup.inside`."""
        return self.lookup.inside(self.row)

    def became(self, at: int) -> None:
        """It is an anchor from now on, at this place of the window."""
        self.lookup.became(self.row, at)


def lookups(window: Window, units: Codes, rows: Sequence[int], fingerprint: Fingerprint) -> Iterator[Turn]:
    """Yield the turn of each of a tenant's rows, of a batch's `units`; those before have had theirs by then."""
    for first in range(0, len(rows), ROWS_MAX):
        some = rows[first : first + ROWS_MAX]
        lookup = Lookup(window, units if len(some) == len(units) else units[some], fingerprint)
        for row in range(len(some)):
            yield Turn(lookup, row)


def met(held: Codes, units: Codes, codes: Codes, fingerprint: Fingerprint) -> tuple[Pairs, Pairs]:
    """Return which queries, (rows, dims) and their codes (rows, cells), meet which anchors, (cells, anchors): by their
    own cells, and by another view.

    Most pairs are out by their probes: too few of the anchor's lie in the ranges that all views are near to, or those
    of a group of views.
    """
    probes, (own_max, other_max) = held[:PROBES], fingerprint.allowed
    views = units.take(fingerprint.chosen_probes, axis=-1)  # (rows, groups, views, probes)
    low = fingerprint.near.low.take(np.minimum.reduce(views, axis=2))
    high = fingerprint.near.high.take(np.maximum.reduce(views, axis=2))
    row, at = _within(probes, np.minimum.reduce(low, axis=1), np.maximum.reduce(high, axis=1), max(own_max, other_max))
    if not row.size:
        return NO_PAIRS, NO_PAIRS
    anchors = _as_rows(probes, at)
    outside = _count(anchors[:, None] - low.take(row, axis=0) > (high - low).take(row, axis=0))  # (pairs, groups)
    own = (outside[:, 0] <= own_max).nonzero()[0]
    by_own = row[own], at[own]
    if own.size:
        by_own = _sure(by_own, held, codes[by_own[0]], fingerprint.tolerances[0], own_max)
    other, group = (outside[:, 1:] <= other_max).nonzero()
    if not other.size:
        return by_own, NO_PAIRS
    tolerance = fingerprint.tolerances[1]
    pair, view = (_apart(anchors[other, None], views[row[other], group + 1], tolerance) <= other_max).nonzero()
    other, group = other[pair], group[pair]
    by_other = row[other], at[other]
    if other.size:
        chosen = fingerprint.chosen[fingerprint.groups[group + 1, view]]
        by_other = _sure(by_other, held, units[by_other[0][:, None], chosen], tolerance, other_max)
    return by_own, by_other


def _within(probes: Codes, low: Codes, high: Codes, allowed: int) -> Pairs:
    """Return of which anchors, (probes, anchors), at most so many probes are outside of each query's ranges."""
    gaps = probes - low[:, :, None]  # what lies below wraps round, and is greater than any range
    outside = (gaps > (high - low)[:, :, None]).view(np.uint8)
    counts = np.add.reduce(outside, axis=1, dtype=np.uint8).reshape(-1)
    row, at = np.divmod((counts <= allowed).nonzero()[0], probes.shape[1])
    return row, at


def _sure(pairs: Pairs, held: Codes, wanted: Codes, tolerance: int, allowed: int) -> Pairs:
    """Return the pairs that meet by all cells; `wanted` of each, (pairs, cells)."""
    sure = differing(held[:, pairs[1]], wanted.T, tolerance) <= allowed
    return pairs[0][sure], pairs[1][sure]


def _as_rows(probes: Codes, at: NDArray[np.intp]) -> Codes:
    """Return these columns as rows; of many, all are turned first."""
    rows: Codes = probes.take(at, axis=1).T.copy() if at.size < probes.shape[1] else probes.T.take(at, axis=0)
    return rows


def _columns(pairs: Pairs) -> dict[int, list[int]]:
    """Return the columns of each row that has any."""
    found: dict[int, list[int]] = {}
    for row, column in zip(pairs[0].tolist(), pairs[1].tolist(), strict=True):
        found.setdefault(row, []).append(column)
    return found


def _apart(codes: Codes, wanted: Codes, tolerance: int) -> NDArray[np.uint8]:
    """Return in how many cells, the last axis, codes are further than a tolerance from what is wanted."""
    gaps = np.maximum(codes, wanted)
    gaps -= np.minimum(codes, wanted)
    return _count(gaps > tolerance)


def _count(which: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return how many of the last axis, 255 at most, are true."""
    counts: NDArray[np.uint8]
    if which.shape[-1] == WORD_BITS:  # a sum along a short axis costs a call for each
        counts = np.bitwise_count(np.packbits(which).view(np.uint64)).reshape(which.shape[:-1])
    else:
        counts = np.add.reduce(which.view(np.uint8), axis=-1, dtype=np.uint8)
    return counts

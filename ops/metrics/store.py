"""One process's metrics in memory-mapped files, in prometheus_client's multiprocess format.

Rules:
- A process writes files of its own (`counter_<process>.db`); a scrape reads everybody's and adds them up. A write is a
  store into shared memory, so what was counted survives kill -9, and a process started again under the same name goes
  on from there: the number of files is the number of names, however often processes die.
- Two writers of one name would corrupt the files: the second gets MetricsInUse.
- A bound cell is written while `Store.lock` is held; one lock round serves a whole batch. What `setter`, `adder`,
  `counter_of` and `observer` return takes the lock itself.
- Label values come from a `Vocabulary`: what is not in it becomes "other", so no client can invent a series.

The library's own classes are not used for writing: they take a lock and ask for the process id at each increment, and
look for their directory in the environment when they are imported. The format and the merge are the library's.
"""

import fcntl
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Lock
from typing import IO, Any, Protocol, cast

from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import mark_process_dead
from prometheus_client.utils import floatToGoString

OTHER = "other"
VALUES_PER_LABEL_MAX = 1024


class _File(Protocol):
    """What the library's mapped file offers; it comes without types."""

    def read_value(self, key: str) -> tuple[float, float]: ...
    def write_value(self, key: str, value: float, timestamp: float) -> None: ...
    def close(self) -> None: ...


_open_file = cast("Callable[[str], _File]", MmapedDict)
_bound_text = cast("Callable[[float], str]", floatToGoString)
_mark_dead = cast("Callable[[str, str], None]", mark_process_dead)
_PROCESS = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)  # the library splits file names at "_"


class MetricsInUse(Exception):
    """Another live process writes metrics under this name. `process` says which name."""

    def __init__(self, process: str) -> None:
        self.process = process
        super().__init__(process)


class Vocabulary:
    """The values a label may have. Grows only through `allow`, up to VALUES_PER_LABEL_MAX a label at a time."""

    def __init__(self) -> None:
        self._allowed: dict[str, set[str]] = {}

    def allow(self, label: str, values: Iterable[str]) -> None:
        """Add values; those beyond the limit stay "other"."""
        known = self._allowed.setdefault(label, {OTHER})
        for value in values:
            if len(known) < VALUES_PER_LABEL_MAX:
                known.add(value)

    def forget(self, label: str, value: str) -> None:
        """Make room for another value."""
        self._allowed[label].discard(value)

    def word(self, label: str, value: str) -> str:
        """The value itself if it is known, otherwise "other"."""
        return value if value in self._allowed.get(label, ()) else OTHER


class Cell:
    """One number of one series. Call with `Store.lock` held."""

    __slots__ = ("_file", "_key", "_value")

    def __init__(self, file: _File, key: str) -> None:
        self._file = file
        self._key = key
        counted_before, _ = file.read_value(key)  # by a process of this name that has gone
        self._value: float = counted_before

    def add(self, amount: float) -> None:
        self._value += amount
        self._file.write_value(self._key, self._value, 0.0)

    def set(self, value: float) -> None:
        self._value = value
        self._file.write_value(self._key, value, 0.0)


class HistogramCells:
    """The buckets and the sum of one series; `scale` turns what is observed into the unit of the bounds' sum."""

    __slots__ = ("_bounds", "_buckets", "_scale", "_sum")

    def __init__(self, bounds: Sequence[float], buckets: Sequence[Cell], total: Cell, scale: float) -> None:
        self._bounds = bounds
        self._buckets = buckets
        self._sum = total
        self._scale = scale

    def observe(self, values: Sequence[float]) -> None:
        """Count all values at once: one write a bucket that was hit, and one for the sum. Lock held."""
        bounds = self._bounds
        if len(values) == 1:
            self._buckets[bisect_left(bounds, values[0])].add(1)
        else:
            hits: dict[int, int] = {}
            for value in values:
                index = bisect_left(bounds, value)
                hits[index] = hits.get(index, 0) + 1
            for index, count in hits.items():
                self._buckets[index].add(count)
        self._sum.add(sum(values) * self._scale)


class Store:
    """The files of one process. Raises MetricsInUse when a live process has the same name."""

    def __init__(self, directory: Path, process: str) -> None:
        if _PROCESS.fullmatch(process) is None:
            raise ValueError(f"{process!r} cannot name a process; use letters, digits and hyphens")
        self.lock = Lock()
        self.vocabulary = Vocabulary()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._process = process
        self._files: dict[str, _File] = {}
        self._owned = _own(directory / f"{process}.lock", process)
        forget_process(directory, process)  # gauges of an earlier life say nothing about this one

    def file(self, kind: str) -> _File:
        """The file for `kind`: "counter", "histogram" or "gauge_<how the library merges it>"."""
        file = self._files.get(kind)
        if file is None:
            file = self._files[kind] = _open_file(str(self._directory / f"{kind}_{self._process}.db"))
        return file

    def close(self) -> None:
        """Give the name back. What was counted stays."""
        with self.lock:
            for file in self._files.values():
                file.close()
            self._files.clear()
            self._owned.close()


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name, its help text, the names of its labels, and the file it is written to."""

    store: Store
    kind: str
    name: str
    text: str
    labels: tuple[str, ...] = ()

    def known(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """The label values under which something is counted: those that are not in the vocabulary are "other"."""
        return tuple(map(self.store.vocabulary.word, self.labels, values))

    def cell(self, series: str, values: Sequence[str], bound: str | None = None) -> Cell:
        """The cell of a series; `bound` is a bucket's upper bound."""
        labels, of = [*self.labels], [*values]
        if bound is not None:
            labels.append("le")
            of.append(bound)
        return Cell(self.store.file(self.kind), mmap_key(self.name, series, labels, of, self.text))


class Scalar:
    """A counter or a gauge with its series."""

    def __init__(self, family: Family, series: str) -> None:
        self._family = family
        self._series = series
        self._cells: dict[tuple[str, ...], Cell] = {}

    def bind(self, *values: str) -> Cell:
        """The series of these label values. `Store.lock` held."""
        cell = self._cells.get(values)
        if cell is None:
            known = self._family.known(values)
            cell = self._cells.get(known)
            if cell is None:
                cell = self._cells[known] = self._family.cell(self._series, known)
        return cell

    def forget(self, *values: str) -> None:
        """Hold a series no longer; what it says stays in the file for the life of the process. `Store.lock` held."""
        self._cells.pop(values, None)

    def setter(self, *known: Iterable[str]) -> Callable[..., None]:
        """A function of (label values ..., number) that sets one series.

        `known` are values of each label: they enter the vocabulary, and the series of all combinations are there at
        once. So is the one series of a metric without labels.
        """
        return self._writer(Cell.set, known)

    def adder(self, *known: Iterable[str]) -> Callable[..., None]:
        """As `setter`; the number is added."""
        return self._writer(Cell.add, known)

    def counter_of(self) -> Callable[[Mapping[Any, float]], None]:
        """A function that adds to many series at once: label values -> number."""

        def count(counts: Mapping[tuple[str, ...], float]) -> None:
            with self._family.store.lock:
                for values, number in counts.items():
                    self.bind(*values).add(number)

        return count

    def _writer(self, write: Callable[[Cell, float], None], known: Sequence[Iterable[str]]) -> Callable[..., None]:
        store, lists = self._family.store, [tuple(values) for values in known]
        with store.lock:
            for label, values in zip(self._family.labels, lists, strict=False):
                store.vocabulary.allow(label, values)
            if len(lists) == len(self._family.labels):
                for values in product(*lists):
                    self.bind(*values)

        def write_one(*values: Any) -> None:
            *labels, number = values
            with store.lock:
                write(self.bind(*labels), number)

        return write_one


class Histogram:
    """A histogram with its series. What is observed, times `scale`, is in the unit of the name; so are `bounds`."""

    def __init__(self, family: Family, bounds: Sequence[float], scale: float = 1.0) -> None:
        self._family = family
        self._bounds = bounds
        self._scale = scale
        self._series: dict[tuple[str, ...], HistogramCells] = {}

    def bind(self, *values: str) -> HistogramCells:
        """The series of these label values. `Store.lock` held."""
        series = self._series.get(values)
        if series is None:
            known = self._family.known(values)
            series = self._series.get(known)
            if series is None:
                series = self._series[known] = self._create(known)
        return series

    def observer(self) -> Callable[..., None]:
        """A function of (label values ..., sequence of numbers) that counts them in one series."""

        def observe(*values: Any) -> None:
            *labels, numbers = values
            with self._family.store.lock:
                self.bind(*labels).observe(numbers)

        return observe

    def _create(self, values: tuple[str, ...]) -> HistogramCells:
        family = self._family
        texts = [_bound_text(bound) for bound in (*self._bounds, float("inf"))]
        buckets = [family.cell(f"{family.name}_bucket", values, text) for text in texts]
        bounds = [bound if self._scale == 1.0 else round(bound / self._scale) for bound in self._bounds]
        return HistogramCells(bounds, buckets, family.cell(f"{family.name}_sum", values), self._scale)


def counter(store: Store, name: str, text: str, labels: tuple[str, ...] = ()) -> Scalar:
    """A counter; `name` ends in _total."""
    return Scalar(Family(store, "counter", name.removesuffix("_total"), text, labels), name)


def gauge(store: Store, name: str, text: str, labels: tuple[str, ...] = (), *, merge: str = "livesum") -> Scalar:
    """A gauge; `merge` is the library's word for how processes add up: livesum, livemin, livemax, max."""
    return Scalar(Family(store, f"gauge_{merge}", name, text, labels), name)


def histogram(  # noqa: PLR0917  as the other two, then its buckets
    store: Store, name: str, text: str, labels: tuple[str, ...], bounds: Sequence[float], scale: float = 1.0
) -> Histogram:
    """A histogram with these upper bounds."""
    return Histogram(Family(store, "histogram", name, text, labels), bounds, scale)


def forget_process(directory: Path, process: str) -> None:
    """Drop what a dead process said about its present (gauges); what it counted stays."""
    _mark_dead(process, str(directory))


def _own(path: Path, process: str) -> IO[bytes]:
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise MetricsInUse(process) from None
    return file

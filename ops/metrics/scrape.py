"""Reads what all processes of a host have written and puts it on one page, in Prometheus's text format.

Rules: counters and histograms of all processes, dead ones included, are summed; gauges as each says; of policies and
screens, which are told by their labels, only those in force.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

IN_FORCE = frozenset({"stockade_policy_info", "stockade_screen_info"})
"""Facts told by labels: a sample of 0 is one that is no longer so, and is left out."""

_merge = cast(
    "Callable[[Sequence[str]], Iterable[Metric]]", MultiProcessCollector.merge
)  # the library has no types here


def prepare_directory(directory: Path, *, keep: Collection[str] = ()) -> None:
    """Make the directory, or empty it of an earlier run's counts. Call before any process of the host writes there.

    Processes named in `keep` may be writing already: they do not begin and end with the others.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in directory.glob("*.db"):
        if file.stem.rpartition("_")[2] not in keep:
            file.unlink()


def expose(directory: Path) -> bytes:
    """The page. A directory without files is an empty page."""
    registry = CollectorRegistry()
    registry.register(_Host(directory))
    return generate_latest(registry)


def read_samples(directory: Path, names: Collection[str]) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """(name, labels, value) of every sample with one of these names, over all processes."""
    for metric in _merge(_files(directory)):
        for sample in metric.samples:
            if sample.name in names:
                yield sample.name, sample.labels, sample.value


def _files(directory: Path) -> list[str]:
    # A file is empty when its process was killed between making it and giving it a size.
    return sorted(str(file) for file in directory.glob("*.db") if file.stat().st_size)


class _Host(Collector):
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        for metric in sorted(_merge(_files(self._directory)), key=lambda metric: metric.name):
            if metric.name in IN_FORCE:
                metric.samples = [sample for sample in metric.samples if sample.value]
            yield metric

"""Reads what all processes of a host have written and puts it on one page, in Prometheus's text format.

Rules: counters and histograms of all processes, dead ones included, are summed; gauges as each says; a policy that no
worker uses any more is left out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

__all__ = ["expose", "prepare_directory"]

_merge = cast(
    "Callable[[Sequence[str]], Iterable[Metric]]", MultiProcessCollector.merge
)  # the library has no types here


def prepare_directory(directory: Path) -> None:
    """Make the directory, or empty it of an earlier run's counts. Call before any process of the host writes there."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in directory.glob("*.db"):
        file.unlink()


def expose(directory: Path) -> bytes:
    """The page. A directory without files is an empty page."""
    registry = CollectorRegistry()
    registry.register(_Host(directory))
    return generate_latest(registry)


class _Host(Collector):
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        # A file is empty when its process was killed between making it and giving it a size.
        files = sorted(str(file) for file in self._directory.glob("*.db") if file.stat().st_size)
        for metric in sorted(_merge(files), key=lambda metric: metric.name):
            if metric.name == "stockade_policy_info":
                metric.samples = [sample for sample in metric.samples if sample.value]
            yield metric

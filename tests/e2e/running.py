"""`stockade serve` as its users start it: a process, its announcement, its log, its metrics page, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from ops.audit.errors import ReadError
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.reader.read import LogReader
from ops.audit.verify.report import Report
from ops.audit.verify.verify import verify_log
from tests.e2e.site import Site

START_S = 60.0
STOP_S = 60.0
PATIENCE_S = 60.0  # for a condition, on a machine with other work
LOOK_AGAIN_S = 0.05

_RUNS = count(1)
T = TypeVar("T")
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass(slots=True)
class Running:
    """One run of a gateway host. Its standard error is a file beside the site."""

    site: Site
    process: subprocess.Popen[str]
    errors: Path
    facts: dict[str, Any]

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)

    def events(self) -> list[dict[str, Any]]:
        """The structured log so far."""
        written = self.errors.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in written if line[0] + line[-1] == "{\n"]

    def pid_of(self, child: str) -> int:
        """The process that runs now under this name, such as `worker-0` or `recorder`."""
        started = [
            event["pid"] for event in self.events() if (event["event"], event.get("child")) == ("child-started", child)
        ]
        return int(started[-1])

    def pids(self) -> list[int]:
        """The supervisor and everything it started that lives."""
        started = [event["pid"] for event in self.events() if event["event"] == "child-started"]
        return [pid for pid in (self.process.pid, *started) if Path(f"/proc/{pid}").exists()]

    def rss_bytes(self, child: str) -> int:
        """The resident memory of a child."""
        pages = int(Path(f"/proc/{self.pid_of(child)}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def kill(self, child: str) -> int:
        """kill -9; returns the pid that is gone."""
        pid = self.pid_of(child)
        os.kill(pid, signal.SIGKILL)
        return pid

    def page(self, path: str = "/metrics") -> str:
        with urllib.request.urlopen(f"http://{self.facts['metrics']}{path}", timeout=PATIENCE_S) as answer:
            return answer.read().decode()

    def series(self) -> Series:
        """Every sample of one scrape."""
        return samples(self.page())

    def counted(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        return total(self.series(), name, **labels)

    def entries(self, first: int = 0) -> list[dict[str, Any]]:
        """What the public log holds from this index on; [] before its first checkpoint."""
        return entries_of(self.site, first)

    def entry(self, request_id: str) -> dict[str, Any]:
        """The log's one entry of a request, once it is published."""

        def found() -> list[dict[str, Any]]:
            return [entry for entry in self.entries() if entry["id"] == request_id]

        entries = until(found, f"no entry of {request_id}")
        assert len(entries) == 1, entries
        return entries[0]


def entries_of(site: Site, first: int = 0) -> list[dict[str, Any]]:
    """The entries of a site's public log."""
    try:
        reader = LogReader.open(site.log, parse_vkey(site.vkey))
    except ReadError:
        return []
    found: list[dict[str, Any]] = []
    while (start := first + len(found)) < reader.checkpoint.size:
        found += map(json.loads, reader.entries(start, min(65_536, reader.checkpoint.size - start)))
    return found


def verified(site: Site) -> Report:
    """The verdict of `stockade audit verify` on the site's log."""
    return verify_log(site.log, [site.vkey], processes=0)


def samples(page: str) -> Series:
    """Every sample of a metrics page."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def total(series: Series, name: str, **labels: str) -> float:
    wanted = frozenset(labels.items())
    return sum(value for (found, has), value in series.items() if found == name and wanted <= has)


def until(ask: Callable[[], T], otherwise: str, patience_s: float = PATIENCE_S) -> T:
    """Ask again until the answer is something; AssertionError with `otherwise` when it never is."""
    end = time.monotonic() + patience_s
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < end, otherwise
        time.sleep(LOOK_AGAIN_S)


@contextmanager
def serving(site: Site, *arguments: str, stop: bool = True) -> Iterator[Running]:
    """Serve a site while the block runs. It must stop cleanly when told to, and nothing of it is left in any case."""
    running = start(site, *arguments)
    try:
        yield running
        if stop:
            assert running.stop() == 0, running.errors.read_text()[-4000:]
    finally:
        end_all(running)


def start(site: Site, *arguments: str, **more: Any) -> Running:
    """Start it and wait for the line that says where it listens. `more` is for Popen, such as a user."""
    errors = site.directory.with_suffix(f".{next(_RUNS)}.stderr")
    with errors.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", str(site.config), *arguments],
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            **more,
        )
    running = Running(site, process, errors, {})
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"it did not start: {errors.read_text()[-4000:]}"
        running.facts = json.loads(line)
    except BaseException:
        end_all(running)
        raise
    return running


def end_all(running: Running) -> None:
    """Kill what is left, by pid: first the supervisor, which would start the others again."""
    for pid in running.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.process.wait()
    if running.process.stdout is not None:
        running.process.stdout.close()

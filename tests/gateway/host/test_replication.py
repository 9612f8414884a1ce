"""What the supervisor makes of a replica: how far it is, whom it tells, and what stops it for good."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.config.document import ConfigRejected
from gateway.config.load import load_config
from gateway.host.replication import Replication, open_replicator
from gateway.tools.check.check import check
from ops.audit.copies.replicator import EpochReplicator
from ops.audit.errors import StoreUnavailable
from ops.process.logging import configure
from tests.e2e.site import Site, copy_site
from tests.faults.recorder_process import KEY
from tests.gateway.rig import until
from tests.ops.audit.copies.test_replicator import grow
from tests.ops.audit.open_log import OpenLog, open_log
from tests.ops.audit.stores import Spoiled, directory_store


@dataclass
class Seen:
    """What was counted and measured last."""

    failures: list[str] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)

    def failed(self, result: str) -> None:
        self.failures.append(result)

    def measured(self, **measures: float) -> None:
        self.measures = measures


@dataclass
class Bench:
    log: OpenLog
    store: Spoiled
    replication: Replication
    seen: Seen
    stderr: io.StringIO
    moves: list[tuple[int, bool]]

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.stderr.getvalue().splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with open_log(tmp_path / "home") as log:
        log.clock_ns = time.time_ns() - 100 * 10**9  # its entries are a minute and more old
        grow(log, 300)
        store, seen, stderr = Spoiled(directory_store(tmp_path / "away")), Seen(), io.StringIO()
        moves: list[tuple[int, bool]] = []
        replicator = EpochReplicator(log.directory, store, KEY.verifier, lambda: datetime.now(UTC))
        replication = Replication(
            replicator,
            0.001,
            30.0,
            configure("info", stderr, format="json"),
            seen,
            lambda: moves.append((replication.size, replication.behind)),
            time.time_ns(),
        )
        yield Bench(log, store, replication, seen, stderr, moves)


def away(_call: str, _key: str) -> None:
    raise StoreUnavailable("gone")


def test_before_the_first_look_the_lag_counts_from_the_start(bench):
    bench.replication.measure()
    assert bench.seen.measures["entries"] == bench.log.appender.size
    assert bench.seen.measures["seconds"] < 30
    assert bench.moves == [(0, False)]
    bench.replication.started_ns -= 31 * 10**9
    bench.replication.measure()
    assert bench.moves[-1] == (0, True)


def test_a_replica_that_has_all_is_not_behind_and_one_that_misses_an_old_entry_is(bench):
    bench.replication.replicate()
    bench.replication.measure()
    size = bench.log.appender.size
    assert (bench.seen.measures, bench.moves) == ({"size": size, "entries": 0, "seconds": 0.0}, [(size, False)])
    bench.log.beat()  # its time is that of the log's clock: long ago
    bench.log.publish()
    bench.store.before = away
    bench.replication.replicate()
    bench.replication.measure()
    assert bench.seen.measures["entries"] == 1
    assert bench.seen.measures["seconds"] > 30
    assert bench.moves[-1] == (size, True)
    bench.store.before = lambda _call, _key: None
    bench.replication.replicate()
    bench.replication.measure()
    assert bench.moves[-1] == (size + 1, False)
    assert bench.events() == ["replication-failed", "replication-lag", "replication-back", "replication-lag"]


def test_what_passes_is_told_once_and_counted_each_time(bench):
    bench.store.before = away
    for _ in range(3):
        bench.replication.replicate()
    assert bench.seen.failures == ["failed"] * 3
    assert bench.events() == ["replication-failed"]
    assert not bench.replication.stopped


def test_a_fault_of_our_own_ends_nothing(bench):
    def fault(_call, _key):
        raise ZeroDivisionError

    bench.store.before = fault
    bench.replication.replicate()
    assert bench.seen.failures == ["failed"]
    bench.store.before = lambda _call, _key: None
    bench.replication.replicate()
    assert bench.replication.size == bench.log.appender.size


async def test_a_contradiction_stops_it_for_good(bench):
    bench.store.store.put_new("tile/entries/000", b"something else")
    running = asyncio.create_task(bench.replication.run())
    await until(lambda: bench.replication.stopped)
    calls = len(bench.store.calls)
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert len(bench.store.calls) == calls, "nothing is asked of the store any more"
    assert not running.done(), "the host goes on"
    assert bench.seen.failures == ["stopped"]
    assert bench.events() == ["replication-stopped"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_when_it_is_cancelled_the_copy_is_cut_off(bench):
    entered, go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(call, _key):
        if call == "put_new" and not entered.is_set():
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result()

    grow(bench.log, 256 * 40)
    bench.store.before = hold
    running = asyncio.create_task(bench.replication.run())
    await entered.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    go.set()
    await until(lambda: bench.seen.failures)
    assert bench.store.store.get("checkpoint") is None


def test_a_log_that_is_not_there_yet_is_no_lag(bench, tmp_path):
    bench.replication.replicator = replace(bench.replication.replicator, directory=tmp_path / "nowhere")
    bench.replication.measure()
    bench.replication.replicate()
    assert bench.moves == []
    assert bench.seen.failures == ["failed"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("hunter2", "is not a JSON object of strings"),
        (None, "No such file"),
        ('{"nonsense": "hunter2"}', "cannot be opened"),
    ],
)
def test_credentials_that_cannot_be_used_are_told_before_the_start(made_site: Site, tmp_path, content, words):
    site = copy_site(made_site, tmp_path / "site")
    file = tmp_path / "objects.json"
    if content is not None:
        file.write_text(content)
        file.chmod(0o600)
    site.change_config(lambda config: config["audit"].update(replication={"url": "s3://log", "credentials": str(file)}))
    with pytest.raises(ConfigRejected) as rejected:
        open_replicator(load_config(site.config))
    [line] = rejected.value.lines
    assert line.startswith("audit.replication: ")
    assert words in line
    assert "hunter2" not in line


def found(site: Site) -> list[tuple[str, str]]:
    report = check(site.config, datetime.now(UTC))
    return [(each.level, each.problem) for each in report.findings if "replication" in each.where + each.problem]


def test_check_finds_what_a_start_would_stumble_over(made_site: Site, tmp_path):
    site = copy_site(made_site, tmp_path / "site")
    assert found(site) == []
    site.change_policy(lambda policy: policy["models"]["kiosk"].update(acknowledge="replica"))
    [(level, problem)] = found(site)
    assert (level, "needs `audit.replication`" in problem) == ("error", True)
    file = tmp_path / "objects.json"
    site.change_config(
        lambda config: config["audit"].update(
            replication={"url": "s3://log", "credentials": str(file), "retention_min": "1d"}
        )
    )
    assert [level for level, _ in found(site)] == ["error"], "there is no such file"
    file.write_text("{}")
    file.chmod(0o600)
    assert found(site) == []
    site.change_config(lambda config: config["audit"]["replication"].pop("retention_min"))
    [(level, problem)] = found(site)
    assert (level, "nobody looks" in problem) == ("warning", True)

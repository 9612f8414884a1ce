"""A log of several epochs: each is verified, and so is that they are one chain."""

import os
import shutil
from itertools import count
from pathlib import Path

import pytest

from ops.audit.errors import EpochClosed, ForkRefused
from ops.audit.log.checkpoint import SignerKey
from ops.audit.log.entry import canonical
from ops.audit.log.epochs import number_of, origin_of, place_of
from ops.audit.store.appender import own_append
from ops.audit.store.own_entries import OwnEntries
from ops.audit.store.publish_thread import PublishThread
from ops.audit.store.settings import RecorderSettings
from ops.audit.store.signer import Signer
from ops.audit.store.writing import Writing
from ops.audit.verify.epochs import verify_epochs
from ops.audit.verify.report import INCOMPLETE, OK, TAMPERED
from tests.faults.recorder_process import KEY, settings_in
from tests.ops.audit.open_log import VKEY
from tests.ops.audit.samples import small

LONG_AGO = 1_700_000_000


class Series:
    """A log that changes epochs under the test's hand. Nothing publishes until it is asked to."""

    def __init__(
        self,
        home: Path,
        *,
        settings: RecorderSettings | None = None,
        key: SignerKey = KEY,
        began_ns: int = 1_800_000_000_000_000_000,
    ) -> None:
        self.settings = settings or settings_in(home, epoch_records_max=5, publish_every_ms=60_000)
        self.directory = self.settings.directory
        ids, clock = count(1), count(began_ns, 1_000_000_000)
        own = OwnEntries("test", lambda: next(clock), lambda: next(ids).to_bytes(16, "big"), 5000)

        def publishing(settings, **parts):
            nothing = {"wake": lambda: None, "published": lambda _: None, "log": lambda *_, **__: None}
            return PublishThread(settings, **parts, **nothing)

        self.writing = Writing(self.settings, key, own, publishing, lambda _point: None)
        self.writing.open()
        self.writing.publishing.start()

    def append(self, *entries: bytes) -> None:
        self.writing.appender.commit([own_append(entries)])

    def roll(self) -> None:
        self.append(self.writing.closing_entry())
        while not self.writing.follow():
            pass

    def close(self) -> None:
        self.writing.publishing.finish()
        self.writing.close()
        for path in self.directory.rglob("checkpoint"):  # not of this very moment
            os.utime(path, (LONG_AGO, LONG_AGO))


def series_of(home: Path, first: int = 0) -> Path:
    """A log of three epochs; returns its directory."""
    series = Series(home)
    for epoch in range(3):
        series.append(*(small(first + 10 * epoch + number) for number in range(3)))
        if epoch < 2:
            series.roll()
    series.close()
    return series.directory


@pytest.fixture
def log(tmp_path):
    return series_of(tmp_path / "home")


def judged(log: Path, **how) -> tuple[list[int], list[str]]:
    reports = verify_epochs(log, [VKEY], processes=0, **how)
    found = [f"{number}: {each.what}" for number, report in reports.items() for each in report.findings]
    return [report.exit_code for report in reports.values()], found


def test_a_chain_of_epochs_verifies_under_one_key(log):
    assert judged(log) == ([OK, OK, OK], [])


def test_names_of_epochs():
    assert [number_of("a/b", origin_of("a/b", number)) for number in (1, 2, 9999)] == [1, 2, 9999]
    others = ("a/c", "a/b/epoch-1", "a/b/epoch-02", "a/b/epoch-", "a/b/epoch-10000", "x/a/b/epoch-2", "a/b/epoch-2/x")
    assert [number_of("a/b", other) for other in others] == [None] * len(others)


@pytest.mark.parametrize("name", ["0000", "0001", "0009"])
def test_what_is_called_as_an_epoch_and_is_none_is_set_aside(log, name):
    (log / "epochs" / name).mkdir()
    (log / "epochs" / name / "anything").touch()
    assert judged(log) == ([OK, OK, OK], ["3: no epoch of the log"])


def test_a_missing_epoch_is_named(log):
    shutil.rmtree(place_of(log, 2))
    codes, found = judged(log)
    assert codes == [OK, INCOMPLETE, OK]
    assert found == ["2: epoch 2 is missing: all of it"]


def test_a_missing_end_is_known_by_the_epoch_before(log):
    shutil.rmtree(place_of(log, 3))
    codes, found = judged(log)
    assert codes == [OK, INCOMPLETE]
    assert found == ["2: example.test/log/epoch-3 is missing: the epoch before is closed"]
    os.utime(place_of(log, 2) / "checkpoint")  # published this very moment: a live log
    assert judged(log)[0] == [OK, OK]


def test_an_epoch_of_another_copy_is_flagged_where_the_chain_breaks(log, tmp_path):
    other = series_of(tmp_path / "other", first=500)
    shutil.rmtree(place_of(log, 2))
    shutil.copytree(place_of(other, 2), place_of(log, 2))
    codes, found = judged(log)
    assert codes == [OK, TAMPERED, TAMPERED]
    assert all("the epoch before was exchanged, or is another copy" in each for each in found)
    assert [each[0] for each in found] == ["2", "3"]


def test_an_epoch_cut_before_its_end_is_flagged(tmp_path):
    series = Series(tmp_path / "home")
    series.append(small(1))
    series.writing.publishing.hurry()
    while series.writing.publishing.edge.backlog:
        pass
    shutil.copytree(series.directory, tmp_path / "early")
    series.roll()
    series.close()
    for name in ("checkpoint", "tile"):
        at = series.directory / name
        shutil.rmtree(at) if at.is_dir() else at.unlink()
        source = tmp_path / "early" / name
        shutil.copytree(source, at) if source.is_dir() else shutil.copy(source, at)
    codes, found = judged(series.directory)
    assert codes == [OK, TAMPERED]
    assert len(found) == 2
    assert "was not closed, and example.test/log/epoch-2 follows it" in found[1]


def test_what_was_seen_of_a_later_epoch_shows_a_rollback(log):
    seen = (place_of(log, 3) / "checkpoint").read_bytes()
    assert judged(log, remembered=seen)[0] == [OK, OK, OK]
    assert judged(log, remembered=(log / "checkpoint").read_bytes())[0] == [OK, OK, OK]
    shutil.rmtree(place_of(log, 3))
    codes, found = judged(log, remembered=seen)
    assert codes == [OK, TAMPERED]
    assert found == ["2: rolled back: epoch 3 was seen, the newest here is 2"]


def test_what_is_no_epoch_is_set_aside(log):
    (log / "epochs/0009/tile").mkdir(parents=True)
    (log / "epochs/notes").write_text("x")
    codes, found = judged(log)
    assert codes == [OK, OK, OK]
    assert sorted(found) == ["1: not a file of the log", "3: no epoch of the log"]


def test_entries_that_went_without_a_word_are_missing(log):
    shutil.rmtree(log / "tile/entries")
    assert judged(log)[0] == [INCOMPLETE, OK, OK]


def test_a_dropped_epoch_is_judged_by_its_hashes(tmp_path):
    series = Series(tmp_path / "home")
    series.append(*map(small, range(3)))
    series.roll()
    dropped = {"action": "epoch-dropped", "administrator": "anna", "detail": {"epoch": "1"}, "outcome": "done"}
    series.append(canonical({"build": "t", "id": "0" * 32, "kind": "admin", "time_ns": "1", "v": 1, **dropped}))
    series.close()
    log = series.directory
    early = (log / "checkpoint").read_bytes()
    shutil.rmtree(log / "tile/entries")
    assert judged(log, remembered=early) == ([OK, OK], [])
    tile = next((log / "tile/0/000.p").iterdir())
    tile.write_bytes(bytes(len(tile.read_bytes())))
    assert judged(log)[0] == [TAMPERED, OK]


def test_nothing_follows_the_entry_that_closes_an_epoch(tmp_path):
    series = Series(tmp_path / "home")
    closed = series.writing.appender
    series.roll()
    with pytest.raises(EpochClosed):
        closed.commit([own_append([small(1)])])
    series.append(small(2))
    series.close()
    memory = series.settings.signing_key.with_suffix(".signed")
    with pytest.raises(ForkRefused, match="is closed"):
        Signer(KEY, memory)
    with pytest.raises(ForkRefused, match="is closed"):
        Signer(SignerKey(KEY.name, KEY.seed), memory, KEY.name)

"""A log of several epochs that is brought back: from all that copies of it hold, and never behind what is known."""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from pathlib import Path

import pytest

from gateway.cli.main import main
from ops.audit.log.checkpoint import Checkpoint
from ops.audit.log.epochs import epoch_at, place_of
from ops.audit.payloads.erasure import Erasures
from ops.audit.payloads.erasure_log import follow
from ops.audit.reader.read import LogReader, open_following
from ops.backup.create import LogSource, Plan, Source, create_backup
from ops.backup.reopen import catch_up, reopen
from ops.backup.repository import Repository, read_key
from ops.backup.restore import restore_backup
from tests.faults.erasing import hold
from tests.faults.recorder_process import KEY
from tests.ops.audit.open_log import VKEY
from tests.ops.audit.payloads.test_erasure_log import held
from tests.ops.audit.samples import small
from tests.ops.audit.verify.test_epochs import Series, series_of


@pytest.fixture
def log(tmp_path):
    return series_of(tmp_path / "home")


def size_of(log: Path, number: int) -> int:
    epoch = epoch_at(log, KEY.verifier, number)
    return LogReader.open(epoch.directory, epoch.vkey).checkpoint.size


def backed_up(log: Path, tmp_path: Path, *sources: Source) -> tuple[Repository, str]:
    key = tmp_path / "backup.key"
    assert main(["backup", "key", "--out", str(key)]) == 0
    repository = Repository.create(tmp_path / "backups", read_key(key))
    plan = Plan(sources, LogSource(log, KEY.verifier, "log", "state", "log.signed"))
    return repository, create_backup(repository, plan, now_ns=time.time_ns(), random_bytes=os.urandom, build="t").name


def publish(series: Series) -> None:
    series.writing.publishing.hurry()
    while series.writing.publishing.edge.backlog:
        pass


@pytest.mark.parametrize("rolled", [False, True])
def test_a_backup_goes_on_with_all_that_copies_of_its_newest_epoch_have(tmp_path, capsys, rolled):
    series = Series(tmp_path / "home")
    series.roll()
    series.append(small(1))
    publish(series)
    backed_up(series.directory, tmp_path)
    series.append(small(2))
    if rolled:
        series.roll()
    series.close()
    words = ["--repository", tmp_path / "backups", "--key", tmp_path / "backup.key", "--out", tmp_path / "back"]
    capsys.readouterr()
    code = main(["restore", *map(str, words), "--log-from", str(series.directory), "--go-on"])
    told = capsys.readouterr()
    assert size_of(tmp_path / "back/log", 2) == size_of(series.directory, 2)
    if rolled:
        assert (code, "entries of example.test/log/epoch-3 were signed" in told.err) == (1, True)
    else:
        assert (code, "goes on at 3 entries" in told.out) == (0, True)


def test_a_memory_of_the_epoch_before_keeps_no_backup_from_going_on(log, tmp_path):
    repository, name = backed_up(log, tmp_path)
    back = restore_backup(repository, name, tmp_path / "back", now_ns=time.time_ns())
    (back.target / "log.signed").write_text(Checkpoint("example.test/log/epoch-2", 10_000, bytes(32)).text())
    assert reopen(back.target, back.manifest.log, wanted=True).goes_on


def test_holds_of_every_epoch_in_a_backup_take_force(tmp_path):
    database = tmp_path / "payload.db"
    erasures = Erasures(database)
    series = Series(tmp_path / "home")
    publish(series)
    assert not follow(erasures, partial(open_following, series.directory, KEY.verifier)).more
    erasures.close()
    series.append(held(1))
    series.roll()
    series.append(small(1))
    series.close()
    repository, name = backed_up(series.directory, tmp_path, Source("payload.db", database, "keys"))
    back = restore_backup(repository, name, tmp_path / "back", now_ns=time.time_ns())
    catch_up(back)
    erasures = Erasures(back.target / "payload.db")
    assert [one.id for one in erasures.holds()] == [hold(1).id]
    erasures.close()


def test_an_epoch_that_the_log_has_not_signed_is_none(tmp_path):
    series = Series(tmp_path / "home")
    series.roll()
    series.close()
    place_of(series.directory, 3).mkdir()
    (place_of(series.directory, 3) / "checkpoint").write_bytes(b"any")
    words = ["audit", "restore", "--from", series.directory, "--out", tmp_path / "out", "--vkey", VKEY, "--go-on"]
    assert main([*map(str, words)]) == 0
    assert size_of(tmp_path / "out/log", 2) == size_of(series.directory, 2)


@pytest.mark.parametrize("known_by", ["the source", "a checkpoint"])
@pytest.mark.parametrize("wish", ["--go-on", "--next"])
def test_an_epoch_does_not_go_on_when_a_later_one_is_known(log, tmp_path, capsys, known_by, wish):
    """A recorder would begin the next one again, and its key would sign both."""
    source, key = tmp_path / "source", tmp_path / "next.key"
    shutil.copytree(log, source)
    if known_by == "a checkpoint":
        shutil.rmtree(source / "epochs")
    assert main(["keys", "log", "example.test/next", "--out", str(key)]) == 0
    words = ["--from", source, "--seen", place_of(log, 2) / "checkpoint", "--out", tmp_path / "out", "--vkey", VKEY]
    wishes = [wish, *([key] if wish == "--next" else [])]
    capsys.readouterr()
    assert main([*map(str, ["audit", "restore", *words, "--epoch", 1, *wishes])]) == 3
    assert "knows of example.test/log/epoch-2: only the newest epoch goes on" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

"""A log of several epochs, by what reads it: verbs, mirrors, backups, restorations, object stores."""

import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.cli.main import main
from gateway.control.audit_methods import receipt
from gateway.control.cosigning import Cosigning, kept_cosigned
from gateway.control.public_log import PublicLog
from gateway.control.quarantine.collect import Seen, collect
from gateway.control.quarantine.store import Finding, Quarantine
from ops.audit.copies import sources
from ops.audit.copies.replicator import Behind, EpochReplicator
from ops.audit.copies.sources import fetch_epochs
from ops.audit.errors import ReadError, StoreUnavailable
from ops.audit.log.epochs import epochs_of, numbered, parted, place_of
from ops.audit.log.tlog_proof import parse_proof
from ops.audit.reader.read import LogReader, open_following
from ops.audit.reader.scan import Follower, scan_epochs
from ops.audit.store.retention import drop, survey
from ops.audit.verify.epochs import verify_epochs
from ops.backup.create import LogSource, Plan, create_backup
from ops.backup.repository import Repository
from ops.backup.restore import drill
from ops.backup.sealing import BackupKey
from ops.backup.verify import verify_backup
from stockade.v1 import audit_pb2
from tests.faults.recorder_process import KEY
from tests.gateway.host.test_doubt import raise_if
from tests.ops.audit.open_log import VKEY
from tests.ops.audit.samples import small
from tests.ops.audit.store.test_retention import said_of
from tests.ops.audit.stores import Spoiled, directory_store
from tests.ops.audit.verify.test_epochs import Series, series_of
from tests.ops.audit.witnesses.test_client import watching

NOW = 1_800_000_000_000_000_000


@pytest.fixture
def log(tmp_path):
    return series_of(tmp_path / "home")


def codes(directory: Path) -> list[int]:
    return [each.exit_code for each in verify_epochs(directory, [VKEY], processes=0).values()]


def run(capsys, *words: object) -> tuple[int, dict]:
    code = main(["--json", *map(str, words)]) if words[0] == "--json" else main([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out or "{}")


def test_verify_says_what_every_epoch_is(log, capsys):
    code, said = run(capsys, "audit", "verify", log, "--vkey", VKEY)
    assert (code, said["origin"]) == (0, "example.test/log/epoch-3")
    assert [(each["epoch"], each["verdict"]) for each in said["epochs"]] == [(n, "verified") for n in (1, 2, 3)]
    code, said = run(capsys, "audit", "verify", place_of(log, 2), "--vkey", VKEY)
    assert (code, said["origin"], len(said["epochs"])) == (0, "example.test/log/epoch-2", 1)
    shutil.rmtree(place_of(log, 2))
    code, said = run(capsys, "audit", "verify", log, "--vkey", VKEY)
    assert (code, said["findings"][0]["what"]) == (2, "epoch 2 is missing: all of it")


def test_a_receipt_of_any_epoch_verifies_under_the_key_of_the_log(log, tmp_path, capsys):
    newest, first, second = "example.test/log/epoch-3", "example.test/log", "example.test/log/epoch-2"
    for words, origin in (((1,), newest), ((1, "--epoch", 1), first), ((numbered(2, 1),), second)):
        proof = tmp_path / "1.tlog-proof"
        code, said = run(capsys, "audit", "prove", log, *words, "--vkey", VKEY, "--out", proof)
        assert (code, said["origin"]) == (0, origin)
        code, said = run(capsys, "audit", "verify", proof, "--vkey", VKEY)
        assert (code, said["origin"]) == (0, origin)


def test_a_question_is_asked_of_one_epoch(log, capsys):
    pytest.importorskip("duckdb")
    for words, origin in (((), "example.test/log/epoch-3"), (("--epoch", 2), "example.test/log/epoch-2")):
        code, said = run(capsys, "audit", "query", log, "SELECT count(*) n FROM entries", "--vkey", VKEY, *words)
        assert (code, said["origin"]) == (0, origin)
    assert codes(log) == [0, 0, 0], "an index is no file of the log"


def test_a_mirror_has_every_epoch(log, tmp_path, capsys):
    code, said = run(capsys, "audit", "mirror", log, tmp_path / "mirror", "--vkey", VKEY)
    assert (code, said["origin"]) == (0, "example.test/log/epoch-3")
    assert codes(tmp_path / "mirror") == [0, 0, 0]
    drop(survey(log, KEY.verifier)[0])
    assert run(capsys, "audit", "mirror", log, tmp_path / "mirror", "--vkey", VKEY)[0] == 0
    assert run(capsys, "audit", "mirror", log, tmp_path / "late", "--vkey", VKEY)[0] == 0
    assert [each.number for each in epochs_of(tmp_path / "late", KEY.verifier)] == [2, 3]


def test_a_backup_has_every_epoch_and_its_drill_goes_on_with_the_newest(log, tmp_path):
    repository = Repository.create(tmp_path / "backups", BackupKey(bytes(range(32))))
    plan = Plan((), LogSource(log, KEY.verifier, "log", "state", "log.signed"))
    made = create_backup(repository, plan, now_ns=NOW, random_bytes=os.urandom, build="t")
    again = create_backup(repository, plan, now_ns=NOW + 1, random_bytes=os.urandom, build="t")
    assert again.files == made.files
    assert verify_backup(repository, again.name, now_ns=NOW).problems == []
    found = drill(repository, again.name, tmp_path / "drill", now_ns=NOW, clock=lambda: 0.0)
    assert (found.problems, found.log_size) == ([], LogReader.open(*place(log, 3)).checkpoint.size)
    paths = {each.path for each in repository.files(repository.manifest(again.name))}
    assert {"log/checkpoint", "log/epochs/0002/checkpoint", "log/epochs/0003/checkpoint"} <= paths


def place(log: Path, number: int):
    epoch = epochs_of(log, KEY.verifier)[number - 1]
    return epoch.directory, epoch.vkey


def test_a_restoration_has_every_epoch_and_the_newest_goes_on(log, tmp_path, capsys):
    words = ["audit", "restore", "--from", log, "--out", tmp_path / "out", "--vkey", VKEY, "--go-on"]
    code, said = run(capsys, *words)
    assert (code, said["origin"], said["goes_on"]) == (0, "example.test/log/epoch-3", True)
    assert [(each["epoch"], each["hashes_only"]) for each in said["epochs"]] == [(n, False) for n in (1, 2, 3)]
    assert codes(tmp_path / "out" / "log") == [0, 0, 0]
    assert not (tmp_path / "out/recorder/sealed").exists()
    assert (tmp_path / "out/recorder/epochs/0003/segments/000000000001.seg").exists()
    assert main([*map(str, words), "--target", "1"]) == 4
    assert "--epoch N" in capsys.readouterr().err


def test_a_restoration_from_what_is_left_after_epochs_were_dropped(log, tmp_path, capsys):
    """Their hashes come back, if the log says that they were dropped."""
    epochs = survey(log, KEY.verifier)
    for kept in epochs[:2]:
        drop(kept)
    words = ["audit", "restore", "--out", tmp_path / "out", "--vkey", VKEY, "--from", log]
    assert main([*map(str, words)]) == 2
    assert "the entry bundle is missing" in capsys.readouterr().err, "no entry says that they were dropped"
    series = Series(tmp_path / "home")
    series.append(said_of(epochs[1]))
    series.close()
    code, said = run(capsys, *words)
    assert (code, [each["hashes_only"] for each in said["epochs"]]) == (0, [True, True, False])
    assert codes(tmp_path / "out/log") == [0, 0, 0]


def test_an_epoch_that_only_a_note_knows_of_is_not_forgotten(log, tmp_path, capsys):
    (tmp_path / "seen").write_bytes((place_of(log, 3) / "checkpoint").read_bytes())
    shutil.rmtree(place_of(log, 3))
    words = ["audit", "restore", "--from", log, "--out", tmp_path / "out", "--vkey", VKEY, "--seen", tmp_path / "seen"]
    assert main([*map(str, words)]) == 2
    assert "no source has the right edge of the tree" in capsys.readouterr().err


def test_epochs_are_restored_one_by_one_and_only_the_newest_goes_on(log, tmp_path, capsys):
    words = ["audit", "restore", "--from", log, "--out", tmp_path / "out", "--vkey", VKEY]
    for number in (1, 2):
        assert run(capsys, *words, "--epoch", number)[0] == 0
    code, said = run(capsys, *words, "--epoch", 3, "--go-on")
    assert (code, said["goes_on"]) == (0, True)
    assert codes(tmp_path / "out" / "log") == [0, 0, 0]
    assert (tmp_path / "out/recorder/epochs/0003/segments/000000000001.seg").exists()
    assert run(capsys, *words, "--epoch", 1)[0] == 0, "also again"


def test_a_store_has_every_epoch_oldest_first(tmp_path):
    series = Series(tmp_path / "home")
    store = directory_store(tmp_path / "away")
    replicator = EpochReplicator(series.directory, store, KEY.verifier, lambda: datetime.now(UTC))
    series.append(small(1))
    series.roll()
    assert replicator.behind().entries > 0
    series.append(small(2))
    series.close()
    assert replicator.replicate().origin == "example.test/log/epoch-2"
    assert (replicator.number, replicator.behind().entries) == (2, 0)
    fetch_epochs(store, tmp_path / "fetched")
    assert codes(tmp_path / "fetched") == [0, 0]


def test_how_far_a_store_is_behind_is_known_without_the_entries_that_were_dropped(log, tmp_path):
    """Also where it does not answer from the start."""
    away = []
    store = Spoiled(directory_store(tmp_path / "away"), lambda *_: raise_if(away))
    EpochReplicator(log, store, KEY.verifier, lambda: datetime.now(UTC)).replicate()
    (first, *later) = survey(log, KEY.verifier)
    drop(first)
    away.append("the store")
    replicator = EpochReplicator(log, store, KEY.verifier, lambda: datetime.now(UTC))
    with pytest.raises(StoreUnavailable):
        replicator.replicate()
    assert replicator.behind() == Behind(sum(each.size for each in later), later[0].first_ns)
    away.clear()
    replicator.replicate()
    assert (replicator.number, replicator.behind()) == (3, Behind(0, None))


def test_a_store_that_has_epochs_without_end_is_fetched_to_the_last_that_has_a_name(tmp_path, monkeypatch):
    class Endless:
        def get(self, key: str) -> bytes | None:
            return b"a\n1\nroot\n" if key.endswith("checkpoint") else None

        def keys(self, _prefix: str) -> Iterator[str]:
            return iter(())

    monkeypatch.setattr(sources, "NUMBER_MAX", 3)
    fetch_epochs(Endless(), tmp_path)
    assert [each.name for each in sorted((tmp_path / "epochs").iterdir())] == ["0002", "0003"]


class Counted:
    """What would be a metric."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def cosigned(self, size: int, _time_s: float) -> None:
        self.sizes.append(size)


def test_a_closed_epoch_is_cosigned_to_its_end_before_the_next(log, tmp_path):
    """The witness and the policy know the one key of the log."""
    ends = [each.size for each in survey(log, KEY.verifier)]
    out, counted = tmp_path / "cosigned", Counted()
    with watching(tmp_path) as (_, policy):
        cosigning = Cosigning(log, KEY.verifier, policy, 1.0, out, lambda *_, **__: None, counted)
        places = []
        for _ in range(3):
            cosigning.ask()
            places.append(cosigning.place)
            assert policy.open(out.read_bytes()).witnesses == ("w",)
    assert places == [(1, ends[0]), (2, ends[1]), (3, ends[2])]
    assert counted.sizes == ends
    last = policy.open(kept_cosigned(out, 2).read_bytes()).checkpoint
    assert (last.origin, last.size) == ("example.test/log/epoch-2", ends[1])
    (tmp_path / "log.vkey").write_text(VKEY)
    public = PublicLog(log, tmp_path / "log.vkey", out)
    for epoch in (1, 2, 3):
        answer = receipt(public, audit_pb2.GetReceiptRequest(index=numbered(epoch, 1)))
        assert parse_proof(answer.receipt).verify(policy).witnesses == ("w",)


def test_readers_go_on_from_one_epoch_to_the_next(tmp_path):
    series = Series(tmp_path / "home")
    series.append(small(1))
    series.writing.publishing.finish()
    follower = Follower(series.directory, KEY.verifier)
    first = [index for _, index, _ in follower.new()]
    assert first == [0, 1]
    series.close = series.writing.close  # type: ignore[method-assign]
    series.close()
    log = series_of(tmp_path / "other")
    taken: list[int] = []
    scan_epochs(log, KEY.verifier, lambda number, _: taken.append(number))
    assert parted(taken[0]) == (1, 0)
    assert {epoch for epoch, _ in map(parted, taken)} == {1, 2, 3}
    following = Follower(log, KEY.verifier)
    assert len([*following.new()]) == LogReader.open(*place(log, 3)).checkpoint.size
    at, seen = ("", 0), []
    for _ in range(4):
        reader = open_following(log, KEY.verifier, *at)
        seen.append(reader.checkpoint.origin)
        at = (reader.checkpoint.origin, reader.checkpoint.size)
    assert seen == ["example.test/log", *(f"example.test/log/epoch-{n}" for n in (2, 3, 3))]


def test_what_is_in_quarantine_stays_there_when_the_epoch_changes(log, tmp_path):
    quarantine, seen = Quarantine(tmp_path / "quarantine.sqlite"), Seen()
    found = Finding(1, "0" * 32, 1, "store-7", "p", "kiosk", "1", "flag", ("mahalanobis",), payload=False)
    quarantine.take([found], {"origin": "example.test/log", "next": "2"})
    origins = []
    for _ in range(3):
        reader = open_following(log, KEY.verifier, seen.origin, seen.next)
        origins.append(reader.checkpoint.origin)
        collect(quarantine, reader, seen)
    assert quarantine.item(1) is not None
    quarantine.close()
    assert origins == ["example.test/log", "example.test/log/epoch-2", "example.test/log/epoch-3"]


def test_a_dropped_epoch_is_said_to_be_dropped(log):
    shutil.rmtree(log / "tile/entries")
    with pytest.raises(ReadError, match="it was dropped"):
        LogReader.open(log, KEY.verifier).entries(0, 1)
    taken: list[int] = []
    scan_epochs(log, KEY.verifier, lambda number, _: taken.append(number))
    assert taken[0] == numbered(2, 0)

"""After a restoration: the origin goes on only where nothing is lost, and else can never grow again."""

import shutil
from hashlib import sha256
from itertools import count
from pathlib import Path

import orjson
import pytest

from ops.audit.copies.restore import restore_log
from ops.audit.copies.sources import DirectorySource
from ops.audit.errors import ForkRefused, RestoreRefused, SuccessionRefused
from ops.audit.log.checkpoint import SignerKey, VerifierKey, open_checkpoint, parse_checkpoint
from ops.audit.log.epochs import origin_of
from ops.audit.reader.read import LogReader
from ops.audit.store.own_entries import OwnEntries
from ops.audit.store.signer import SEALED, demand_unsealed
from ops.audit.store.succession import begin_next, go_on, remember, seal
from ops.audit.verify.verify import verify_log
from tests.faults.recorder_process import KEY, launch, settings_in
from tests.ops.audit.open_log import VKEY, open_log
from tests.ops.audit.samples import small

NEXT = SignerKey("example.test/next", sha256(b"another key for tests").digest())


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Path]:
    """A log at 300 entries, and later at 600."""
    with open_log(tmp_path / "home") as log:
        log.say([small(number) for number in range(1, 300)])
        shutil.copytree(log.directory, tmp_path / "early")
        log.append([small(number) for number in range(300, 600)])
        log.beat()
        log.publish()
        shutil.copytree(log.directory, tmp_path / "late")
    return tmp_path / "early", tmp_path / "late"


def restored(source: Path, home: Path, notes: list[tuple[str, bytes]] | None = None):
    return restore_log([DirectorySource(source)], home / "log", KEY.verifier, notes=notes or [])


def gone_on(home: Path, heartbeats: int = 0) -> int:
    return go_on(home / "log", home / "state", home / "log.signed", KEY.verifier, heartbeats=heartbeats)


def test_the_recorders_parts_go_on_with_a_restored_log(halves, tmp_path):
    home = tmp_path / "again"
    restored(halves[1], home)
    beats = verify_log(home / "log", [VKEY], processes=0).heartbeats
    assert gone_on(home, beats) == 601
    with open_log(home) as log:
        assert log.found_size == 601
        log.append([small(9)])
        log.beat()
        log.publish()
    report = verify_log(home / "log", [VKEY], processes=0, remembered=(halves[1] / "checkpoint").read_bytes())
    assert (report.exit_code, report.size, report.heartbeats) == (0, 604, 2)


def test_less_than_was_signed_never_grows_again(halves, tmp_path):
    """Each of the three alone: the seal, the signer's memory, the missing segments."""
    early, late = halves
    home = tmp_path / "again"
    done = restored(early, home, [("witness", (late / "checkpoint").read_bytes())])
    largest = max((each.checkpoint for each in done.newer), key=lambda each: each.size)
    seal(home / "state", home / "log.signed", largest)
    with pytest.raises(ForkRefused, match="begin a new one"):
        demand_unsealed(home / "state")
    with pytest.raises(SuccessionRefused, match="sealed"):
        gone_on(home)
    (home / "state" / SEALED).unlink()
    with pytest.raises(SuccessionRefused, match="has signed 601 entries, 300 are left"):
        gone_on(home)
    memory = (home / "log.signed").read_bytes()
    (home / "log.signed").unlink()
    gone_on(home)
    (home / "log.signed").write_bytes(memory)
    with pytest.raises(ForkRefused, match="size 300 does not extend the size 601"), open_log(home):
        pass


def test_the_recorder_refuses_a_sealed_origin(halves, tmp_path):
    home = tmp_path / "again"
    restored(halves[0], home)
    gone_on(home)
    seal(home / "state", home / "log.signed", open_checkpoint((halves[1] / "checkpoint").read_bytes(), [KEY.verifier]))
    (home / "log.signed").unlink()  # the seal alone
    before = (home / "log/checkpoint").read_bytes()
    assert launch(settings_in(home)).ended() == ForkRefused.exit_code
    assert (home / "log/checkpoint").read_bytes() == before


def test_the_signers_memory_is_never_set_back(halves, tmp_path):
    early, late = (open_checkpoint((each / "checkpoint").read_bytes(), [KEY.verifier]) for each in halves)
    memory = tmp_path / "keys/log.signed"
    assert remember(memory, early) == early
    assert remember(memory, late) == late
    assert remember(memory, early) == late
    assert parse_checkpoint(memory.read_text()) == late


@pytest.mark.parametrize("held", ["", "example.test/log\n900\n", "example.test/another\n9\n" + "A" * 43 + "=\n"])
def test_a_signers_memory_that_says_nothing_of_this_log_is_not_replaced(halves, tmp_path, held):
    home = tmp_path / "again"
    restored(halves[0], home)
    (home / "log.signed").write_text(held)
    with pytest.raises(SuccessionRefused, match=r"log\.signed is"):
        gone_on(home)
    assert (home / "log.signed").read_text() == held


def test_a_new_origin_names_what_was_lost(halves, tmp_path):
    early, _ = halves
    ids = count(1)
    clock = count(1_800_000_000_000_000_000, 1000)
    place = tmp_path / "next"

    def begin(key: SignerKey, vkey: VerifierKey = KEY.verifier) -> None:
        begin_next(
            key,
            place / "log",
            place / "state",
            place / "log.signed",
            last=(early / "checkpoint").read_bytes(),
            vkey=vkey,
            lost_end=601,
            own=OwnEntries("test", lambda: next(clock), lambda: next(ids).to_bytes(16, "big"), 5000),
        )

    for epoch in (1, 2):
        with pytest.raises(RestoreRefused, match="is sealed"):
            begin(KEY, VerifierKey(origin_of(KEY.name, epoch), KEY.verifier.public_key))
    with pytest.raises(RestoreRefused, match="is the name of an epoch"):
        begin(SignerKey(origin_of(NEXT.name, 2), NEXT.seed))
    begin(NEXT)
    report = verify_log(place / "log", [str(NEXT.verifier)], processes=0)
    assert (report.exit_code, report.size) == (0, 2), report.findings
    genesis, lost = map(orjson.loads, LogReader.open(place / "log", NEXT.verifier).entries(0, 2))
    old = open_checkpoint(genesis["previous"].encode(), [KEY.verifier])
    assert old.size == 300
    assert lost | {"id": "", "time_ns": ""} == {
        "build": "test",
        "cause": "restored",
        "cut_bytes": 0,
        "id": "",
        "kind": "recover",
        "lost_end": 601,
        "origin": KEY.name,
        "root": old.root.hex(),
        "size": 300,
        "time_ns": "",
        "v": 1,
    }
    with pytest.raises(RestoreRefused, match="holds something"):
        begin(NEXT)

"""A log is brought back from what is left of it: by hash, from several damaged sources, and never past a fork."""

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ops.audit.copies import restore_files
from ops.audit.copies.object_store import Listed, checkpoint_key
from ops.audit.copies.replicator import Replicator
from ops.audit.copies.restore import Restoration, Target, restore_log, seen_in
from ops.audit.copies.restore_files import ahead
from ops.audit.copies.sources import DirectorySource, StoreSource
from ops.audit.errors import HistoriesDiffer, NothingToRestore, RestoreIncomplete, RestoreRefused, StoreUnavailable
from ops.audit.log.checkpoint import Checkpoint, SignerKey, sign_note
from ops.audit.reader.read import LogReader
from ops.audit.verify.verify import verify_log
from ops.process.durable import sync_file
from tests.faults.recorder_process import KEY, ORIGIN
from tests.ops.audit.open_log import VKEY, OpenLog, open_log
from tests.ops.audit.samples import captured, small
from tests.ops.audit.stores import Spoiled, directory_store

SIZES = (1, 100, 255, 256, 257, 700)


def fill(log: OpenLog, size: int) -> None:
    """Grow the log to a size; every tenth entry has a payload."""
    numbers = range(log.appender.size, size)
    sealed = {number: b"sealed %d" % number for number in numbers if number % 10 == 0}
    if numbers:
        log.append([captured(n, sealed[n]) if n in sealed else small(n) for n in numbers], list(sealed.values()))
    log.publish()


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Copies of one log at several sizes."""
    place = tmp_path_factory.mktemp("grown")
    copies = {}
    with open_log(place / "home") as log:
        for size in SIZES:
            fill(log, size)
            shutil.copytree(log.directory, copies.setdefault(size, place / str(size)))
    return copies


@pytest.fixture
def source(grown: dict[int, Path], tmp_path: Path) -> Path:
    """A copy of the largest log, to be spoiled."""
    return shutil.copytree(grown[700], tmp_path / "source")


def restore(places: Sequence[Path], out: Path, **rest: Any) -> Restoration:
    return restore_log([DirectorySource(each) for each in places], out, KEY.verifier, **rest)


def sound(out: Path, size: int) -> None:
    report = verify_log(out, [VKEY], processes=0)
    assert (report.exit_code, report.size, report.unverified) == (0, size, 0), report.findings


def note_of(source: Path) -> bytes:
    return (source / "checkpoint").read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_a_log_is_restored_from_one_whole_copy(grown, tmp_path, size):
    done = restore([grown[size]], tmp_path / "out")
    sound(tmp_path / "out", size)
    assert (done.newer, done.payloads_missing, done.lost_end) == ((), 0, size)


@pytest.mark.parametrize("size", SIZES)
def test_an_earlier_tree_is_cut_out_of_a_later_copy(grown, tmp_path, size):
    """With nothing of its own but the note: a target that lies in the past."""
    done = restore([grown[700]], tmp_path / "out", notes=[("note", note_of(grown[size]))], target=Target(size=size))
    sound(tmp_path / "out", size)
    assert done.lost_end == 700


def test_the_smallest_tree_that_holds_the_target_is_taken(grown, tmp_path):
    notes = [(str(size), note_of(grown[size])) for size in SIZES]
    for number, (target, size) in enumerate(
        [(Target(index=0), 1), (Target(index=1), 100), (Target(index=255), 256), (Target(index=699), 700)]
    ):
        done = restore([grown[700]], tmp_path / f"{number}", notes=notes, target=target)
        assert done.seen.checkpoint.size == size
    with pytest.raises(NothingToRestore, match="what is asked for"):
        restore([grown[700]], tmp_path / "beyond", notes=notes, target=Target(index=700))


def test_a_time_is_found_in_the_last_entries(grown, tmp_path):
    notes = [(str(size), note_of(grown[size])) for size in SIZES[1:]]
    last = LogReader.open(grown[256], KEY.verifier).entries(255, 1)[0]
    time_ns = int(last.partition(b'"time_ns":"')[2].partition(b'"')[0])
    done = restore([grown[700]], tmp_path / "out", notes=notes, target=Target(time_ns=time_ns))
    assert done.seen.checkpoint.size == 256
    target = Target(time_ns=time_ns + 10**12)  # after its end, everything was written until then
    assert restore([grown[257]], tmp_path / "end", target=target).seen.checkpoint.size == 257


def test_two_damaged_copies_give_a_whole_log(grown, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for copy in (one, two):
        shutil.copytree(grown[700], copy)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file() and path.name != "checkpoint")
    assert len(files) > 8
    for number, file in enumerate(files):
        spoiled = (one, two)[number % 2] / file
        spoiled.write_bytes(spoiled.read_bytes()[:-1] + b"\0")
    done = restore([one, two], tmp_path / "out")
    sound(tmp_path / "out", 700)
    assert done.payloads_missing == 0


def test_an_edge_that_does_not_give_the_root_is_not_taken(grown, source, tmp_path):
    edge = [*source.glob("tile/[0-9]/*.p/*")]
    assert len(edge) > 1
    for path in edge:
        path.write_bytes(bytes(len(path.read_bytes())))
    restore([source, grown[700]], tmp_path / "out")
    sound(tmp_path / "out", 700)


def test_hashes_of_the_lowest_level_follow_from_the_entries(source, tmp_path):
    shutil.rmtree(source / "tile/0")
    restore([source], tmp_path / "out")
    sound(tmp_path / "out", 700)


def test_what_no_source_has_is_named_and_a_later_source_completes_it(grown, source, tmp_path):
    out = tmp_path / "out"
    (source / "tile/entries/001").write_bytes(b"spoiled")
    with pytest.raises(RestoreIncomplete) as raised:
        restore([source], out)
    assert raised.value.missing == ("tile/entries/001",)
    assert not (out / "checkpoint").exists()
    done = restore([grown[700]], out)
    assert done.kept > 0
    sound(out, 700)


def test_what_an_interrupted_run_has_left_is_made_durable_as_well(grown, source, tmp_path, monkeypatch):
    out, synced = tmp_path / "out", set()
    (source / "tile/entries/001").unlink()
    with pytest.raises(RestoreIncomplete):
        restore([source], out)

    def sync(path: Path) -> None:
        synced.add(path)
        sync_file(path)

    monkeypatch.setattr(restore_files, "sync_file", sync)
    assert restore([grown[700]], out).kept > 0
    assert synced == {path for path in out.rglob("*") if path.is_file()} - {out / "checkpoint"}


def test_a_later_source_takes_the_same_target_further(grown, tmp_path):
    for size in SIZES:
        restore([grown[size]], tmp_path / "out")
        sound(tmp_path / "out", size)
    packs = [
        path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.glob("out/blobs/**/*") if path.is_file()
    ]
    assert sorted(packs) == ["blobs/000", "blobs/001", "blobs/002.p/188"]


def test_payloads_that_are_gone_are_counted(source, tmp_path):
    shutil.rmtree(source / "blobs")
    done = restore([source], tmp_path / "out")
    assert done.payloads_missing == 69
    assert verify_log(tmp_path / "out", [VKEY], processes=0).exit_code == 2


def test_a_cosigned_tree_that_nobody_has_is_known_to_be_lost(grown, tmp_path):
    done = restore([grown[257]], tmp_path / "out", notes=[("witness", note_of(grown[700]))])
    assert (done.seen.checkpoint.size, done.lost_end) == (257, 700)
    assert [each.where for each in done.newer] == ["witness"]
    sound(tmp_path / "out", 257)


def test_two_histories_of_one_key_are_a_fork(grown, tmp_path):
    other = sign_note(Checkpoint(ORIGIN, 256, bytes(32)).text(), [KEY])
    with pytest.raises(HistoriesDiffer, match="two histories"):
        restore([grown[700]], tmp_path / "out", notes=[("stranger", other)])
    assert not (tmp_path / "out/checkpoint").exists()


def test_notes_that_the_key_did_not_sign_count_for_nothing(grown):
    other = SignerKey("elsewhere.test/log", bytes(32))
    strange = sign_note(Checkpoint(other.name, 9000, bytes(32)).text(), [other])
    notes = [("strange", strange), ("noise", b"\xff")]
    assert seen_in([DirectorySource(grown[1])], notes, KEY.verifier, Target())[0].checkpoint.size == 1


def test_a_target_that_holds_something_else_is_left_alone(grown, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter").write_text("mine")
    with pytest.raises(RestoreRefused, match="something else, such as letter"):
        restore([grown[1]], out)
    with pytest.raises(RestoreRefused, match="is a source"):
        restore([grown[1]], grown[1])
    restore([grown[700]], tmp_path / "large")
    with pytest.raises(RestoreRefused, match="700 entries"):
        restore([grown[257]], tmp_path / "large", target=Target(size=257))
    sound(tmp_path / "large", 700)


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a store holds of a log that was replicated at several sizes."""
    place = tmp_path_factory.mktemp("replica")
    with open_log(place / "home") as log:
        replicator = Replicator(
            log.directory, directory_store(place / "store"), KEY.verifier, lambda: datetime.now(UTC)
        )
        for size in SIZES:
            fill(log, size)
            replicator.replicate()
    return place / "store"


def from_store(store: Listed, out: Path, **rest: Any) -> Restoration:
    return restore_log([StoreSource(store, "the store")], out, KEY.verifier, **rest)


def test_a_log_is_restored_from_an_object_store(replica, tmp_path):
    done = from_store(directory_store(replica), tmp_path / "out")
    sound(tmp_path / "out", 700)
    assert (done.seen.where, done.newer, done.payloads_missing) == ("the store", (), 0)


def test_a_checkpoint_of_nothing_that_a_source_lists_is_passed_over(replica, tmp_path):
    shutil.copytree(replica, tmp_path / "source")
    (tmp_path / "source" / checkpoint_key(0)).write_bytes(b"")
    target = Target(time_ns=1)
    assert restore([tmp_path / "source"], tmp_path / "out", target=target).seen.checkpoint.size == SIZES[0]


@pytest.mark.parametrize("target", [Target(index=200), Target(size=255), Target(time_ns=1)])
def test_a_store_gives_the_smallest_of_its_checkpoints_that_holds_the_target(replica, tmp_path, target):
    """And is not asked for each of them: there may be millions."""
    if target.time_ns is not None:
        last = LogReader.open(replica, KEY.verifier).entries(254, 1)[0]
        target = Target(time_ns=int(json.loads(last)["time_ns"]))
    store = Spoiled(directory_store(replica))
    done = from_store(store, tmp_path / "out", target=target)
    assert (done.seen.checkpoint.size, done.lost_end) == (255, 700)
    sound(tmp_path / "out", 255)
    assert [key for call, key in store.calls if key.startswith("checkpoint")] == ["checkpoint", checkpoint_key(255)]


def test_a_store_and_a_damaged_disk_give_one_log_together(grown, replica, tmp_path):
    shutil.copytree(replica, tmp_path / "store")
    shutil.copytree(grown[700], tmp_path / "disk")
    (tmp_path / "store/tile/entries/000").write_bytes(b"spoiled")
    (tmp_path / "disk/tile/entries/001").unlink()
    sources = [StoreSource(directory_store(tmp_path / "store"), "store"), DirectorySource(tmp_path / "disk")]
    restore_log(sources, tmp_path / "out", KEY.verifier)
    sound(tmp_path / "out", 700)


def test_a_store_that_goes_away_in_between_is_gone_on_with(replica, tmp_path):
    def before(_call: str, key: str) -> None:
        if key.startswith("tile/entries/"):
            raise StoreUnavailable("away")

    out = tmp_path / "out"
    store = Spoiled(directory_store(replica), before)
    with pytest.raises(RestoreIncomplete, match="tile/entries/000"):
        from_store(store, out)
    assert not (out / "checkpoint").exists()
    store.before = lambda _call, _key: None
    assert from_store(store, out).kept >= 2
    sound(out, 700)


def test_a_store_that_says_nothing_of_its_checkpoint_is_not_one_without(replica, tmp_path):
    """What it lists, it answers."""

    def before(_call: str, key: str) -> None:
        if key == "checkpoint":
            raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        from_store(Spoiled(directory_store(replica), before), tmp_path / "out", target=Target(index=200))


def test_bundles_are_fetched_side_by_side_and_few_are_held():
    taken: list[int] = []
    with ThreadPoolExecutor(8) as pool:
        found = ahead(pool, lambda number: number * 2, (taken.append(n) or n for n in range(100)), most=8)
        assert next(found) == (0, 0)
        assert len(taken) == 8
        assert [result for _, result in found] == [2 * n for n in range(1, 100)]

"""A log is brought back from what is left of it: by hash, from several damaged sources, and never past a fork."""

import shutil
from pathlib import Path

import pytest

from ops.audit.checkpoint import Checkpoint, SignerKey, sign_note
from ops.audit.errors import HistoriesDiffer, NothingToRestore, RestoreIncomplete, RestoreRefused
from ops.audit.read import LogReader
from ops.audit.restore import Target, restore_log, seen_in
from ops.audit.verify import verify_log
from tests.faults.recorder_process import KEY, ORIGIN
from tests.ops.audit.open_log import VKEY, OpenLog, open_log
from tests.ops.audit.samples import captured, small

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


def sound(out: Path, size: int) -> None:
    report = verify_log(out, [VKEY], processes=0)
    assert (report.exit_code, report.size, report.unverified) == (0, size, 0), report.findings


def note_of(source: Path) -> bytes:
    return (source / "checkpoint").read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_a_log_is_restored_from_one_whole_copy(grown, tmp_path, size):
    done = restore_log([grown[size]], tmp_path / "out", KEY.verifier)
    sound(tmp_path / "out", size)
    assert (done.newer, done.payloads_missing, done.lost_end) == ((), 0, size)


@pytest.mark.parametrize("size", SIZES)
def test_an_earlier_tree_is_cut_out_of_a_later_copy(grown, tmp_path, size):
    """With nothing of its own but the note: a target that lies in the past."""
    done = restore_log(
        [grown[700]], tmp_path / "out", KEY.verifier, notes=[("note", note_of(grown[size]))], target=Target(size=size)
    )
    sound(tmp_path / "out", size)
    assert done.lost_end == 700


def test_the_smallest_tree_that_holds_the_target_is_taken(grown, tmp_path):
    notes = [(str(size), note_of(grown[size])) for size in SIZES]
    for number, (target, size) in enumerate(
        [(Target(index=0), 1), (Target(index=1), 100), (Target(index=255), 256), (Target(index=699), 700)]
    ):
        done = restore_log([grown[700]], tmp_path / f"{number}", KEY.verifier, notes=notes, target=target)
        assert done.seen.checkpoint.size == size
    with pytest.raises(NothingToRestore, match="what is asked for"):
        restore_log([grown[700]], tmp_path / "beyond", KEY.verifier, notes=notes, target=Target(index=700))


def test_a_time_is_found_in_the_last_entries(grown, tmp_path):
    notes = [(str(size), note_of(grown[size])) for size in SIZES[1:]]
    last = LogReader.open(grown[256], KEY.verifier).entries(255, 1)[0]
    time_ns = int(last.partition(b'"time_ns":"')[2].partition(b'"')[0])
    done = restore_log([grown[700]], tmp_path / "out", KEY.verifier, notes=notes, target=Target(time_ns=time_ns))
    assert done.seen.checkpoint.size == 256
    target = Target(time_ns=time_ns + 10**12)  # after its end, everything was written until then
    assert restore_log([grown[257]], tmp_path / "end", KEY.verifier, target=target).seen.checkpoint.size == 257


def test_two_damaged_copies_give_a_whole_log(grown, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for copy in (one, two):
        shutil.copytree(grown[700], copy)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file() and path.name != "checkpoint")
    assert len(files) > 8
    for number, file in enumerate(files):
        spoiled = (one, two)[number % 2] / file
        spoiled.write_bytes(spoiled.read_bytes()[:-1] + b"\0")
    done = restore_log([one, two], tmp_path / "out", KEY.verifier)
    sound(tmp_path / "out", 700)
    assert done.payloads_missing == 0


def test_an_edge_that_does_not_give_the_root_is_not_taken(grown, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(grown[700], source)
    edge = [*source.glob("tile/[0-9]/*.p/*")]
    assert len(edge) > 1
    for path in edge:
        path.write_bytes(bytes(len(path.read_bytes())))
    restore_log([source, grown[700]], tmp_path / "out", KEY.verifier)
    sound(tmp_path / "out", 700)


def test_hashes_of_the_lowest_level_follow_from_the_entries(grown, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(grown[700], source)
    shutil.rmtree(source / "tile/0")
    restore_log([source], tmp_path / "out", KEY.verifier)
    sound(tmp_path / "out", 700)


def test_what_no_source_has_is_named_and_a_later_source_completes_it(grown, tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(grown[700], source)
    (source / "tile/entries/001").write_bytes(b"spoiled")
    with pytest.raises(RestoreIncomplete) as raised:
        restore_log([source], out, KEY.verifier)
    assert raised.value.missing == ("tile/entries/001",)
    assert not (out / "checkpoint").exists()
    done = restore_log([grown[700]], out, KEY.verifier)
    assert done.kept > 0
    sound(out, 700)


def test_a_later_source_takes_the_same_target_further(grown, tmp_path):
    for size in SIZES:
        restore_log([grown[size]], tmp_path / "out", KEY.verifier)
        sound(tmp_path / "out", size)
    packs = [
        path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.glob("out/blobs/**/*") if path.is_file()
    ]
    assert sorted(packs) == ["blobs/000", "blobs/001", "blobs/002.p/188"]


def test_payloads_that_are_gone_are_counted(grown, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(grown[700], source)
    shutil.rmtree(source / "blobs")
    done = restore_log([source], tmp_path / "out", KEY.verifier)
    assert done.payloads_missing == 69
    assert verify_log(tmp_path / "out", [VKEY], processes=0).exit_code == 2


def test_a_cosigned_tree_that_nobody_has_is_known_to_be_lost(grown, tmp_path):
    done = restore_log([grown[257]], tmp_path / "out", KEY.verifier, notes=[("witness", note_of(grown[700]))])
    assert (done.seen.checkpoint.size, done.lost_end) == (257, 700)
    assert [each.where for each in done.newer] == ["witness"]
    sound(tmp_path / "out", 257)


def test_two_histories_of_one_key_are_a_fork(grown, tmp_path):
    other = sign_note(Checkpoint(ORIGIN, 256, bytes(32)).text(), [KEY])
    with pytest.raises(HistoriesDiffer, match="two histories"):
        restore_log([grown[700]], tmp_path / "out", KEY.verifier, notes=[("stranger", other)])
    assert not (tmp_path / "out/checkpoint").exists()


def test_notes_that_the_key_did_not_sign_count_for_nothing(grown):
    other = SignerKey("elsewhere.test/log", bytes(32))
    strange = sign_note(Checkpoint(other.name, 9000, bytes(32)).text(), [other])
    assert seen_in([grown[1]], [("strange", strange), ("noise", b"\xff")], KEY.verifier)[0].checkpoint.size == 1


def test_a_target_that_holds_something_else_is_left_alone(grown, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter").write_text("mine")
    with pytest.raises(RestoreRefused, match="something else, such as letter"):
        restore_log([grown[1]], out, KEY.verifier)
    with pytest.raises(RestoreRefused, match="is a source"):
        restore_log([grown[1]], grown[1], KEY.verifier)
    restore_log([grown[700]], tmp_path / "large", KEY.verifier)
    with pytest.raises(RestoreRefused, match="700 entries"):
        restore_log([grown[257]], tmp_path / "large", KEY.verifier, target=Target(size=257))
    sound(tmp_path / "large", 700)

"""A mirror catches up: whole or not at all, only ever forward, and whatever interrupted it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.audit.copies import mirror as module
from ops.audit.copies.mirror import mirror_log
from ops.audit.errors import CopyRejected, MirrorBusy, MirrorError, MirrorRefused, ReadError
from ops.audit.log.checkpoint import Checkpoint, SignerKey, open_checkpoint, sign_note
from ops.audit.log.merkle import fold, leaf_hash, tree_root
from ops.audit.log.tiles import (
    ENTRIES,
    TILE_WIDTH,
    frame_entry,
    hash_tiles_between,
    split_bundle,
    split_pack,
    tiles_between,
)
from ops.audit.reader.read import LogReader
from ops.audit.verify.verify import verify_log
from ops.process.durable import exclusive
from tests.faults.recorder_process import KEY, ORIGIN
from tests.ops.audit.crashing import Crash, CrashAfter
from tests.ops.audit.open_log import VKEY, OpenLog, open_log
from tests.ops.audit.samples import captured, small

SIZES = (1, 200, 255, 256, 257, 511, 520, 1030)
OTHER = SignerKey("elsewhere.test/log", bytes(range(32)))


def fill(log: OpenLog, count: int, salt: str = "") -> None:
    """Entries in one commit, every tenth with a payload. They differ by the salt."""
    numbers = range(log.appender.size, log.appender.size + count)
    sealed = {number: f"sealed {number} {salt}".encode() for number in numbers if number % 10 == 0}
    log.append([captured(n, sealed[n]) if n in sealed else small(n) for n in numbers], list(sealed.values()))


def write_plain(directory: Path, entries: list[bytes]) -> None:
    """A log with these entries, written without its recorder and without any sync."""
    rows = [[leaf_hash(entry) for entry in entries]]
    while len(rows[-1]) >= TILE_WIDTH:
        row = rows[-1]
        rows.append([fold(row[at : at + TILE_WIDTH]) for at in range(0, len(row) - TILE_WIDTH + 1, TILE_WIDTH)])
    framed = [frame_entry(entry) for entry in entries]
    for tile in (*hash_tiles_between(0, len(entries)), *tiles_between(ENTRIES, 0, len(entries))):
        items = framed if tile.level == ENTRIES else rows[tile.level]
        path = directory / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(items[tile.index * TILE_WIDTH :][: tile.width]))
    note = sign_note(Checkpoint(ORIGIN, len(entries), tree_root(rows[0])).text(), [KEY])
    (directory / "checkpoint").write_bytes(note)


def grow(log: OpenLog, count: int, salt: str = "") -> None:
    """Publish as many more entries as `fill` makes."""
    fill(log, count, salt)
    log.publish()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[OpenLog]:
    with open_log(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "away" / "mirror"


def mirrored(log: OpenLog, target: Path):
    return mirror_log(log.directory, target, KEY.verifier)


def held(target: Path) -> dict[str, bytes]:
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def size_of(target: Path) -> int:
    return open_checkpoint((target / "checkpoint").read_bytes(), [KEY.verifier]).size


def sound(target: Path, size: int) -> None:
    report = verify_log(target, [VKEY], processes=0)
    assert (report.exit_code, report.findings, report.size) == (0, [], size)


def test_it_catches_up_step_by_step_and_never_loses_a_file(log, target):
    before: dict[str, bytes] = {}
    last = 0
    for size in SIZES:
        if size > log.appender.size:
            fill(log, size - log.appender.size)
        log.beat()
        log.publish()
        done = mirrored(log, target)
        assert (done.origin, done.size_before, done.size) == (ORIGIN, last, log.appender.size)
        sound(target, log.appender.size)
        now = held(target)
        assert before.keys() <= now.keys()
        assert all(now[path] == data for path, data in before.items() if path != "checkpoint")
        assert now["checkpoint"] == (log.directory / "checkpoint").read_bytes()
        before, last = now, log.appender.size
    ours, theirs = (LogReader.open(each, KEY.verifier) for each in (target, log.directory))
    assert ours.entries(0, last) == theirs.entries(0, last)


def test_when_there_is_nothing_new_nothing_is_written(log, target):
    grow(log, 300)
    assert mirrored(log, target).files > 0
    before = held(target)
    done = mirrored(log, target)
    assert (done.size_before, done.size, done.files, done.bytes) == (log.appender.size, log.appender.size, 0, 0)
    assert held(target) == before


def test_a_mirror_can_be_mirrored(log, target, tmp_path):
    for count in (100, 300):
        grow(log, count)
        mirrored(log, target)
        mirror_log(target, tmp_path / "second", KEY.verifier)
    sound(tmp_path / "second", log.appender.size)


def test_upper_levels_are_copied_and_checked(target, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "write_file", lambda path, data: path.write_bytes(data))  # 520 syncs would show nothing
    entries = [b"entry"] * 66_000
    spoiled = tmp_path / "spoiled"
    write_plain(tmp_path / "log", entries[:65_000])
    write_plain(spoiled, entries)
    monkeypatch.setattr(module, "check_chunk", lambda *_: None)  # bundles are another test's
    assert mirror_log(tmp_path / "log", target, KEY.verifier).size == 65_000
    assert mirror_log(spoiled, target, KEY.verifier).size == 66_000
    assert (target / "tile/2/000.p/1").read_bytes() == (spoiled / "tile/2/000.p/1").read_bytes()
    assert open_checkpoint((target / "checkpoint").read_bytes(), [KEY.verifier]).size == 66_000
    tile = spoiled / "tile/1/000"
    tile.write_bytes(bytes(32) + tile.read_bytes()[32:])
    with pytest.raises(CopyRejected, match="level 2 does not follow"):
        mirror_log(spoiled, tmp_path / "none", KEY.verifier)


@pytest.mark.parametrize(("count", "forked"), [(300, 500), (30, 30)], ids=["longer", "of the same size"])
def test_a_fork_is_refused_and_nothing_is_written(log, target, tmp_path, count, forked):
    grow(log, count)
    mirrored(log, target)
    before = held(target)
    with open_log(tmp_path / "fork") as fork:
        grow(fork, forked, "another")
        with pytest.raises(MirrorRefused, match="a fork"):
            mirrored(fork, target)
    assert held(target) == before
    sound(target, log.appender.size)


def test_an_older_copy_is_refused(log, target, tmp_path):
    grow(log, 300)
    old = shutil.copytree(log.directory, tmp_path / "old")
    grow(log, 1)
    mirrored(log, target)
    before = held(target)
    with pytest.raises(MirrorRefused, match=r"rolled back: the mirror has 302 records, .* has 301"):
        mirror_log(old, target, KEY.verifier)
    assert held(target) == before


def test_the_log_of_another_key_is_refused_on_either_side(log, target, tmp_path):
    grow(log, 10)
    with pytest.raises(MirrorRefused, match="is not this log's"):
        mirror_log(log.directory, target, OTHER.verifier)
    target.mkdir(parents=True, exist_ok=True)
    note = sign_note(Checkpoint(OTHER.name, 1, leaf_hash(b"x")).text(), [OTHER])
    (target / "checkpoint").write_bytes(note)
    with pytest.raises(MirrorRefused, match="is not of this log"):
        mirrored(log, target)
    assert held(target) == {"checkpoint": note}


def test_it_is_no_mirror_of_itself(log):
    grow(log, 10)
    with pytest.raises(MirrorRefused, match="the log itself"):
        mirrored(log, log.directory)


@pytest.mark.parametrize("missing", [True, False])
def test_without_a_log_there_is_nothing_to_mirror(tmp_path, target, missing):
    source = tmp_path / "nothing"
    if not missing:
        source.mkdir()
    with pytest.raises(ReadError):
        mirror_log(source, target, KEY.verifier)


def test_two_runs_at_once_are_one_too_many(log, target):
    grow(log, 10)
    mirrored(log, target)
    with exclusive(target, AssertionError("nobody else does")), pytest.raises(MirrorBusy):
        mirrored(log, target)
    assert mirrored(log, target).files == 0


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Path:
    """A log whose mirror stands at 301 of 1,031 records: `log` and `mirror`."""
    home = tmp_path_factory.mktemp("grown")
    with open_log(home / "home") as log:
        grow(log, 300)
        mirror_log(log.directory, home / "mirror", KEY.verifier)
        grow(log, 730)
        shutil.copytree(log.directory, home / "log")
    return home


STEPS = ["write_file", "rename", "sync_directory", "replace_file", "check_chunk"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_what_was_interrupted_goes_on(grown, tmp_path, monkeypatch, step, after):
    """Up to a crash the mirror is what it was; after another run it is what it should be."""
    source, target = grown / "log", shutil.copytree(grown / "mirror", tmp_path / "mirror")
    crash_at = CrashAfter(after)
    place = Path if step == "rename" else module
    monkeypatch.setattr(place, step, crash_at(getattr(place, step)))
    crashed = False
    try:
        mirror_log(source, target, KEY.verifier)
    except Crash:
        crashed = True
    monkeypatch.undo()
    assert crashed or crash_at.calls <= after
    assert size_of(target) == (301 if crashed else 1031)
    assert verify_log(target, [VKEY], processes=0).exit_code == 0
    mirror_log(source, target, KEY.verifier)
    sound(target, 1031)


def test_what_an_interrupted_run_has_copied_is_not_read_again(log, target, monkeypatch):
    grow(log, 1030)
    with monkeypatch.context() as patch:
        patch.setattr(module, "replace_file", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            mirrored(log, target)
    assert not (target / "checkpoint").exists()
    read: list[str] = []
    original = module._read

    def noted(source, tile):
        if source == log.directory:
            read.append(tile.path)
        return original(source, tile)

    monkeypatch.setattr(module, "_read", noted)
    assert mirrored(log, target).files == 0
    assert [path for path in read if "entries" in path] == []
    sound(target, log.appender.size)


def test_what_lies_wrong_ahead_of_the_mirror_is_written_again(log, target):
    grow(log, 100)
    mirrored(log, target)
    grow(log, 500)
    for path in ("tile/entries/000", "tile/0/000", "blobs/000"):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(b"torn")
    mirrored(log, target)
    sound(target, log.appender.size)


def and_then(log: OpenLog, count: int):
    """Reads the newest checkpoint, and lets the log go on."""
    newest = module._newest

    def and_then_more(source, vkey):
        found = newest(source, vkey)
        grow(log, count)
        return found

    return and_then_more


def test_a_live_log_that_goes_on_meanwhile_gives_what_its_checkpoint_named(log, target, monkeypatch):
    """Its narrow tiles have become full ones, and their payloads have moved."""
    grow(log, 300)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_newest", and_then(log, 300))
        assert mirrored(log, target).size == 301
    sound(target, 301)
    assert mirrored(log, target).size == 601
    sound(target, 601)


def test_what_goes_away_as_it_is_read_is_read_at_the_next_checkpoint(log, target, monkeypatch):
    grow(log, 300)
    copy_packs, left = module._copy_packs, [300]

    def and_then_more(copy, bundle):
        if left:
            grow(log, left.pop())
            raise FileNotFoundError
        copy_packs(copy, bundle)

    monkeypatch.setattr(module, "_copy_packs", and_then_more)
    assert mirrored(log, target).size == 601
    sound(target, 601)


def test_a_log_that_never_holds_still_is_given_up(log, target, monkeypatch):
    grow(log, 300)

    def gone(*_):
        raise module._Gone

    monkeypatch.setattr(module, "_copy_edge", gone)
    with pytest.raises(ReadError, match="faster than it can be read"):
        mirrored(log, target)


def spoil_first(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


NEW = ["tile/entries/001", "tile/entries/003", "tile/entries/004.p/7", "tile/0/002", "tile/0/004.p/7", "tile/1/000.p/4"]
NEW += ["blobs/002", "blobs/004.p/7"]


@pytest.mark.parametrize("path", NEW)
@pytest.mark.parametrize("what", [spoil_first, Path.unlink], ids=["changed", "missing"])
def test_a_damaged_source_leaves_the_mirror_where_it_stood(grown, tmp_path, path, what):
    source, target = (shutil.copytree(grown / name, tmp_path / name) for name in ("log", "mirror"))
    what(source / path)
    with pytest.raises((CopyRejected, ReadError, MirrorRefused)):
        mirror_log(source, target, KEY.verifier)
    assert size_of(target) == 301
    assert verify_log(target, [VKEY], processes=0).exit_code == 0
    mirror_log(grown / "log", target, KEY.verifier)
    sound(target, 1031)


@pytest.mark.parametrize(
    ("place", "problem"), [("004.p/7", "do not give the root"), ("002", "does not follow from the bundles below it")]
)
def test_an_entry_exchanged_with_its_hash_does_not_fit_the_tree(grown, tmp_path, place, problem):
    source, target = (shutil.copytree(grown / name, tmp_path / name) for name in ("log", "mirror"))
    bundle = source / "tile/entries" / place
    entries = split_bundle(bundle.read_bytes())
    entries[3] = small(99_999)
    bundle.write_bytes(b"".join(map(frame_entry, entries)))
    (source / "tile/0" / place).write_bytes(b"".join(map(leaf_hash, entries)))
    with pytest.raises(MirrorError):
        mirror_log(source, target, KEY.verifier)
    assert size_of(target) == 301
    with pytest.raises(CopyRejected, match=problem):
        mirror_log(source, tmp_path / "fresh", KEY.verifier)
    assert not (tmp_path / "fresh/checkpoint").exists()


def test_of_a_full_pack_that_is_ahead_only_what_belongs_to_the_checkpoint_is_taken(log, target, monkeypatch):
    """Twice within one bundle, so that the mirror holds a narrow pack already."""
    grow(log, 100)
    mirrored(log, target)
    grow(log, 100)
    monkeypatch.setattr(module, "_newest", and_then(log, 100))
    assert mirrored(log, target).size == 201
    sound(target, 201)
    packs = [split_pack((target / f"blobs/000.p/{width}").read_bytes()) for width in (101, 201)]
    assert [len(pack) for pack in packs] == [10, 10]
    assert not (target / "blobs/000").exists()

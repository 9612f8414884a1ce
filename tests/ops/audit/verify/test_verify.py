"""Tampering: whatever is done to a log directory is flagged, and a clean one never is."""

import os
import shutil
import tracemalloc
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from ops.audit.log.checkpoint import Checkpoint, SignerKey, open_checkpoint, sign_note
from ops.audit.log.merkle import leaf_hash, tree_root
from ops.audit.log.tiles import frame_entry, join_pack, split_bundle
from ops.audit.reader.read import LogReader, partial_packs
from ops.audit.verify import verify as verify_module
from ops.audit.verify.report import FINDINGS_MAX, INCOMPLETE, OK, STALE, TAMPERED, USAGE, Report
from ops.audit.verify.tree import check_leftovers
from ops.audit.verify.verify import verify_log
from tests.faults.recorder_process import KEY, ORIGIN
from tests.ops.audit.open_log import VKEY, open_log
from tests.ops.audit.samples import captured, small

BLOBS = (b"sealed request", b"sealed response")
OTHER = SignerKey(ORIGIN, bytes(range(32)))
FILES = ["checkpoint", "tile/0/000", "tile/1/000.p/2", "tile/entries/001", "blobs/000"]


def verify(directory: Path, **options) -> Report:
    return verify_log(directory, [VKEY], processes=0, **options)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """700 entries in several publications: full and partial tiles, payloads in full and partial packs."""
    with open_log(tmp_path_factory.mktemp("clean")) as log:
        for start in range(0, 690, 69):
            log.append([small(n) for n in range(start, start + 68)])
            log.append(
                [captured(start + 68, *(b"%d %b" % (start, blob) for blob in BLOBS))],
                [b"%d %b" % (start, blob) for blob in BLOBS],
            )
            log.beat()
            log.publish()
        return log.directory


@pytest.fixture
def log(clean: Path, tmp_path: Path) -> Path:
    return shutil.copytree(clean, tmp_path / "log")


def rewrite(directory: Path, change: Callable[[list[bytes]], list[bytes]], bundle: str = "000") -> None:
    path = directory / "tile" / "entries" / bundle
    path.write_bytes(b"".join(map(frame_entry, change(split_bundle(path.read_bytes())))))


def test_a_clean_log_is_clean(clean):
    report = verify(clean)
    assert (report.exit_code, report.findings) == (OK, [])
    assert report.origin == ORIGIN
    assert report.heartbeats == 10


def test_every_flipped_byte_of_a_small_log_is_flagged(tmp_path):
    with open_log(tmp_path) as small_log:
        sealed = {"bytes": 1, "ciphertext_sha256": sha256(BLOBS[0]).hexdigest(), "commitment": "cc" * 32}
        served = small(1, kind="served", decision="allow", payload={"key": "aa", "request": sealed})
        small_log.say([served], BLOBS[:1])
        small_log.say([small(2)])
        directory = small_log.directory
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    assert {path.relative_to(directory).parts[0] for path in files} == {"checkpoint", "tile", "blobs"}
    assert verify(directory).exit_code == OK
    missed = []
    for path in files:
        data = bytearray(path.read_bytes())
        for at in range(len(data)):
            data[at] ^= 1 << at % 8
            path.write_bytes(data)
            if verify(directory).exit_code != TAMPERED:
                missed.append((path.name, at))
            data[at] ^= 1 << at % 8
        path.write_bytes(data)
    assert not missed
    assert verify(directory).exit_code == OK


def test_a_changed_entry_is_named_by_its_index(log):
    rewrite(log, lambda entries: [*entries[:77], small(4242), *entries[78:]])
    report = verify(log)
    assert report.exit_code == TAMPERED
    assert (report.findings[0].what, report.findings[0].where) == (
        "entry 77 does not match its leaf hash",
        "tile/entries/000",
    )
    assert report.findings[1].what == "the entries do not give the root of the checkpoint"


def test_a_flipped_byte_in_a_partial_bundle_is_named_by_its_entry_before_the_root_is(log):
    path = max((log / "tile" / "entries" / "002.p").iterdir(), key=lambda path: int(path.name))
    data = bytearray(path.read_bytes())
    third = 0
    for _ in range(3):
        third += 2 + int.from_bytes(data[third : third + 2], "big")
    at = data.index(b'"peer":"ipv4', third) + 8
    data[at] ^= 1
    path.write_bytes(data)
    report = verify(log)
    assert report.exit_code == TAMPERED
    assert [(each.what, each.where) for each in report.findings][:2] == [
        ("entry 515 does not match its leaf hash", f"tile/entries/002.p/{path.name}"),
        ("the entries do not give the root of the checkpoint", "checkpoint"),
    ]


def test_what_is_too_much_to_list_still_decides_the_verdict(log):
    for number in range(FINDINGS_MAX):
        (log / "blobs" / f"stray-{number}").touch()  # notices, found before tile/
    narrower = min((log / "tile" / "0" / "002.p").iterdir(), key=lambda path: int(path.name))
    narrower.write_bytes(bytes(32 * int(narrower.name)))
    report = verify(log)
    assert len(report.findings) == FINDINGS_MAX
    assert {each.severity for each in report.findings} == {"notice"}
    assert report.exit_code == TAMPERED


def flip(file: Path, at: int = 167) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def swap(one: Path, two: Path) -> None:
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)


def blank(file: Path) -> None:
    file.write_bytes(bytes(len(file.read_bytes())))


def shorten_narrowest(directory: Path) -> None:
    widths = sorted(directory.iterdir(), key=lambda path: int(path.name))
    assert len(widths) > 1
    widths[0].write_bytes(widths[0].read_bytes()[:-32])


def strip_signatures(log: Path) -> None:
    (log / "checkpoint").write_text((log / "checkpoint").read_text().split("\n\n")[0] + "\n")


def entries_are(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    return lambda log: rewrite(log, change)


TAMPERED_WITH = {
    "an entry is dropped": (entries_are(lambda entries: entries[1:]), ""),
    "an entry comes twice": (entries_are(lambda entries: [*entries[:9], entries[9], *entries[9:255]]), ""),
    "entries are swapped": (entries_are(lambda entries: [*entries[:9], entries[10], entries[9], *entries[11:]]), ""),
    "an entry is added": (entries_are(lambda entries: [*entries, entries[0]]), ""),
    "an entry is spelled otherwise": (
        entries_are(lambda entries: [*entries[:3], entries[3].replace(b'"v":1', b'"v": 1'), *entries[4:]]),
        "",
    ),
    "an entry is empty": (entries_are(lambda entries: [*entries[:3], b"", *entries[4:]]), ""),
    "a bundle is empty": (entries_are(lambda entries: []), ""),
    "bundles are swapped": (lambda log: swap(log / "tile/entries/000", log / "tile/entries/001"), ""),
    "payloads are swapped": (lambda log: swap(log / "blobs/000", log / "blobs/001"), ""),
    "a hash is changed": (lambda log: flip(log / "tile/0/001", 5 * 32), "tile/0/001: the leaf hash of entry 261"),
    "a higher tile is changed": (
        lambda log: blank(next((log / "tile/1/000.p").iterdir())),
        "does not follow from tile/0/000",
    ),
    "a narrower tile is no prefix": (lambda log: shorten_narrowest(log / "tile/0/002.p"), ""),
    "it is signed with another key": (lambda log: resign(log, 500, OTHER), ""),
    "no signature is left": (strip_signatures, ""),
}


@pytest.mark.parametrize(("tamper", "words"), TAMPERED_WITH.values(), ids=TAMPERED_WITH)
def test_whatever_is_changed_is_flagged(log, tamper, words):
    tamper(log)
    report = verify(log)
    assert report.exit_code == TAMPERED
    assert any(words in f"{each.where}: {each.what}" for each in report.findings)


def aged(path: Path) -> None:
    """As if it had been there for long: what has only just come may be part of a publication under way."""
    os.utime(path, (0, 0))


def set_aside(report: Report) -> list[str]:
    assert report.exit_code == OK
    assert {each.severity for each in report.findings} <= {"notice"}
    assert report.unverified == len(report.findings)
    return [each.where for each in report.findings]


@pytest.mark.parametrize(
    "name",
    [
        "junk",
        "checkpoint.old",
        "tile/junk",
        "tile/entries/999",
        "tile/entries/003.p/1",
        "tile/0/002",
        "tile/0/003",
        "tile/5/000",
        "blobs/003",
        "blobs/002.p/200",
    ],
)
def test_a_file_that_is_not_the_logs_is_set_aside_and_says_nothing_against_it(log, name):
    planted = log / name
    planted.parent.mkdir(parents=True, exist_ok=True)
    beginning = max((log / "tile" / "0" / "002.p").iterdir(), key=lambda path: int(path.name)).read_bytes()
    planted.write_bytes(beginning + bytes(32 * 256 - len(beginning)) if name == "tile/0/002" else b"")
    aged(planted)
    assert set_aside(verify(log)) == [name]


def test_what_is_no_file_is_not_read(log):
    """A pipe, for one, would never end."""
    os.mkfifo(log / "tile" / "0" / "002.p" / "7")
    (log / "tile" / "link").symlink_to(log, target_is_directory=True)
    assert set_aside(verify(log)) == ["tile/0/002.p/7", "tile/link"]


@pytest.mark.parametrize("cut", [1, 200, 0])
def test_a_narrower_bundle_that_was_cut_short_is_set_aside(log, cut):
    """It is a prefix of the current one, but not of the length in its name."""
    narrower = min((log / "tile" / "entries" / "002.p").iterdir(), key=lambda path: int(path.name))
    data = narrower.read_bytes()
    assert len(split_bundle(data)) > 1
    narrower.write_bytes(data[: -cut or len(data[: 2 + int.from_bytes(data[:2], "big")])])
    assert set_aside(verify(log)) == [f"tile/entries/002.p/{narrower.name}"]


def test_a_pack_beside_the_one_that_replaced_it_is_a_part_of_it_or_set_aside(log):
    """A crash can leave one behind."""
    pack = (log / "blobs" / "000").read_bytes()
    left = log / "blobs" / "000.p" / "69"
    left.parent.mkdir()
    left.write_bytes(pack[: 4 + int.from_bytes(pack[:4], "big")])
    assert set_aside(verify(log)) == []
    left.write_bytes(b"\0\0\0\4junk")
    assert set_aside(verify(log)) == ["blobs/000.p/69"]


def test_what_a_live_log_publishes_meanwhile_is_no_stranger(tmp_path):
    with open_log(tmp_path) as live:
        live.say([small(n) for n in range(300)])

        def go_on(done: int, total: int) -> None:
            assert (done, total) == (301, 301)
            live.say([small(n) for n in range(300, 700)])

        report = verify(live.directory, progress=go_on)
        assert set_aside(report) == []
        assert report.size == 301
        assert verify(live.directory).size == 701


@pytest.mark.parametrize(("old", "asked"), [(False, 3), (True, 1)])
def test_files_that_have_only_just_come_are_given_a_moment_for_their_checkpoint(log, old, asked):
    planted = log / "tile" / "entries" / "003"
    planted.touch()
    if old:
        aged(planted)
    sizes = iter([701, 701, 1024])
    report = Report()
    check_leftovers(log, 701, lambda: next(sizes), report)
    assert set_aside(report) == (["tile/entries/003"] if old else [])
    assert len([*sizes]) == 3 - asked


@pytest.mark.parametrize("name", ["checkpoint", "tile/0/000", "tile/entries/000", "tile/entries/001", "blobs/000"])
def test_a_missing_file_is_incomplete(log, name):
    (log / name).unlink()
    report = verify(log)
    assert report.exit_code == INCOMPLETE
    assert any(each.where == name for each in report.findings)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FILES)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(log, name):
    (log / name).unlink()
    os.mkfifo(log / name)
    assert verify(log).exit_code == INCOMPLETE


@pytest.mark.parametrize("name", FILES)
def test_a_file_larger_than_any_memory_is_flagged(log, name):
    os.truncate(log / name, 1 << 43)
    assert verify(log).exit_code == TAMPERED


@pytest.mark.parametrize("name", ["01", "256", "999", "\u00b2", "\u0663", "x"])
def test_what_is_called_like_a_narrow_pack_and_is_none_is_set_aside(log, name):
    narrow = log / "blobs/002.p"
    (narrow / name).write_bytes(b"anything")
    (narrow / "7").symlink_to("nowhere")
    report = verify(log)
    assert (report.exit_code, report.unverified) == (OK, 2)
    assert name not in [path.name for path in partial_packs(log, 2)]


def test_payloads_are_not_held_in_memory(tmp_path):
    blob = bytes(64 << 20)
    with open_log(tmp_path) as made:
        made.say([small(1)])
        log = made.directory
    (log / "blobs").mkdir()
    (log / "blobs/000.p").mkdir()
    (log / "blobs/000.p/2").write_bytes(join_pack([blob]))
    tracemalloc.start()
    report = verify(log)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [each.what for each in report.findings] == [f"a payload that no entry names: {sha256(blob).hexdigest()}"]
    assert peak < len(blob) / 8


def entries_of(directory: Path) -> list[bytes]:
    reader = LogReader.open(directory, KEY.verifier)
    return reader.entries(0, reader.checkpoint.size)


def resign(directory: Path, size: int, *signers: SignerKey) -> None:
    root = tree_root(leaf_hash(each) for each in entries_of(directory)[:size])
    (directory / "checkpoint").write_bytes(sign_note(Checkpoint(ORIGIN, size, root).text(), list(signers)))


def test_a_wrong_key_is_wrong_usage_and_says_nothing_against_the_log(log):
    stranger = SignerKey("another.test/log", bytes(32))
    for key in (OTHER, stranger):
        report = verify_log(log, [str(key.verifier)], processes=0)
        (finding,) = report.findings
        assert (report.exit_code, finding.severity, finding.where) == (USAGE, "notice", "vkey")
        assert "the checkpoint is not signed by this key" in finding.what
        assert f"{ORIGIN}+{KEY.verifier.id.hex()}" in finding.what  # whose it is
        assert VKEY in finding.what
    assert verify_log(log, [str(stranger.verifier), VKEY], processes=0).exit_code == OK  # of several, one is enough


def test_a_wrong_key_stays_wrong_usage_where_the_log_says_nothing_of_its_own(log):
    (log / "tile" / "entries" / "000").unlink()
    report = verify_log(log, [str(OTHER.verifier)], processes=0)
    assert report.exit_code == USAGE
    assert "names" not in report.findings[0].what


def test_truncation_and_rollback_show_against_a_remembered_checkpoint(log):
    remembered = (log / "checkpoint").read_bytes()
    assert verify(log, remembered=remembered).exit_code == OK
    resign(log, 512, KEY)
    assert verify(log).exit_code == OK  # a shorter tree, rightly signed: nobody could tell
    report = verify(log, remembered=remembered)
    assert report.exit_code == TAMPERED
    assert any("rolled back" in each.what for each in report.findings)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 300, 512])
def test_a_log_extends_every_checkpoint_of_its_past_and_no_fork_of_it(log, size):
    leaves = [leaf_hash(each) for each in entries_of(log)[:size]]
    seen = sign_note(Checkpoint(ORIGIN, size, tree_root(leaves)).text(), [KEY])
    assert verify(log, remembered=seen).exit_code == OK
    fork = sign_note(Checkpoint(ORIGIN, size, tree_root([*leaves[:-1], bytes(32)])).text(), [KEY])
    report = verify(log, remembered=fork)
    assert report.exit_code == TAMPERED
    assert any("fork" in each.what for each in report.findings)


@pytest.mark.parametrize("size", [100, 256, 300])
@pytest.mark.parametrize(("damaged", "other"), [("tile/entries/000", "tile/0/000"), ("tile/0/000", "tile/entries/000")])
def test_a_damaged_file_is_not_taken_for_a_fork_nor_held_against_what_is_above_it(log, size, damaged, other):
    leaves = [leaf_hash(each) for each in entries_of(log)[:size]]
    seen = sign_note(Checkpoint(ORIGIN, size, tree_root(leaves)).text(), [KEY])
    flip(log / damaged)
    report = verify(log, remembered=seen)
    assert report.exit_code == TAMPERED
    assert not any("fork" in each.what or "follow" in each.what for each in report.findings)
    flip(log / other)
    report = verify(log, remembered=seen)
    assert "cannot be computed" in report.findings[-1].what


def test_two_heads_of_one_size_are_a_fork_whatever_lies_below_them(log):
    head = open_checkpoint((log / "checkpoint").read_bytes(), [KEY.verifier])
    other = sign_note(Checkpoint(ORIGIN, head.size, bytes(32)).text(), [KEY])
    seen = (log / "checkpoint").read_bytes()
    (log / "checkpoint").write_bytes(other)
    assert any("fork" in each.what for each in verify(log, remembered=seen).findings)


def test_a_hole_in_the_count_of_heartbeats_is_flagged_even_under_the_right_key(tmp_path):
    with open_log(tmp_path) as holed:
        holed.beat()
        holed.appender.heartbeats += 1
        holed.beat()
        holed.publish()
        report = verify(holed.directory)
    assert report.exit_code == TAMPERED
    assert any("heartbeat 3 stands where 2 belongs" in each.what for each in report.findings)


def test_silence_without_a_reason_is_noticed_but_is_no_crime(tmp_path):
    with open_log(tmp_path) as silent:
        silent.beat()
        silent.clock_ns += 3_600_000_000_000
        silent.beat()
        silent.publish()
        report = verify(silent.directory)
    assert report.exit_code == OK
    assert [each.severity for each in report.findings] == ["notice"]


def test_stale_and_usage(clean):
    newest = verify(clean).last_time_ns
    assert verify(clean, now_ns=newest + 60 * 10**9, stale_after_s=60).exit_code == OK
    assert verify(clean, now_ns=newest + 60 * 10**9 + 1, stale_after_s=60).exit_code == STALE
    assert verify(clean, remembered=b"nonsense").exit_code == USAGE


def test_what_was_not_asked_rightly_is_said(clean, tmp_path):
    def said(directory: Path, *keys: str) -> list[str]:
        report = verify_log(directory, keys)
        assert report.exit_code == USAGE
        return [each.what for each in report.findings]

    assert said(clean) == ["no key was given to verify with"]
    assert said(tmp_path / "nowhere", VKEY) == ["no such directory"]
    assert said(tmp_path / "nowhere") == ["no key was given to verify with", "no such directory"]
    (private,) = said(clean, KEY.secret())
    assert "this is the private key" in private
    assert KEY.secret().rpartition("+")[2] not in private
    assert said(clean, "nonsense")


def test_tampered_outranks_incomplete_outranks_stale(log):
    (log / "tile" / "0" / "000").unlink()
    late = {"now_ns": 2 * 10**18, "stale_after_s": 1}
    assert verify(log, **late).exit_code == INCOMPLETE
    rewrite(log, lambda entries: entries[1:], "001")
    assert verify(log, **late).exit_code == TAMPERED


def test_processes_find_what_one_process_finds(log, monkeypatch):
    monkeypatch.setattr(verify_module, "PARALLEL_RECORDS", 1)
    monkeypatch.setattr(verify_module, "CHUNK_BUNDLES", 1)
    progress = []
    assert verify_log(log, [VKEY], processes=2, progress=lambda *each: progress.append(each)).exit_code == OK
    assert progress[-1][0] == progress[-1][1]
    rewrite(log, lambda entries: [*entries[:77], small(4242), *entries[78:]], "001")
    assert verify_log(log, [VKEY], processes=2).findings == verify(log).findings

"""Publishing: whatever step a crash falls into, the same code completes it; and nobody publishes beside us."""

import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from ops.audit.errors import AppenderRunning, ForkRefused, LogCorrupted, ReadError
from ops.audit.log.checkpoint import open_checkpoint
from ops.audit.log.merkle import leaf_hash, verify_consistency, verify_inclusion
from ops.audit.reader.read import LogReader
from ops.audit.store import publisher as module
from ops.audit.store.lock import AppenderFlock, LockDatabase
from ops.audit.store.publisher import Publisher
from ops.audit.store.signer import Signer
from ops.audit.verify.verify import verify_log
from tests.faults.recorder_process import KEY, ORIGIN
from tests.ops.audit.crashing import Crash, CrashAfter
from tests.ops.audit.open_log import VKEY, OpenLog, open_log
from tests.ops.audit.samples import captured, small


def fill(log: OpenLog, first: int, count: int) -> None:
    for start in range(first, first + count, 25):
        numbers = range(start, min(start + 25, first + count))
        entries = [small(n) if n % 50 else captured(n, b"sealed %d" % n) for n in numbers]
        log.append(entries, [b"sealed %d" % n for n in numbers if n % 50 == 0])


def public_size(log: OpenLog) -> int:
    return LogReader.open(log.directory, KEY.verifier).checkpoint.size


def verified(log: OpenLog) -> None:
    report = verify_log(log.directory, [VKEY], processes=0)
    # A crash may leave tiles that no checkpoint speaks of yet; nothing else may be there.
    beyond = [finding for finding in report.findings if finding.what == "beyond the checkpoint, so not verified"]
    assert (report.exit_code, report.findings) == (0, beyond)


STEPS = ["write_file", "sync_directory", "make_directories", "rmtree", "sign", "swap", "rename"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_crash_at_any_step_is_completed_by_the_next_start(tmp_path, monkeypatch, step, after):
    """The step's call number `after` (counting from 0) is the last thing the process tried."""
    crash_at = CrashAfter(after)
    with open_log(tmp_path) as log:
        fill(log, 0, 300)
        log.publish()
        fill(log, 300, 300)
        size = log.appender.size
        if step == "sign":
            monkeypatch.setattr(log.signer, step, crash_at(log.signer.sign))
        elif step == "swap":
            monkeypatch.setattr(log.lock, step, crash_at(log.lock.swap))
        elif step == "rename":
            monkeypatch.setattr(Path, step, crash_at(Path.rename))
        else:
            monkeypatch.setattr(module, step, crash_at(getattr(module, step)))
        try:
            log.publish()
        except Crash:
            assert crash_at.calls > after  # other threads may have got there too
        monkeypatch.undo()
    with open_log(tmp_path) as again:
        assert again.found_size == size
        before = public_size(again)
        verified(again)
        again.publish()
        assert public_size(again) == size + 1 > before
        verified(again)
        reader = LogReader.open(again.directory, KEY.verifier)
        assert reader.entries(1, 255) + reader.entries(256, size - 256) == [
            small(n) if n % 50 else captured(n, b"sealed %d" % n) for n in range(600)
        ]


def test_a_checkpoint_that_was_swapped_in_is_published_as_it_is(tmp_path, monkeypatch):
    with open_log(tmp_path) as log:
        fill(log, 0, 10)
        monkeypatch.setattr(log.publisher, "_reveal", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            log.publish()
        note = log.lock.read()
        assert note is not None
        assert not (log.directory / "checkpoint").exists()
    with open_log(tmp_path) as again:
        assert again.publisher.publish()
        assert (again.directory / "checkpoint").read_bytes() == note
        assert again.publisher.publish()
        assert not again.publisher.publish()


def test_of_two_appenders_only_one_can_extend_the_log(tmp_path):
    """Past the flock (another machine on a shared disk): the compare-and-swap alone must hold."""
    with open_log(tmp_path) as one:
        one.publish()
        with open_log(tmp_path) as two:
            two.say([small(2)])
            seen = (two.directory / "checkpoint").read_bytes()
            one.append([small(1)])
            with pytest.raises(AppenderRunning):
                one.publish()
            assert (one.directory / "checkpoint").read_bytes() == seen


def test_the_swap_names_what_it_replaces(tmp_path):
    with LockDatabase(tmp_path / "lock", ORIGIN) as one, LockDatabase(tmp_path / "lock", ORIGIN) as two:
        assert one.read() is None
        one.swap(None, b"first")
        with pytest.raises(AppenderRunning):
            two.swap(None, b"other")
        with pytest.raises(AppenderRunning):
            two.swap(b"not it", b"other")
        two.swap(b"first", b"second")
        assert one.read() == b"second"
        with pytest.raises(AppenderRunning):
            one.swap(b"first", b"third")
        with LockDatabase(tmp_path / "lock", "another.test/log") as other:
            assert other.read() is None


def test_a_swap_between_our_read_and_our_swap_is_noticed(tmp_path, monkeypatch):
    with open_log(tmp_path) as log:
        log.publish()
        log.append([small(1)])
        honest = log.signer.sign

        def other_first(size, root, prove):
            note = honest(size, root, prove)
            log.lock.swap(log.lock.read(), b"theirs")
            return note

        monkeypatch.setattr(log.signer, "sign", other_first)
        before = (log.directory / "checkpoint").read_bytes()
        with pytest.raises(AppenderRunning):
            log.publish()
        assert (log.directory / "checkpoint").read_bytes() == before
        assert log.lock.read() == b"theirs"


def test_a_second_flock_is_refused_and_free_after_the_first(tmp_path):
    first = AppenderFlock(tmp_path / "flock")
    with pytest.raises(AppenderRunning):
        AppenderFlock(tmp_path / "flock")
    first.close()
    AppenderFlock(tmp_path / "flock").close()


def test_the_signer_refuses_a_fork_and_a_rollback_even_after_a_restart(tmp_path):
    with open_log(tmp_path) as log:
        fill(log, 0, 20)
        log.publish()
        size, root = log.edge.head()
    signer = Signer(KEY, tmp_path / "log.signed")
    assert signer.last.size == size
    assert open_checkpoint(signer.sign(size, root, lambda old, new: []), [KEY.verifier]).size == size
    for other_size, other_root, proof in ((size, bytes(32), []), (size - 1, root, []), (size + 1, bytes(32), [root])):
        with pytest.raises(ForkRefused):
            signer.sign(other_size, other_root, lambda old, new, proof=proof: proof)
    assert Signer(KEY, tmp_path / "log.signed").last.root == root


def test_a_log_directory_restored_from_an_old_copy_is_not_signed_again(tmp_path):
    """The copy holds everything but the signer's memory, which stands beside the key."""
    with open_log(tmp_path) as log:
        fill(log, 0, 5)
        log.publish()
    for name in ("log", "state"):
        shutil.copytree(tmp_path / name, tmp_path / "backup" / name)
    with open_log(tmp_path) as log:
        fill(log, 5, 5)
        log.publish()
    for name in ("log", "state"):
        shutil.rmtree(tmp_path / name)
        shutil.copytree(tmp_path / "backup" / name, tmp_path / name)
    with pytest.raises(ForkRefused, match="older copy"), open_log(tmp_path):
        pass


def test_the_signer_still_gets_its_proof_when_its_last_size_is_older_than_the_edge(tmp_path):
    with open_log(tmp_path) as log:
        fill(log, 0, 30)
        log.publish()
        old = (tmp_path / "log.signed").read_bytes()
        fill(log, 30, 600)
        log.publish()
    (tmp_path / "log.signed").write_bytes(old)
    with open_log(tmp_path) as again:
        again.publish()
        verified(again)


def test_proofs_from_the_published_tiles(tmp_path):
    with open_log(tmp_path) as log:
        fill(log, 0, 100)
        log.publish()
        old = LogReader.open(log.directory, KEY.verifier)
        fill(log, 100, 500)
        log.publish()
        reader = LogReader.open(log.directory, KEY.verifier)
        new = reader.checkpoint
        for index in (0, 1, 255, 256, 511, new.size - 1):
            leaf = leaf_hash(reader.entries(index, 1)[0])
            verify_inclusion(leaf, index, new.size, reader.inclusion_proof(index), new.root)
        proof = reader.consistency_proof(old.checkpoint.size)
        verify_consistency(old.checkpoint.size, new.size, proof, old.checkpoint.root, new.root)
        # A reader of the older checkpoint goes on working: its partial tiles were replaced by full ones.
        assert old.entries(0, old.checkpoint.size) == reader.entries(0, old.checkpoint.size)
        for first, count in ((0, new.size + 1), (-1, 1), (new.size, 1), (0, 65_537)):
            with pytest.raises(ReadError):
                reader.entries(first, count)
        with pytest.raises(ReadError):
            reader.blob(0, bytes(32))


def test_partial_packs_hold_what_is_new_and_the_full_pack_holds_all(tmp_path):
    with open_log(tmp_path) as log:
        blobs = [b"%d" % n * 9 for n in range(6)]
        for number, blob in enumerate(blobs):
            log.say([captured(number, blob)], [blob])
        partial = sorted((log.directory / "blobs" / "000.p").iterdir(), key=lambda path: int(path.name))
        assert [len(path.read_bytes()) for path in partial] == [4 + len(blob) for blob in blobs]
        verified(log)
        log.say([small(n) for n in range(300)])
        assert not (log.directory / "blobs" / "000.p").exists()
        reader = LogReader.open(log.directory, KEY.verifier)
        assert [reader.blob(1 + n, sha256(blob).digest()) for n, blob in enumerate(blobs)] == blobs
        verified(log)


def test_nothing_new_is_nothing_published(tmp_path):
    with open_log(tmp_path) as log:
        log.publish()
        before = (log.directory / "checkpoint").stat().st_mtime_ns
        assert not log.publisher.publish()
        assert (log.directory / "checkpoint").stat().st_mtime_ns == before


def test_a_lock_that_is_behind_the_public_log_is_refused(tmp_path):
    with open_log(tmp_path) as log:
        log.publish()
    (tmp_path / "state" / "lock.sqlite").unlink()
    with pytest.raises(LogCorrupted, match="ahead of the lock"), open_log(tmp_path):
        pass


def test_publisher_needs_a_lock_that_is_its_own(tmp_path):
    with open_log(tmp_path) as log:
        log.publish()
        assert isinstance(log.publisher, Publisher)
        log.lock.swap(log.lock.read(), b"foreign")
        with pytest.raises(AppenderRunning):
            log.publisher.publish()

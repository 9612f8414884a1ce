"""A restored log goes on only where nothing of it is missing; a drill proves a backup and leaves nothing."""

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from ops.audit.copies.sources import DirectorySource
from ops.audit.errors import HistoriesDiffer, KeyMissing, LogCorrupted, SuccessionRefused
from ops.audit.payloads.erasure import Erasures
from ops.audit.payloads.keys import KeyStore
from ops.audit.store.signer import SEALED
from ops.audit.verify.verify import verify_log
from ops.backup import restore as module
from ops.backup.reopen import catch_up, reopen
from ops.backup.restore import drill, restore_backup
from tests.faults.erasing import hold
from tests.faults.recorder_process import KEY, launch, settings_in
from tests.ops.audit.open_log import VKEY, open_log
from tests.ops.audit.payloads.test_erasure_log import erased, held
from tests.ops.audit.samples import small
from tests.ops.backup.made import NOW_NS, Made, made_in


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    with made_in(tmp_path) as made:
        yield made


@pytest.fixture
def back(made, tmp_path):
    """A backup that was restored; the log has gone on since."""
    made.back_up()
    done = restore_backup(made.repository, made.repository.names()[-1], tmp_path / "back", now_ns=NOW_NS)
    made.grow(300)
    return done


def test_without_a_word_the_origin_is_sealed(back):
    opened = reopen(back.target, back.manifest.log, wanted=False)
    assert (opened.size, opened.lost_end, opened.goes_on) == (601, 601, False)
    assert (back.target / "recorder" / SEALED).exists()


def test_with_all_copies_the_log_is_complete_and_goes_on(made, back):
    opened = reopen(back.target, back.manifest.log, sources=[DirectorySource(made.log.directory)], wanted=True)
    assert (opened.size, opened.goes_on, opened.payloads_missing) == (901, True, 0)
    assert verify_log(back.target / "log", [VKEY], processes=0).size == 901
    recorder = launch(settings_at(back.target))
    recorder.wait_ready()
    assert recorder.stop() == 0
    report = verify_log(back.target / "log", [VKEY], processes=0)
    assert (report.exit_code, report.size > 901) == (0, True)


def settings_at(target: Path):
    (target / "keys/log.key").write_text(KEY.secret() + "\n")
    return settings_in(
        target, signing_key=target / "keys/log.key", directory=target / "log", state_directory=target / "recorder"
    )


def test_with_a_larger_tree_known_it_can_not(made, back):
    notes = [("a witness", (made.log.directory / "checkpoint").read_bytes())]
    with pytest.raises(SuccessionRefused, match="901 entries were signed, 601 are here"):
        reopen(back.target, back.manifest.log, notes=notes, wanted=True)
    before = (back.target / "log/checkpoint").read_bytes()
    (back.target / "recorder" / SEALED).unlink()  # whoever helps himself finds nothing to go on from
    assert launch(settings_at(back.target)).ended() == LogCorrupted.exit_code
    assert (back.target / "log/checkpoint").read_bytes() == before


def test_the_signers_own_memory_counts_as_well(made, back):
    (back.target / "keys").mkdir(exist_ok=True)
    shutil.copy(made.home / "log.signed", back.target / "keys/log.signed")
    with pytest.raises(SuccessionRefused, match="901 entries were signed"):
        reopen(back.target, back.manifest.log, wanted=True)


def test_a_copy_of_another_history_is_a_fork(made, back, tmp_path):
    with open_log(tmp_path / "other") as other:
        other.say([small(number) for number in range(5000, 5700)])
        with pytest.raises(HistoriesDiffer):
            reopen(back.target, back.manifest.log, sources=[DirectorySource(other.directory)], wanted=True)
    assert made.log.appender.size == 901


def drilled(made: Made, place: Path):
    seconds = count()
    return drill(made.repository, made.repository.names()[-1], place, now_ns=NOW_NS, clock=lambda: next(seconds))


def test_a_drill_proves_the_backup_and_leaves_nothing(made, tmp_path):
    done = made.back_up()
    made.grow(100)
    found = drilled(made, tmp_path / "beside")
    assert found.problems == []
    assert (found.files, found.bytes, found.databases, found.log_size) == (done.files, done.bytes, 2, 601)
    assert not list(tmp_path.glob("beside*"))
    assert made.repository.names() == [done.name]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("stockade.yaml", "is not what was backed up"),
        ("store.db", "is not what was backed up"),
        ("log/tile/entries/001", "does not match its leaf hash"),
        ("log/tile/0/001", "leaf hash"),
        ("log/blobs/001", "log"),
    ],
)
def test_a_drill_sees_what_is_not_equal(made, tmp_path, monkeypatch, path, words):
    """A restoration that wrote something else than it checked."""
    made.back_up()

    def spoil(*arguments, **more):
        done = restore_backup(*arguments, **more)
        file = done.target / path
        data = file.read_bytes()
        file.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        return done

    monkeypatch.setattr(module, "restore_backup", spoil)
    problems = drilled(made, tmp_path / "beside").problems
    assert any(words in problem for problem in problems), problems
    assert not (tmp_path / "beside").exists()


def test_what_the_log_erased_and_held_after_the_backup_takes_force_in_the_keys_that_came_back(tmp_path):
    """Without a host: where another origin follows, nobody reads this log again."""
    with made_in(tmp_path) as made:
        keys = KeyStore(made.home / "keys/payload.db", bytes(32), origin="o")
        sealed = keys.seal("store-7", "subject-0", "2026-11", bytes(16), "request", b"plain")
        keys.close()
        made.back_up()
        made.log.append([erased(sealed.key_ref), held(1)])
        made.log.publish()
        back = restore_backup(made.repository, made.repository.names()[-1], tmp_path / "back", now_ns=NOW_NS)
        reopen(back.target, back.manifest.log, sources=[DirectorySource(made.log.directory)], wanted=False)
    catch_up(back)
    erasures = Erasures(back.target / "keys/payload.db")
    assert [one.id for one in erasures.holds()] == [hold(1).id]
    erasures.close()
    restored = KeyStore(back.target / "keys/payload.db", bytes(32), origin="o")
    with pytest.raises(KeyMissing):
        restored.open(sealed.key_ref, bytes(16), "request", sealed.ciphertext, sealed.commitment)
    restored.close()

"""A backup: all of it comes back, only what is new is written, and whatever is wrong with it is found."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from ops.audit.verify.verify import verify_log
from ops.backup.create import Source
from ops.backup.errors import (
    BackupDamaged,
    BackupKeyRefused,
    RepositoryBusy,
    RepositoryRefused,
    RestoreRefused,
    SourceRefused,
)
from ops.backup.manifest import Manifest, StoredFile, encode_index
from ops.backup.repository import KEYS_LIVE_NS, Pruned, Repository, read_key
from ops.backup.restore import restore_backup
from ops.backup.sealing import BackupKey
from ops.backup.verify import verify_backup
from tests.ops.audit.open_log import VKEY, open_log
from tests.ops.audit.samples import small
from tests.ops.backup.made import MASTER, NOW_NS, Made, database, made_in

DAY_NS = 24 * 3600 * 1_000_000_000


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    with made_in(tmp_path) as made:
        yield made


def restored(made: Made, target: Path, name: str = "", now_ns: int = NOW_NS):
    return restore_backup(made.repository, name or made.repository.names()[-1], target, now_ns=now_ns)


def rows_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT count(*) FROM kept").fetchone()[0]


def whole(made: Made, name: str = "", now_ns: int = NOW_NS):
    found = verify_backup(made.repository, name or made.repository.names()[-1], now_ns=now_ns)
    assert found.problems == []
    return found


def test_all_of_it_comes_back(made, tmp_path):
    done = made.back_up()
    assert whole(made).log_size == made.log.appender.size == done.log_size
    back = tmp_path / "back"
    restored(made, back)
    for path, data in made.files().items():
        assert (back / path).read_bytes() == data, path
    assert (back / "stockade.yaml").stat().st_mode & 0o777 == 0o640
    assert (rows_of(back / "store.db"), rows_of(back / "keys/payload.db")) == (100, 10)
    assert verify_log(back / "log", [VKEY], processes=0).exit_code == 0


def test_only_what_is_new_is_written_and_full_tiles_are_not_read_again(made):
    first = made.back_up()
    shutil.rmtree(made.home / "log/tile/entries/x000", ignore_errors=True)
    (made.home / "log/tile/entries/000").write_bytes(b"spoiled since")
    made.grow(10)
    second = made.back_up(NOW_NS + DAY_NS)
    assert second.bytes > first.bytes
    assert second.bytes_written < first.bytes_written / 20
    assert whole(made).log_size == 611  # what was backed up before is still right


def test_every_backup_is_a_point_in_time(made, tmp_path):
    first = made.back_up()
    (made.home / "stockade.yaml").write_bytes(b"version: 2\n")
    made.grow(300)
    made.back_up(NOW_NS + DAY_NS)
    restored(made, tmp_path / "then", first.name)
    restored(made, tmp_path / "now")
    assert (tmp_path / "then/stockade.yaml").read_bytes() == b"version: 1\n"
    assert (tmp_path / "now/stockade.yaml").read_bytes() == b"version: 2\n"
    sizes = [verify_log(tmp_path / each / "log", [VKEY], processes=0).size for each in ("then", "now")]
    assert sizes == [601, 901]


def test_the_repository_shows_nothing_of_what_is_in_it(made):
    made.back_up()
    stored = b"".join(path.read_bytes() for path in made.repository.path.rglob("*") if path.is_file())
    for secret in (b"version: 1", b"weights", b"kiosk", bytes(range(256)), b"SQLite format", b"genesis"):
        assert secret not in stored


def test_damage_to_any_file_of_the_repository_is_found_and_mended_by_the_next(made):
    made.back_up()
    files = [path for path in made.repository.path.rglob("*") if path.is_file() and path.name != "format"]
    assert len(files) > 12
    for path in files:
        data = path.read_bytes()
        for spoiled in (data[:-1], data[:9] + bytes([data[9] ^ 1]) + data[10:], b""):
            path.write_bytes(spoiled)
            try:
                found = verify_backup(made.repository, made.repository.names()[0], now_ns=NOW_NS).problems
            except BackupDamaged as error:
                found = error.problems
            assert found, path
        path.write_bytes(data if path.parent.name == "backups" else data[:-1])
    made.back_up(NOW_NS + 1_000_000_000, whole=True)
    whole(made)


def test_a_missing_chunk_is_found(made):
    made.back_up()
    next(iter((made.repository.path / "objects").rglob("?" * 64))).unlink()
    with pytest.raises((BackupDamaged, AssertionError), match="cannot be read"):
        whole(made)


def test_a_damaged_backup_is_not_restored(made, tmp_path):
    made.back_up()
    chunk = max((made.repository.path / "objects").rglob("?" * 64), key=lambda path: path.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\0")
    with pytest.raises(BackupDamaged, match="does not open"):
        restored(made, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_another_key_is_refused(made, tmp_path):
    made.back_up()
    with pytest.raises(BackupKeyRefused, match="another key"):
        Repository.open(made.repository.path, BackupKey(bytes(32)))
    stranger = Repository(made.repository.path, BackupKey(bytes(32)))  # who lies about the key all the same
    with pytest.raises(BackupDamaged):
        stranger.manifest(made.repository.names()[0])


def test_a_key_file_is_its_owners(tmp_path):
    file = tmp_path / "key"
    file.write_bytes(MASTER)
    file.chmod(0o644)
    with pytest.raises(BackupKeyRefused, match="chmod 600"):
        read_key(file)
    file.chmod(0o600)
    assert read_key(file).mark == BackupKey(MASTER).mark


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 2, "key": ""}'])
def test_a_directory_of_another_kind_is_no_repository(tmp_path, content):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/format").write_bytes(content)
    with pytest.raises(RepositoryRefused):
        Repository.open(tmp_path / "other", BackupKey(MASTER))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter").write_text("mine")
    with pytest.raises(RepositoryRefused, match="name a new directory"):
        Repository.create(tmp_path / "mine", BackupKey(MASTER))


def test_one_writer_at_a_time(made):
    with made.repository.writing(), pytest.raises(RepositoryBusy):
        made.back_up()


KILLED = """
import os, signal, sys
from pathlib import Path
from ops.backup.create import create_backup
from ops.backup.repository import Repository
from ops.backup.sealing import BackupKey
from tests.ops.backup.made import MASTER, NOW_NS, fresh_id, plan_of

left = int(sys.argv[3])
def advance(path, size):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
create_backup(Repository.open(Path(sys.argv[2]), BackupKey(MASTER)), plan_of(Path(sys.argv[1])), now_ns=NOW_NS + 10**9,
              random_bytes=os.urandom, build="test", progress=advance)
"""


@pytest.mark.parametrize("files", [3, 12])
def test_a_killed_run_leaves_the_backups_before_and_the_next_one_goes_on(made, tmp_path, files):
    made.back_up()
    before = made.repository.names()
    made.grow(300)
    (made.home / "stockade.yaml").write_bytes(b"version: 2\n")
    program = [sys.executable, "-c", KILLED, str(made.home), str(made.repository.path), str(files)]
    assert subprocess.run(program, check=False, cwd=Path(__file__).parents[3]).returncode == -signal.SIGKILL
    assert made.repository.names() == before
    whole(made)
    made.back_up(NOW_NS + 2 * 10**9)
    assert whole(made).log_size == 901
    restored(made, tmp_path / "back")
    assert (tmp_path / "back/stockade.yaml").read_bytes() == b"version: 2\n"


def test_a_database_in_use_is_copied_between_two_transactions(made, tmp_path):
    path = made.home / "store.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("INSERT INTO kept VALUES (1)")
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO kept VALUES (?)", [(number,) for number in range(50)])
        made.back_up()
        db.execute("ROLLBACK")
    restored(made, tmp_path / "back")
    assert rows_of(tmp_path / "back/store.db") == 101  # with what only the write-ahead log has, without what is open


def test_a_damaged_database_is_refused(made):
    path = made.home / "store.db"
    database(path, 20_000)
    data = path.read_bytes()
    path.write_bytes(data[:8192] + os.urandom(4096) + data[12288:])
    with pytest.raises(SourceRefused, match=r"store\.db"):
        made.back_up()
    assert made.repository.names() == []


def test_key_databases_are_gone_after_seven_days(made, tmp_path):
    first = made.back_up()
    kept = made.repository.path / "keys"
    assert len(list(kept.rglob("?" * 64))) == 1
    made.back_up(NOW_NS + 3 * DAY_NS)
    assert len(list(kept.iterdir())) == 2
    late = NOW_NS + KEYS_LIVE_NS
    restored(made, tmp_path / "just", first.name, now_ns=late - 1)
    assert (tmp_path / "just/keys/payload.db").exists()
    assert restored(made, tmp_path / "over", first.name, now_ns=late).keys_expired == ["keys/payload.db"]
    assert not (tmp_path / "over/keys/payload.db").exists()
    assert made.back_up(late).keys_expired == [first.name.partition("-")[2]]
    assert len(list(kept.iterdir())) == 2
    assert whole(made, first.name, now_ns=late).keys_expired


def test_what_a_killed_run_left_of_a_key_database_goes_as_well(made):
    stray = made.repository.path / "keys" / ("f" * 32)
    stray.mkdir()
    born = stray.stat().st_mtime_ns
    assert made.repository.expire_keys(born + KEYS_LIVE_NS - 1) == []
    assert made.repository.expire_keys(born + KEYS_LIVE_NS) == ["f" * 32]
    assert not stray.exists()


def test_a_name_that_is_no_time_keeps_nothing_alive(made):
    (made.repository.path / "backups" / ("99999999T999999.999999Z-" + "f" * 32)).write_bytes(b"strange")
    (made.repository.path / "keys" / ("f" * 32)).mkdir()
    assert made.repository.expire_keys(NOW_NS) == ["f" * 32]


def test_private_keys_stay_out_unless_they_are_asked_for(made, tmp_path):
    key = made.home / "bundles/forgotten.pem"
    key.write_text("-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n")
    done = made.back_up()
    assert [str(key) in line for line in done.left_out] == [True]
    restored(made, tmp_path / "without")
    assert not (tmp_path / "without/bundles/forgotten.pem").exists()
    made.plan = replace(made.plan, with_keys=True)
    assert made.back_up(NOW_NS + 10**9).left_out == []
    restored(made, tmp_path / "with")
    assert (tmp_path / "with/bundles/forgotten.pem").read_bytes() == key.read_bytes()


def test_what_has_to_be_there_is_missed(made):
    made.plan = replace(made.plan, sources=(*made.plan.sources, Source("tls/ca", made.home / "tls/ca")))
    with pytest.raises(SourceRefused, match="no gateway starts without it"):
        made.back_up()


def test_a_log_that_was_put_back_is_refused_and_the_backup_keeps_the_better_one(made, tmp_path):
    shutil.copytree(made.home / "log", tmp_path / "old")
    made.grow(300)
    made.back_up()
    shutil.rmtree(made.home / "log")
    shutil.copytree(tmp_path / "old", made.home / "log")
    with pytest.raises(SourceRefused, match="an older copy was put back, or a fork"):
        made.back_up(NOW_NS + 10**9)
    assert whole(made).log_size == 901


def test_nothing_is_restored_over_something(made, tmp_path):
    made.back_up()
    (tmp_path / "back").mkdir()
    (tmp_path / "back/letter").write_text("mine")
    with pytest.raises(RestoreRefused, match="nothing is overwritten"):
        restored(made, tmp_path / "back")
    assert [each.name for each in (tmp_path / "back").iterdir()] == ["letter"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "away.restoring").symlink_to(tmp_path / "elsewhere")
    for name in ("link", "away"):
        with pytest.raises(RestoreRefused):
            restored(made, tmp_path / name)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_interrupted_restoration_goes_on(made, tmp_path):
    made.back_up()

    def stop(done: int, _: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_backup(made.repository, made.repository.names()[0], tmp_path / "back", now_ns=NOW_NS, progress=stop)
    draft = tmp_path / "back.restoring"
    assert not (tmp_path / "back").exists()
    (draft / "stray").write_text("of another run")
    (draft / "bundles/empty").write_text("half")
    assert restored(made, tmp_path / "back").kept == 5
    assert not draft.exists()
    assert not (tmp_path / "back/stray").exists()
    for path, data in made.files().items():
        assert (tmp_path / "back" / path).read_bytes() == data


@pytest.mark.parametrize("path", ["../evil", "/tmp/evil", "a/../../evil", "a/./b"])
def test_a_manifest_cannot_lead_out_of_the_target(made, tmp_path, path):
    """Even one that was made with the key."""
    name, _ = made.repository.put(b"evil")
    file = StoredFile(path, "file", 0o600, 4, "6a" * 32, (name,))
    index, _ = made.repository.put(encode_index([file]))
    made.repository.commit(Manifest(1, "e" * 32, NOW_NS, "test", False, None, 1, 4, NOW_NS, (index,)))
    with pytest.raises(RestoreRefused, match="not a path below"):
        restored(made, tmp_path / "inner/back")
    assert not list(tmp_path.rglob("evil"))


def test_a_fork_that_is_longer_is_refused_as_well(made, tmp_path):
    made.back_up()
    with open_log(tmp_path / "fork") as fork:
        fork.say([small(number) for number in range(5000, 6000)])
        shutil.rmtree(made.home / "log")
        shutil.copytree(fork.directory, made.home / "log")
    with pytest.raises(SourceRefused, match="an older copy was put back, or a fork"):
        made.back_up(NOW_NS + 10**9)


def rewritten(made: Made, files: list[StoredFile]) -> str:
    """A backup with these files and the log of the newest one, made with the key by somebody who made a mistake."""
    newest = made.repository.manifest(made.repository.names()[-1])
    index, _ = made.repository.put(encode_index(files))
    total = sum(each.bytes for each in files)
    changes = {"id": "e" * 32, "files": len(files), "bytes_in_all": total, "index": (index,)}
    return made.repository.commit(msgspec.structs.replace(newest, **changes))


def test_chunks_that_are_whole_and_of_another_file_are_found(made, tmp_path):
    made.back_up()
    files = {each.path: each for each in made.repository.files(made.repository.manifest(made.repository.names()[0]))}
    first, second = files["bundles/kiosk/1/manifest.json"], files["stockade.yaml"]
    files[second.path] = msgspec.structs.replace(second, chunks=first.chunks, bytes=first.bytes)
    name = rewritten(made, list(files.values()))
    found = verify_backup(made.repository, name, now_ns=NOW_NS)
    assert found.problems == ["stockade.yaml: its chunks are not the file that was stored"]
    with pytest.raises(BackupDamaged, match="not the file that was stored"):
        restored(made, tmp_path / "back", name)


def test_a_log_that_does_not_lead_to_its_checkpoint_is_found(made):
    made.back_up()
    files = {each.path: each for each in made.repository.files(made.repository.manifest(made.repository.names()[0]))}
    first, second = "log/tile/entries/000", "log/tile/entries/001"
    files[first] = msgspec.structs.replace(files[second], path=first)
    problems = verify_backup(made.repository, rewritten(made, list(files.values())), now_ns=NOW_NS).problems
    assert problems == ["log: the entries do not give the root of the checkpoint"]
    del files[first]
    problems = verify_backup(made.repository, rewritten(made, list(files.values())), now_ns=NOW_NS).problems
    assert problems == ["log/tile/entries/000 is not in the backup"]


def test_pruning_takes_what_no_other_backup_has_and_nothing_else(made, tmp_path):
    for version in range(4):
        (made.home / "stockade.yaml").write_bytes(b"version: %d\n" % version)
        made.grow(10)
        made.back_up(NOW_NS + version * 10**9)
    names = made.repository.names()
    (made.repository.path / "objects/ff").mkdir(exist_ok=True)
    (made.repository.path / "objects/ff" / ("f" * 64)).write_bytes(b"of a killed run")
    done = made.repository.prune(2)
    assert (done.backups, made.repository.names()) == (names[:2], names[2:])
    assert done.chunks > 3
    assert len(list((made.repository.path / "keys").iterdir())) == 2
    for name in names[2:]:
        whole(made, name)
    restored(made, tmp_path / "back", names[2])
    assert (tmp_path / "back/stockade.yaml").read_bytes() == b"version: 2\n"
    kept = {path.name for path in made.repository.path.rglob("?" * 64)}
    assert made.repository.prune(2) == Pruned([], 0, 0)
    assert {path.name for path in made.repository.path.rglob("?" * 64)} == kept


def test_nothing_is_pruned_while_a_backup_that_stays_cannot_be_read(made):
    for second in range(2):
        made.back_up(NOW_NS + second * 10**9)
    (index,) = made.repository.manifest(made.repository.names()[1]).index
    (made.repository.path / "objects" / index[:2] / index).write_bytes(b"spoiled")
    before = set(made.repository.path.rglob("*"))
    with pytest.raises(BackupDamaged):
        made.repository.prune(1)
    assert set(made.repository.path.rglob("*")) == before


def test_backups_of_one_second_stand_in_the_order_of_their_making(made):
    names = [made.back_up(NOW_NS + number * 1000).name for number in range(8)]
    assert made.repository.names() == names


def test_a_backup_that_is_not_there_is_refused(made):
    for name in ("20270115T080000.000000Z-" + "0" * 32, "../format", ""):
        with pytest.raises(RepositoryRefused, match="holds no backup"):
            made.repository.manifest(name)


def test_a_manifest_under_another_name_is_found(made):
    done = made.back_up()
    backups = made.repository.path / "backups"
    (backups / done.name).rename(backups / done.name.replace("2027", "2028"))
    with pytest.raises(BackupDamaged, match="another backup"):
        whole(made)

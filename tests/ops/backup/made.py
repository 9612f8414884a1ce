"""Something like a gateway to be backed up: files, databases in use, keys, and a log that grows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ops.backup.create import Created, LogSource, Plan, Source, create_backup
from ops.backup.repository import Repository
from ops.backup.sealing import BackupKey
from tests.faults.recorder_process import KEY
from tests.ops.audit.open_log import OpenLog, open_log
from tests.ops.audit.samples import captured, small

NOW_NS = 1_800_000_000_000_000_000
MASTER = bytes(range(32))
IDS = count(1)


def fresh_id(length: int) -> bytes:
    return next(IDS).to_bytes(length, "big")


@dataclass
class Made:
    """The home of a gateway, its plan, and the repository beside it."""

    home: Path
    log: OpenLog
    plan: Plan
    repository: Repository

    def back_up(self, now_ns: int = NOW_NS, **more: object) -> Created:
        return create_backup(self.repository, self.plan, now_ns=now_ns, random_bytes=fresh_id, build="test", **more)

    def grow(self, entries: int) -> None:
        numbers = range(self.log.appender.size, self.log.appender.size + entries)
        sealed = {number: b"sealed %d" % number for number in numbers if number % 100 == 0}
        self.log.append([captured(n, sealed[n]) if n in sealed else small(n) for n in numbers], list(sealed.values()))
        self.log.publish()

    def files(self) -> dict[str, bytes]:
        """What a restored copy has to hold, byte by byte; databases are compared by what is in them."""
        return {
            path.relative_to(self.home).as_posix(): path.read_bytes()
            for path in self.home.rglob("*")
            if path.is_file() and path.relative_to(self.home).parts[0] in {"stockade.yaml", "bundles", "log"}
        }


def plan_of(home: Path) -> Plan:
    return Plan(
        (
            Source("stockade.yaml", home / "stockade.yaml"),
            Source("bundles", home / "bundles", "tree"),
            Source("none", home / "none", "tree"),
            Source("state/passing", home / "state/passing", "state"),
            Source("store.db", home / "store.db", "state"),
            Source("keys/payload.db", home / "keys/payload.db", "keys"),
        ),
        LogSource(home / "log", KEY.verifier, "log", "recorder", "keys/log.signed"),
    )


def database(path: Path, rows: int) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE IF NOT EXISTS kept (number INTEGER)")
        db.executemany("INSERT INTO kept VALUES (?)", [(number,) for number in range(rows)])
    db.close()


@contextmanager
def made_in(place: Path) -> Iterator[Made]:
    home = place / "home"
    with open_log(home) as log:
        for path, data in (
            ("stockade.yaml", b"version: 1\n"),
            ("bundles/kiosk/1/weights", bytes(range(256)) * 10_000),
            ("bundles/kiosk/1/manifest.json", b"{}"),
            ("bundles/empty", b""),
        ):
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_bytes(data)
        (home / "stockade.yaml").chmod(0o640)
        (home / "keys").mkdir()
        database(home / "store.db", 100)
        database(home / "keys/payload.db", 10)
        made = Made(home, log, plan_of(home), Repository.create(place / "repository", BackupKey(MASTER)))
        made.grow(600)
        yield made

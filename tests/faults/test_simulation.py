"""Simulated disasters, each from a seed: power cuts, torn writes, lost names, failed syncs, calls that fail and happen.

Appender, publisher and recovery run as they are over `SimulatedDisk`. A seed is a log that lives through up to four
power cuts and kills. After each it has to start by itself. In the end all that was acknowledged is at its index, the
log verifies, and it extends every checkpoint that was ever signed.
"""

import errno
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest

from ops.audit.errors import LogFull, Poisoned
from ops.audit.store import publisher as publisher_module
from tests.faults.effort import SEED, effort
from tests.faults.oracle import Oracle
from tests.faults.recorder_process import settings_in
from tests.faults.simulated_disk import SHORT, LockRow, PowerCut, SimulatedDisk
from tests.ops.audit.open_log import OpenLog
from tests.ops.audit.samples import captured, number_id, small

SEEDS = effort(120, 10_000)
IN_MEMORY = Path("/dev/shm")
ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, SHORT, SHORT)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


_BEFORE, _, _AFTER = small(0).partition(number_id(0).encode())


def refusal(number: int) -> bytes:
    """An entry of its own, cheaply."""
    return b"%b%032x%b" % (_BEFORE, number, _AFTER)


class Inline:
    """In place of the publisher's threads, so that the order of calls depends on the seed alone. Sets have none."""

    def map(self, call, items):
        return [call(item) for item in (sorted(items) if isinstance(items, set) else items)]

    def shutdown(self) -> None:
        pass


def remove_tree(path: Path, ignore_errors: bool) -> None:
    """`shutil.rmtree` by path; it goes by descriptors of directories, which the simulated disk does not follow."""
    with suppress(OSError):
        for each in path.iterdir():
            each.unlink()
        path.rmdir()


class Life:
    """A log over one disk, from seed to verdict."""

    def __init__(self, home: Path, seed: int) -> None:
        self.random = Random(seed)
        self.home = home
        self.oracle = Oracle()
        self.counts: Counter[str] = Counter()
        self.number = 0
        self.disk = SimulatedDisk(home / "0", self.random)

    @contextmanager
    def opened(self) -> Iterator[OpenLog]:
        """The log on the disk as it is now; closed like a process that ends, whatever happens."""
        settings = settings_in(self.disk.root, append_bytes_max=65_536, segment_bytes=131_072)
        with self.disk.running():
            log = OpenLog(settings, lock=LockRow(self.disk))
            log.publisher._pool.shutdown()
            log.publisher._pool = Inline()
            yield log

    def run(self) -> Counter[str]:
        for cut in range(self.random.randint(1, 4)):
            if cut or self.random.random() < 0.5:  # at times the first power cut falls into the first start of all
                self.disk.cut_at = self.random.randrange(1, self.random.choice((40, 150, 600)))
            for _ in range(self.random.choice((0, 0, 1, 2))):
                self.disk.faults[self.random.randrange(1, 400)] = self.random.choice(ERRORS)
            trusted = self._live()
            self.counts["errors and short writes"] += self.disk.injected
            if trusted and self.random.random() < 0.3:
                self.counts["kills"] += 1
                self.disk.revive()
            else:
                self.counts["power cuts"] += 1
                self.disk = self.disk.crash(self.home / str(cut + 1))
        with self.opened() as log:
            log.publish()
        self.oracle.checkpoints = [*self.oracle.checkpoints, *self.disk.rows]
        self.oracle.check(self.disk.root / "log")
        self.counts["acknowledged"] += len(self.oracle.acknowledged)
        return self.counts

    def _live(self) -> bool:
        """Until something ends the process: as in `recorder_main`, room is waited for and any other error is final.

        Returns whether files read as they are on the device: no sync has failed.
        """
        try:
            with self.opened() as log:
                for _ in range(self.random.randint(1, 60)):
                    step = self.random.choices((self._append, self._publish, self._beat), (6, 3, 1))[0]
                    with waiting_for_room():
                        step(log)
        except (Poisoned, LogFull):
            return False
        except OSError as error:
            if error.errno not in ERRORS:
                raise
            return False
        except PowerCut:
            return self.random.random() < 0.5  # or else it was a kill
        return not self.disk.injected

    def _append(self, log: OpenLog) -> None:
        count = self.random.choice((1, 1, 2, 7, 60))
        entries = [refusal(self.number + each) for each in range(count)]
        blobs = []
        if self.random.random() < 0.3:
            blobs = [self.random.randbytes(self.random.choice((30, 600, 20_000)))]
            entries = [*entries[:-1], captured(self.number + count, *blobs)]
        self.number += count + 1
        if self.random.random() < 0.03:  # of all calls these two matter most: the write of a group, and its sync
            self.disk.cut_at = self.disk.calls + self.random.randint(1, 2)
        first = log.append(entries, blobs)
        self.oracle.keep(1, first, entries)

    def _publish(self, log: OpenLog) -> None:
        if log.publisher.publish():
            self.oracle.saw_checkpoint(log.directory)
            log.store.retire(log.edge.published_size)
        log.store.prepare_spare()

    @staticmethod
    def _beat(log: OpenLog) -> None:
        log.beat()


@contextmanager
def waiting_for_room() -> Iterator[None]:
    """A step that finds no room changes nothing, and is tried again another time."""
    try:
        yield
    except LogFull:
        pass
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise


def scratch() -> TemporaryDirectory[str]:
    return TemporaryDirectory(dir=IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None)


@pytest.fixture
def by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "rmtree", remove_tree)


@pytest.mark.timeout(effort(180, 3 * 3600))
def test_whatever_the_disk_forgets_nothing_acknowledged_is_lost(by_path, counted):
    counts: Counter[str] = Counter()
    for seed in range(SEED * 1_000_000, SEED * 1_000_000 + SEEDS):
        with scratch() as home:
            try:
                counts += Life(Path(home), seed).run()
            except Exception as error:
                raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    counted("simulation", seeds=SEEDS, **counts, lost=0)

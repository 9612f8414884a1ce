"""Every tampered log is flagged with the right reason, and no clean one is."""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from ops.audit.reader.read import LogReader
from ops.audit.verify.report import OK, TAMPERED, Report
from ops.audit.verify.verify import verify_log
from tests.faults.effort import SEED, effort
from tests.faults.recorder_process import KEY
from tests.faults.tampering import WAYS, Log, Tampered, flip, read_files, reason_at
from tests.faults.test_simulation import scratch
from tests.ops.audit.open_log import VKEY, open_log
from tests.ops.audit.samples import captured, small

TAMPERED_LOGS = effort(400, 6000)
CLEAN_LOGS = effort(25, 500)
SIZES = (1, 2, 3, 5, 20, 60, 300)


def make(home: Path, random: Random, appends: int) -> Log:
    """A log as a recorder writes it: groups of all sizes, payloads, heartbeats, publications in between."""
    notes: list[bytes] = []
    with open_log(home, segment_bytes=131_072, append_bytes_max=65_536) as log:
        for number in range(appends):
            blobs = [random.randbytes(30)] if random.random() < 0.2 else []
            entries = [small(number * 50 + each) for each in range(random.choice((1, 1, 2, 4)))]
            log.append([*entries, *([captured(number, *blobs)] if blobs else [])], blobs)
            if random.random() < 0.1:
                log.beat()
            if random.random() < 0.3 or number == appends - 1:
                log.publish()
                notes.append((log.directory / "checkpoint").read_bytes())
        reader = LogReader.open(log.directory, KEY.verifier)
        entries_in = tuple(reader.entries(0, reader.checkpoint.size))
        return Log(read_files(log.directory), entries_in, tuple(notes))


def verify(directory: Path, **options) -> Report:
    return verify_log(directory, [VKEY], processes=0, **options)


def said(report: Report) -> list[str]:
    return [each.what for each in report.findings if each.severity != "notice"]


class Shelf:
    """A directory that holds one log at a time, and writes only what differs from the one before."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._there: dict[str, bytes] = {}

    def hold(self, files: dict[str, bytes]) -> Path:
        for path in self._there.keys() - files.keys():
            (self.directory / path).unlink()
        for path, data in files.items():
            if self._there.get(path) != data:
                (self.directory / path).parent.mkdir(parents=True, exist_ok=True)
                (self.directory / path).write_bytes(data)
        self._there = dict(files)
        return self.directory


@contextmanager
def shelf() -> Iterator[Shelf]:
    with scratch() as directory:
        yield Shelf(Path(directory))


@pytest.mark.slow
@pytest.mark.timeout(effort(180, 2 * 3600))
def test_every_tampered_log_is_flagged_with_the_right_reason(counted):
    random = Random(SEED)
    tried: Counter[str] = Counter()
    with scratch() as home, shelf() as held:
        logs = [make(Path(home) / str(size), random, size) for size in SIZES]
        while tried.total() < TAMPERED_LOGS:
            log = random.choice(logs)
            way = random.choice(WAYS)
            tampered = way(log, random)
            if tampered is None or (tampered.files == log.files and not tampered.options):
                continue
            judge(way.__name__, held, tampered)
            tried[way.__name__] += 1
    assert len(tried) == len(WAYS)
    counted("tampering", logs=tried.total(), ways=len(tried), missed=0)


def judge(way: str, held: Shelf, tampered: Tampered) -> None:
    report = verify(held.hold(tampered.files), **tampered.options)
    assert report.exit_code == tampered.exit_code, (way, report.findings)
    assert tampered.right(said(report)), (way, tampered.reason, report.findings)


@pytest.mark.timeout(effort(180, 3600))
def test_every_byte_of_a_small_log_counts(counted):
    with scratch() as home, shelf() as held:
        log = make(Path(home), Random(SEED), 2)
        flips = 0
        for path, data in sorted(log.files.items()):
            for at in range(0, len(data), effort(7, 1)):
                changed = bytearray(data)
                changed[at] ^= 1 << at % 8
                tampered = Tampered({**log.files, path: bytes(changed)}, TAMPERED, reason_at(path))
                judge(f"{flip.__name__} {path} {at}", held, tampered)
                flips += 1
    counted("flips of each byte", logs=flips, missed=0)


@pytest.mark.timeout(effort(180, 3600))
def test_no_clean_log_is_accused(counted):
    random = Random(SEED)
    with scratch() as home:
        for number in range(CLEAN_LOGS):
            place = Path(home) / str(number)
            log = make(place, random, random.choice(SIZES))
            report = verify(place / "log", remembered=random.choice(log.notes))
            assert (report.exit_code, report.findings) == (OK, []), number
            shutil.rmtree(place)
    counted("clean logs", logs=CLEAN_LOGS, accused=0)

"""Remove what keeps the promises, one thing at a time: the fault tests must turn red, or they are void.

    python -m tests.faults.mutate [NAME ...]

Each mutant is a copy of `ops` and of the tests in a directory of its own, with one piece of text replaced by another.
The tests that should notice run there, in full, and one of them has to fail within LIMIT_S. Exit code 1 when a mutant
survived.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
COPIED = ("ops", "tests", "pyproject.toml", "Makefile")
LIMIT_S = 900
SIMULATION = "tests/faults/test_simulation.py"
ORDER = "tests/faults/test_sync_order.py"
ERRORS = "tests/faults/test_sync_errors.py"
TAMPERING = "tests/faults/test_tampering.py"
PUBLISHER = "tests/ops/audit/store/test_publisher.py"
EPOCHS = "tests/faults/test_epochs.py"
KILLS = "tests/faults/test_kill_recorder.py"
WRITING = "tests/ops/audit/store/test_writing.py"
CHAIN = "tests/ops/audit/verify/test_epochs.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` stands exactly once in `file`. `tests` are those that have to notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "no fdatasync of a group",
        "ops/audit/store/segment_store.py",
        "            os.fdatasync(self._descriptor)\n",
        "",
        (SIMULATION,),
    ),
    Mutant(
        "a failed fdatasync is tried again",
        "ops/audit/store/segment_store.py",
        "            os.fdatasync(self._descriptor)\n",
        "            try:\n                os.fdatasync(self._descriptor)\n"
        "            except OSError:\n                os.fdatasync(self._descriptor)\n",
        (ERRORS,),
    ),
    Mutant(
        "no sync of a new segment's name",
        "ops/audit/store/segment_store.py",
        "                    self._spare.rename(path)\n                    sync_directory(self._directory)\n",
        "                    self._spare.rename(path)\n",
        (SIMULATION,),
    ),
    Mutant(
        "goes on before a segment that has a name",
        "ops/audit/store/segment_store.py",
        "if error.errno in _NO_ROOM and not path.exists():",
        "if error.errno in _NO_ROOM:",
        ("tests/ops/audit/store/test_segment_store.py",),
    ),
    Mutant(
        "segments are retired in no durable order",
        "ops/audit/store/segment_store.py",
        "                sync_directory(self._directory)\n                del self._ends[number]\n",
        "                del self._ends[number]\n",
        (SIMULATION,),
    ),
    Mutant(
        "segments are retired before they are public",
        "ops/audit/store/segment_store.py",
        "if end <= published_size and number != newest",
        "if number != newest",
        ("tests/ops/audit/store/test_segment_store.py",),
    ),
    Mutant(
        "no sync of staged files",
        "ops/process/durable.py",
        "            list(pool.map(os.fsync, descriptors))\n",
        "",
        (SIMULATION,),
    ),
    Mutant(
        "short writes are taken for whole ones",
        "ops/process/durable.py",
        "        while views:\n            written = os.pwritev(descriptor, views, offset)\n",
        "        if views:\n            written = os.pwritev(descriptor, views, offset)\n",
        (SIMULATION,),
    ),
    Mutant(
        "no sync of the directories of tiles",
        "ops/audit/store/publisher.py",
        "        list(self._pool.map(sync_directory, touched | {each.parent for each in fresh}))\n",
        "",
        (SIMULATION, ORDER),
    ),
    Mutant(
        "no sync of the directories above those of tiles",
        "ops/audit/store/publisher.py",
        "touched | {each.parent for each in fresh}",
        "touched",
        (SIMULATION,),
    ),
    Mutant(
        "no sync of the public checkpoint's name",
        "ops/audit/store/publisher.py",
        '        staged.rename(self._directory / "checkpoint")\n        sync_directory(self._directory)\n',
        '        staged.rename(self._directory / "checkpoint")\n',
        (SIMULATION, ORDER),
    ),
    Mutant(
        "the checkpoint is revealed before the lock holds it",
        "ops/audit/store/publisher.py",
        "        self._lock.swap(current, note)\n"
        "        # Commit point: this is the log's checkpoint now, whatever happens.\n"
        "        self._ours = {note}\n        self._reveal(published, size, note)\n",
        "        self._reveal(published, size, note)\n"
        "        self._lock.swap(current, note)\n        self._ours = {note}\n",
        (SIMULATION, ORDER),
    ),
    Mutant(
        "no compare in the compare-and-swap",
        "ops/audit/store/lock.py",
        'statement = "UPDATE checkpoint SET note = ? WHERE origin = ? AND note = ?"',
        'statement = "UPDATE checkpoint SET note = ? WHERE origin = ? AND ? IS NOT NULL"',
        (PUBLISHER,),
    ),
    Mutant(
        "the signer demands no proof",
        "ops/audit/store/signer.py",
        "            verify_consistency(last.size, size, proof, last.root, root)\n",
        "            proof = list(proof)\n",
        (PUBLISHER,),
    ),
    Mutant(
        "a start builds on what may be in memory alone",
        "ops/audit/store/writing.py",
        "    for path in segments:\n        sync_file(path)\n",
        "",
        (SIMULATION,),
    ),
    Mutant(
        "frames are taken without their checksum",
        "ops/audit/store/segments.py",
        "    if crc32c(payload, crc32c(_SEED.pack(number, offset, kind, length))) != crc:\n        return None\n",
        "",
        (SIMULATION,),
    ),
    Mutant(
        "a start cuts what is whole",
        "ops/audit/store/segments.py",
        "    return Segment(header, groups, _torn_bytes(data, end, header.number))\n",
        "    return Segment(header, groups[:-1], _torn_bytes(data, end, header.number))\n",
        (KILLS,),
    ),
    Mutant(
        "a group that was being written is taken for damage",
        "ops/audit/store/segments.py",
        "    if not in_flight:\n",
        "    if beyond:\n",
        (SIMULATION,),
    ),
    Mutant(
        "acknowledged before committed",
        "ops/audit/store/recorder.py",
        "        group, answers = self._next_group()\n",
        "        group, answers = self._next_group()\n        for worker, answer in answers:\n"
        "            self._workers.send(worker, answer)\n        answers = []\n",
        (ORDER,),
    ),
    Mutant(
        "no sync of the names of a new epoch",
        "ops/audit/store/writing.py",
        "        for each in (self.settings.directory, self.settings.state_directory):\n"
        "            sync_directory(each)\n",
        "",
        (ORDER,),
    ),
    Mutant(
        "appends are committed between two epochs",
        "ops/audit/store/recorder.py",
        "            if self._between_epochs():\n                continue\n",
        "            self._between_epochs()\n",
        (EPOCHS,),
    ),
    Mutant(
        "workers are not told of the next epoch",
        "ops/audit/store/recorder.py",
        "            self._workers.send(worker, protocol.reply(protocol.EPOCH, 1, writing.number))\n",
        "            pass\n",
        (EPOCHS,),
    ),
    Mutant(
        "a start goes on with an epoch that is closed in its segments",
        "ops/audit/store/writing.py",
        "        if ends_closed(found):\n",
        "        if not found:\n",
        (EPOCHS,),
    ),
    Mutant(
        "a start does not look whether the newest epoch is closed",
        "ops/audit/store/writing.py",
        "        self.changing = closed_in_public(newest)\n",
        "        self.changing = False\n",
        (EPOCHS,),
    ),
    Mutant(
        "an epoch does not say what it follows",
        "ops/audit/store/writing.py",
        "previous=self._previous(number))",
        'previous="")',
        (EPOCHS,),
    ),
    Mutant(
        "segments are numbered anew in each epoch",
        "ops/audit/store/writing.py",
        "next_number=max(found.next_number, self._last_segment(number - 1) + 1))",
        "next_number=found.next_number)",
        (WRITING,),
    ),
    Mutant(
        "the signer signs for an epoch that is closed",
        "ops/audit/store/signer.py",
        "    if now < before:\n",
        "    if now == before:\n",
        (CHAIN,),
    ),
    Mutant(
        "the verifier does not look what an epoch follows",
        "ops/audit/verify/epochs.py",
        "        elif before.root and (last.size, last.root.hex()) != (before.size, before.root):\n",
        "        elif not last.root:\n",
        (CHAIN,),
    ),
    Mutant(
        "the verifier does not compare the root",
        "ops/audit/verify/tree.py",
        "    if by_entries not in (None, checkpoint.root):\n",
        "    if by_entries is None:\n",
        (TAMPERING,),
    ),
    Mutant(
        "the verifier forgets what was remembered",
        "ops/audit/verify/verify.py",
        "    elif root != seen.root:\n",
        "    elif root is seen.root:\n",
        (TAMPERING,),
    ),
    Mutant(
        "the verifier takes any signature",
        "ops/audit/log/checkpoint.py",
        "        if not key.verify(text.encode(), signature):\n",
        "        if not signature:\n",
        (TAMPERING,),
    ),
)
QUICK = ("no fdatasync of a group", "no sync of a new segment's name", "no compare in the compare-and-swap")


def noticed(mutant: Mutant, home: Path, *options: str) -> str:
    """Make the mutant below `home` and run its tests there. The one that failed, empty when none did."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, home / name, ignore=shutil.ignore_patterns("__pycache__", "vectors", "e2e"))
        else:
            shutil.copy2(source, home / name)
    path = home / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.name}: its text stands {text.count(mutant.old)} times in {mutant.file}")
    path.write_text(text.replace(mutant.old, mutant.new))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *options, *mutant.tests]
    # The package that is installed must not be found before the copy.
    environment = {**os.environ, "PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "300"}
    environment["STOCKADE_FAULTS"] = "full"  # how long it takes only those see that survive
    try:
        done = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return ""
    if done.returncode not in (0, 1) or "Failed: Timeout" in done.stdout:  # a slow machine notices nothing
        raise SystemExit(f"{mutant.name}: the tests did not run\n{done.stdout}{done.stderr}")
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    return failed[0].removeprefix("FAILED ") if failed else ""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(names: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    survived = 0
    for mutant in chosen:
        with TemporaryDirectory() as home:
            by = noticed(mutant, Path(home))
        survived += not by
        say(f"{mutant.name}: {f'noticed by {by[:160]}' if by else 'SURVIVED'}")
    say(f"{len(chosen)} mutants, {survived} survived")
    return 1 if survived or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

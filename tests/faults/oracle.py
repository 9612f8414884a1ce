"""The oracle: what was acknowledged and which checkpoints were seen, kept outside the log and held against it."""

from operator import attrgetter
from pathlib import Path

from ops.audit.checkpoint import open_checkpoint
from ops.audit.client import Receipt
from ops.audit.merkle import Frontier, leaf_hash
from ops.audit.read import LogReader
from ops.audit.verify import verify_log
from tests.faults.recorder_process import KEY

size_of = attrgetter("size")


class Oracle:
    """Nothing here is read from the log except by `check`."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, bytes] = {}
        self.checkpoints: list[bytes] = []

    def saw(self, receipt: Receipt, entries: list[bytes]) -> None:
        assert receipt.count == len(entries)
        for index, data in enumerate(entries, receipt.first_index):
            assert index not in self.acknowledged, f"index {index} was given twice"
            self.acknowledged[index] = leaf_hash(data)

    def saw_checkpoint(self, directory: Path) -> None:
        """Remember the public checkpoint, as a client would."""
        path = directory / "checkpoint"
        if path.exists():
            self.checkpoints.append(path.read_bytes())

    def check(self, directory: Path) -> None:
        """Every acknowledged entry is at its index, the log verifies and extends every checkpoint seen."""
        remembered = self.checkpoints[-1] if self.checkpoints else None
        report = verify_log(directory, [str(KEY.verifier)], processes=0, remembered=remembered)
        assert report.exit_code == 0, report.findings
        reader = LogReader.open(directory, KEY.verifier)
        size = reader.checkpoint.size
        found = [
            leaf_hash(data) for first in range(0, size, 256) for data in reader.entries(first, min(256, size - first))
        ]
        lost = [index for index, leaf in self.acknowledged.items() if index >= size or found[index] != leaf]
        assert not lost, f"{len(lost)} acknowledged entries are lost: {lost[:5]}"
        tree = Frontier()
        for seen in sorted((open_checkpoint(note, [KEY.verifier]) for note in set(self.checkpoints)), key=size_of):
            assert seen.size <= size, f"rolled back from {seen.size} to {size}"
            tree.extend(found[tree.size : seen.size])
            assert tree.root() == seen.root, f"a fork: another tree of size {seen.size} was signed"

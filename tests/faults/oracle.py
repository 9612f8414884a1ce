"""The oracle: what was acknowledged and which checkpoints were seen, kept outside the log and held against it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path

from ops.audit.log.checkpoint import Checkpoint, open_checkpoint
from ops.audit.log.epochs import Epoch, epochs_of, newest_epoch
from ops.audit.log.merkle import Frontier, leaf_hash
from ops.audit.reader.read import LogReader
from ops.audit.store.client import Receipt
from ops.audit.verify.epochs import verify_epochs
from tests.faults.recorder_process import KEY

PART = 256
size_of = attrgetter("size")


class Oracle:
    """Nothing here is read from the log except by `check`."""

    def __init__(self) -> None:
        self.acknowledged: dict[tuple[int, int], bytes] = {}  # leaf hashes by epoch and index
        self.given_twice: list[tuple[int, int]] = []  # what was there first is lost
        self.checkpoints: list[bytes] = []
        self.sent = 0  # appends, by all loads

    def saw(self, receipt: Receipt, entries: Sequence[bytes]) -> None:
        assert receipt.count == len(entries)
        self.keep(receipt.epoch, receipt.first_index, entries)

    def keep(self, epoch: int, first: int, entries: Sequence[bytes]) -> None:
        """Entries were acknowledged, from this index of an epoch on."""
        for index, data in enumerate(entries, first):
            if (epoch, index) in self.acknowledged:
                self.given_twice.append((epoch, index))
            self.acknowledged[epoch, index] = leaf_hash(data)

    def saw_checkpoint(self, directory: Path) -> None:
        """Remember the public checkpoint, as a client would."""
        path = newest_epoch(directory, KEY.verifier).directory / "checkpoint"
        if path.exists():
            self.checkpoints.append(path.read_bytes())

    def check(self, directory: Path) -> None:
        """Every acknowledged entry is in its place and nowhere else; the log verifies and extends what was seen."""
        assert not self.given_twice
        remembered = self.checkpoints[-1] if self.checkpoints else None
        reports = verify_epochs(directory, [str(KEY.verifier)], processes=0, remembered=remembered)
        for report in reports.values():
            assert report.exit_code == 0, report.findings
        epochs = epochs_of(directory, KEY.verifier)
        found = {epoch.number: leaves_of(epoch) for epoch in epochs}
        places = {(number, index): leaf for number, leaves in found.items() for index, leaf in enumerate(leaves)}
        lost = [place for place, leaf in self.acknowledged.items() if places.get(place) != leaf]
        assert not lost, f"{len(lost)} acknowledged entries are lost: {lost[:5]}"
        times = Counter(places.values())
        assert all(times[leaf] == 1 for leaf in self.acknowledged.values()), "an entry is there twice"
        for epoch in epochs:
            self._check_checkpoints(epoch, found[epoch.number])

    def _check_checkpoints(self, epoch: Epoch, found: Sequence[bytes]) -> None:
        """An epoch extends every checkpoint of it that was seen."""
        tree = Frontier()
        for seen in sorted(self._seen_of(epoch), key=size_of):
            assert seen.size <= len(found), f"rolled back from {seen.size} to {len(found)}"
            tree.extend(found[tree.size : seen.size])
            assert tree.root() == seen.root, f"a fork: another tree of size {seen.size} was signed"

    def _seen_of(self, epoch: Epoch) -> Iterator[Checkpoint]:
        for note in set(self.checkpoints):
            if note.startswith(epoch.vkey.name.encode() + b"\n"):
                yield open_checkpoint(note, [epoch.vkey])


def leaves_of(epoch: Epoch) -> list[bytes]:
    """The leaf hashes of an epoch's entries."""
    reader = LogReader.open(epoch.directory, epoch.vkey)
    size = reader.checkpoint.size
    parts = (reader.entries(first, min(PART, size - first)) for first in range(0, size, PART))
    return [leaf_hash(data) for part in parts for data in part]

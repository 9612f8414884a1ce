"""The public log of a host as it stands on disk, all its epochs: nothing that is read here needs to be trusted.

An entry's number counts over the epochs (`ops.audit.log.epochs.parted`). Everything blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import ArgumentInvalid
from ops.audit.log.checkpoint import VerifierKey, open_checkpoint, parse_vkey
from ops.audit.log.epochs import Epoch, epoch_at, newest_epoch, parted
from ops.audit.reader.read import LogReader, open_following

if TYPE_CHECKING:
    from pathlib import Path

NOT_PUBLISHED = "is not an entry of a published tree"


@dataclass(frozen=True, slots=True)
class PublicLog:
    """Where the log is, the file with its public key, and where the newest cosigned checkpoint is put."""

    directory: Path
    vkey_file: Path
    cosigned: Path

    def published(self, epoch: Epoch, checkpoint: Path | None = None) -> tuple[bytes, LogReader]:
        """Return a checkpoint's note, the newest unless another is named, and the epoch as it stands there."""
        note = (checkpoint or epoch.directory / "checkpoint").read_bytes()
        return note, LogReader(epoch.directory, open_checkpoint(note, [epoch.vkey]))

    def newest(self) -> Epoch:
        """Return the epoch that is being written."""
        return newest_epoch(self.directory, self.vkey())

    def epoch(self, number: int) -> Epoch:
        """Return an epoch of the log. Raises ArgumentInvalid: there is none with this number."""
        if not 1 <= number <= self.newest().number:
            raise ArgumentInvalid("index", NOT_PUBLISHED)
        return epoch_at(self.directory, self.vkey(), number)

    def reader(self) -> LogReader:
        """Return the newest epoch of the public log at its newest checkpoint."""
        newest = self.newest()
        return LogReader.open(newest.directory, newest.vkey)

    def reader_from(self, origin: str, index: int) -> LogReader:
        """Return the epoch in which somebody reads on who came to this entry."""
        return open_following(self.directory, self.vkey(), origin, index)

    def reader_of(self, entry: int) -> tuple[LogReader, int]:
        """Return the epoch of the entry with this number, and its index there."""
        number, index = parted(entry)
        epoch = self.epoch(number)
        return LogReader.open(epoch.directory, epoch.vkey), index

    def vkey(self) -> VerifierKey:
        """Return the log's public key."""
        return parse_vkey(self.vkey_file.read_text().strip())

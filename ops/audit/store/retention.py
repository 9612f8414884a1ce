"""What is kept of a closed epoch, and for how long: first all of it, later its hashes and its checkpoint.

Rules:
1. Only closed epochs are dropped, oldest first, each as a whole: payloads, then entries. Hash tiles and checkpoint
   stay, so every receipt and every consistency proof that was ever given stays valid.
2. What keeps an epoch keeps all that come after it. `verify_epochs` relies on that.
3. The log says so first: whoever calls `drop` has had an entry of the current epoch made durable before.
4. What was begun is ended by calling again. `drop` is quick, so that it can be one step with a last look at what may
   keep an epoch; `sweep` takes as long as removing files does.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from ops.audit.errors import ReadError
from ops.audit.log.checkpoint import VerifierKey
from ops.audit.log.entry import check
from ops.audit.log.epochs import Epoch, epochs_of
from ops.audit.reader.read import ENTRIES_MAX, LogReader
from ops.audit.store.writing import month_of
from ops.process.durable import sync_directory

DROPPED = ".dropped"  # what is being removed has this behind its name
PARTS = ("blobs", "tile/entries")


@dataclass(frozen=True, slots=True)
class Kept:
    """An epoch and what is here of it. Times are those of its first and last entry, 0 where they are not here."""

    epoch: Epoch
    size: int
    root: bytes
    first_ns: int
    last_ns: int
    closed: bool

    @property
    def dropped(self) -> bool:
        """Whether only hashes are left."""
        return self.epoch.dropped


def survey(directory: Path, vkey: VerifierKey) -> list[Kept]:
    """The epochs of a log, oldest first.

    Raises:
        ReadError, OSError: the log cannot be read.
        NoteError: a checkpoint is not signed by the log's key.
    """
    epochs = epochs_of(directory, vkey)
    found: list[Kept] = []
    for epoch in epochs:
        reader = LogReader.open(epoch.directory, epoch.vkey)
        head = reader.checkpoint
        first, last = (0, 0) if epoch.dropped else (_time_ns(reader, 0), _time_ns(reader, head.size - 1))
        found.append(Kept(epoch, head.size, head.root, first, last, epoch is not epochs[-1]))
    return found


def _time_ns(reader: LogReader, index: int) -> int:
    return int(check(reader.entries(index, 1)[0]).time_ns)


def is_due(kept: Kept, now_ns: int, months: int) -> bool:
    """Whether an epoch ended more than so many months of the calendar ago and is still here."""
    return kept.closed and not kept.dropped and month_of(now_ns) - month_of(kept.last_ns) > months


def tenants_in(kept: Kept, tenants: Collection[str]) -> set[str]:
    """Which of these tenants an epoch has entries of. Raises ReadError."""
    marks = {tenant: f'"tenant":{json.dumps(tenant, ensure_ascii=False)}'.encode() for tenant in tenants}
    reader = LogReader.open(kept.epoch.directory, kept.epoch.vkey)
    found: set[str] = set()
    for first in range(0, kept.size, ENTRIES_MAX):
        if not marks:
            break
        for entry in reader.entries(first, min(ENTRIES_MAX, kept.size - first)):
            for tenant in [tenant for tenant, mark in marks.items() if mark in entry]:
                found.add(tenant)
                del marks[tenant]  # known, and not looked for any more
    return found


def drop(kept: Kept) -> None:
    """Take the payloads, then the entries of an epoch away from every reader; `sweep` gives their room back.

    Raises:
        ReadError: it is the epoch that is being written.
        OSError: something could not be taken away; call again.
    """
    if not kept.closed:
        raise ReadError(f"{kept.epoch.vkey.name} is not closed")
    for place, going in _parts(kept):
        if place.exists():
            if going.exists():  # the epoch was restored since an earlier run was cut short
                rmtree(going)
            place.rename(going)
            sync_directory(going.parent)


def sweep(kept: Kept) -> None:
    """Remove what `drop` took away, also in a run that was cut short. OSError: something could not be removed."""
    for _, going in _parts(kept):
        if going.exists():
            rmtree(going)


def _parts(kept: Kept) -> list[tuple[Path, Path]]:
    """Where each part of an epoch is that can be dropped, and where it goes first."""
    places = [kept.epoch.directory / part for part in PARTS]
    return [(place, place.with_name(place.name + DROPPED)) for place in places]

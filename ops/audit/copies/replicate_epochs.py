"""Replication of a log of several epochs, oldest first, each as `replicator` does it, below a prefix of its own.

A closed epoch is whole in the store, and read back, before anything of the next one is written there. Where entries
were dropped there is nothing to copy: `retention` has seen to it before that the store had them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event

from ops.audit.copies.object_store import Below, Inspected
from ops.audit.copies.replicator import Behind, Replicator
from ops.audit.log.checkpoint import Checkpoint, VerifierKey
from ops.audit.log.epochs import EPOCHS, epoch_at, epochs_of


@dataclass(slots=True)
class EpochReplicator:
    """Brings `store` up to the newest checkpoint of each epoch of the log in `directory`. One call at a time.

    Arguments as for `Replicator`. `number` is the epoch that is being copied.
    """

    directory: Path
    store: Inspected
    vkey: VerifierKey
    now: Callable[[], datetime]
    retention: timedelta | None = None
    number: int = field(default=1, init=False)
    cut: Event = field(default_factory=Event, init=False)
    _current: Replicator = field(init=False)

    def __post_init__(self) -> None:
        here = [each.number for each in epochs_of(self.directory, self.vkey) if not each.dropped]
        self.number = min(here, default=1)
        self._current = self._of(self.number)

    @property
    def held(self) -> Checkpoint | None:
        """What was last seen in the store of the epoch that is being copied."""
        return self._current.held

    def replicate(self) -> Checkpoint:
        """Have the newest checkpoint of each epoch in the store; returns the last. Raises as `Replicator.replicate`."""
        numbers = [each.number for each in epochs_of(self.directory, self.vkey)]
        # Whatever has a successor among these is closed, and copied whole before that.
        done = self._current.replicate()
        for number in range(self.number + 1, max(numbers, default=0) + 1):
            self._current, self.number = self._of(number), number
            done = self._current.replicate()
        return done

    def behind(self) -> Behind:
        """How far the store is behind what is public. Raises as `Replicator.behind`."""
        found = self._current.behind()
        later = [each.number for each in epochs_of(self.directory, self.vkey) if each.number > self.number]
        parts = [found, *(self._of(number).behind() for number in later)]
        since = [each.since_ns for each in parts if each.since_ns is not None]
        return Behind(sum(each.entries for each in parts), min(since, default=None))

    def store_of(self, number: int) -> Inspected:
        """Where an epoch is in the store."""
        return self.store if number == 1 else Below(self.store, f"{EPOCHS}/{number:04d}/")

    def _of(self, number: int) -> Replicator:
        epoch, store = epoch_at(self.directory, self.vkey, number), self.store_of(number)
        made = Replicator(epoch.directory, store, epoch.vkey, self.now, store, self.retention)
        made.cut = self.cut
        return made

"""What the recorder counts, and what `stockade audit retain` finds: processes beside the workers, in one directory.

Both are thread-safe, and raise MetricsInUse where a live process writes under their name.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from ops.metrics.store import Scalar, Store, counter, gauge

RETENTION = "retention"
"""The name of `stockade audit retain` among the processes of a host. It ends at once; its gauges stay."""
KEEPERS = ("hold", "replica", "quorum")


class RecorderMetrics:
    """Metrics of the audit log's writer.

    Args:
        directory: shared by all processes of the host; made if missing.
        process: this process's name among them ("recorder").
        kinds: every kind an entry can have.
    """

    def __init__(self, directory: Path, process: str, *, kinds: Collection[str]) -> None:
        self._store = store = Store(directory, process)
        self._records = counter(store, "stockade_audit_records_total", "Records made durable.", ("kind",)).adder(kinds)
        text = "When a record was last made durable."
        self._durable = _newest(store, "stockade_audit_last_durable_timestamp_seconds", text).setter()
        text = "Entries in the epoch that is written: in the log, where it has one."
        self._size = _newest(store, "stockade_audit_tree_size", text).setter()
        text = "When the newest public checkpoint was published."
        self._published = _newest(store, "stockade_audit_checkpoint_timestamp_seconds", text).setter()
        text = "Entries that the newest public checkpoint covers."
        self._public = _newest(store, "stockade_audit_checkpoint_size", text).setter()
        text = "The number of the epoch that is written."
        self._epoch = _newest(store, "stockade_audit_epoch", text).setter()
        text = "Since when the next epoch should have begun, in seconds since 1970; 0 where it need not."
        self.epoch_due: Callable[[float], None] = _newest(
            store, "stockade_audit_epoch_due_timestamp_seconds", text
        ).setter()
        text = "Epochs after the first that were begun; start: by a recorder that found the one before closed."
        begun = counter(store, "stockade_audit_epochs_begun_total", text, ("when",))
        self._begun = begun.adder(("serving", "start"))
        text = "Changes of epochs that failed: no room to close one, or the recorder ended before the next one began."
        self._failed = counter(store, "stockade_audit_epoch_changes_failed_total", text).adder()

    def durable(self, kinds: Mapping[str, int], tree_size: int, time_s: float) -> None:
        """A group of records is on disk. `kinds`: kind -> records; `tree_size` after it; `time_s` since 1970."""
        for kind, records in kinds.items():
            self._records(kind, records)
        self._size(tree_size)
        self._durable(time_s)

    def published(self, size: int, time_s: float) -> None:
        """A checkpoint of this size is public. `time_s` since 1970."""
        self._public(size)
        self._published(time_s)

    def epoch(self, number: int, *, tree_size: int, public_size: int) -> None:
        """Records go to this epoch from now on; so many of its entries are durable, so many public. Nothing is due."""
        self.epoch_due(0)
        self._epoch(number)
        self._size(tree_size)
        self._public(public_size)

    def epoch_begun(self, when: str) -> None:
        """A next epoch has its first entry: "serving", or only at the "start" of a recorder."""
        self._begun(when, 1)

    def epoch_failed(self) -> None:
        """There was no room to close an epoch, or the recorder ends between two."""
        self._failed(1)

    def close(self) -> None:
        """Give the process name back; what was counted stays on the page."""
        self._store.close()


class RetentionMetrics:
    """The series of one host's retention, in the directory that all its processes share."""

    def __init__(self, directory: Path) -> None:
        self._store = store = Store(directory, RETENTION)
        text = "Closed epochs that are old enough to be dropped, by what keeps the oldest of them."
        self._kept = gauge(store, "stockade_audit_epochs_kept", text, ("by",), merge="max").setter(KEEPERS)
        text = "When it was last looked for epochs to drop, in seconds since 1970."
        self._looked = _newest(store, "stockade_audit_retention_timestamp_seconds", text).setter()

    def looked(self, kept: Mapping[str, int], time_s: float) -> None:
        """Write down how many epochs are kept, by what keeps them; what is not named keeps none."""
        for by in KEEPERS:
            self._kept(by, kept.get(by, 0))
        self._looked(time_s)

    def close(self) -> None:
        """Give the process name back; what was found stays on the page."""
        self._store.close()


def _newest(store: Store, name: str, text: str) -> Scalar:
    """A gauge that stays when its process has gone, and grows old: that alerts."""
    return gauge(store, name, text, merge="max")

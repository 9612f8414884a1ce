"""What the recorder counts. Built once per process, beside the workers' metrics in the same directory."""

from collections.abc import Collection, Mapping
from pathlib import Path

from ops.metrics.store import Store, counter, gauge

BEGUN = ("serving", "start")


class RecorderMetrics:
    """Metrics of the audit log's writer. Thread-safe.

    Args:
        directory: shared by all processes of the host; made if missing.
        process: this process's name among them ("recorder").
        kinds: every kind an entry can have.

    Raises:
        MetricsInUse: a live process writes under that name.
    """

    def __init__(self, directory: Path, process: str, *, kinds: Collection[str]) -> None:
        self._store = store = Store(directory, process)
        self._lock = store.lock
        with self._lock:
            store.vocabulary.allow("kind", kinds)
            store.vocabulary.allow("when", BEGUN)
            self._records = counter(store, "stockade_audit_records_total", "Records made durable.", ("kind",))
            for kind in kinds:
                self._records.bind(kind)
            text = "When a record was last made durable."
            self._durable = gauge(store, "stockade_audit_last_durable_timestamp_seconds", text, merge="max").bind()
            text = "Entries in the epoch that is written: in the log, where it has one."
            self._size = gauge(store, "stockade_audit_tree_size", text, merge="max").bind()
            text = "When the newest public checkpoint was published."
            self._published = gauge(store, "stockade_audit_checkpoint_timestamp_seconds", text, merge="max").bind()
            text = "Entries that the newest public checkpoint covers."
            self._public = gauge(store, "stockade_audit_checkpoint_size", text, merge="max").bind()
            text = "The number of the epoch that is written."
            self._epoch = gauge(store, "stockade_audit_epoch", text, merge="max").bind()
            text = "Since when the next epoch should have begun, in seconds since 1970; 0 where it need not."
            self._due = gauge(store, "stockade_audit_epoch_due_timestamp_seconds", text, merge="max").bind()
            text = "Epochs after the first that were begun; start: by a recorder that found the one before closed."
            begun = counter(store, "stockade_audit_epochs_begun_total", text, ("when",))
            self._begun = {when: begun.bind(when) for when in BEGUN}
            text = (
                "Changes of epochs that failed: no room to close one, or the recorder ended before the next one began."
            )
            self._failed = counter(store, "stockade_audit_epoch_changes_failed_total", text).bind()

    def durable(self, kinds: Mapping[str, int], tree_size: int, time_s: float) -> None:
        """A group of records is on disk. `kinds`: kind -> records; `tree_size` after it; `time_s` since 1970."""
        with self._lock:
            for kind, records in kinds.items():
                self._records.bind(kind).add(records)
            self._size.set(tree_size)
            self._durable.set(time_s)

    def published(self, size: int, time_s: float) -> None:
        """A checkpoint of this size is public. `time_s` since 1970."""
        with self._lock:
            self._public.set(size)
            self._published.set(time_s)

    def epoch(self, number: int, *, tree_size: int, public_size: int) -> None:
        """Records go to this epoch from now on; so many of its entries are durable, so many public. Nothing is due."""
        with self._lock:
            self._due.set(0)
            self._epoch.set(number)
            self._size.set(tree_size)
            self._public.set(public_size)

    def epoch_begun(self, when: str) -> None:
        """A next epoch has its first entry: "serving", or only at the "start" of a recorder."""
        with self._lock:
            self._begun[when].add(1)

    def epoch_failed(self) -> None:
        """There was no room to close an epoch, or the recorder ends between two."""
        with self._lock:
            self._failed.add(1)

    def epoch_due(self, since_s: float) -> None:
        """The next epoch should have begun then, in seconds since 1970; 0: it is not due."""
        with self._lock:
            self._due.set(since_s)

    def close(self) -> None:
        """Give the process name back; what was counted stays on the page."""
        self._store.close()

"""What the recorder counts. Built once per process, beside the workers' metrics in the same directory."""

from collections.abc import Collection, Mapping
from pathlib import Path

from ops.metrics.store import Store, counter, gauge

__all__ = ["RecorderMetrics"]


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
            self._records = counter(store, "stockade_audit_records_total", "Records made durable.", ("kind",))
            for kind in kinds:
                self._records.bind(kind)
            text = "When a record was last made durable."
            self._durable = gauge(store, "stockade_audit_last_durable_timestamp_seconds", text, merge="max").bind()
            text = "Entries in the log."
            self._size = gauge(store, "stockade_audit_tree_size", text, merge="max").bind()
            text = "When the newest public checkpoint was published."
            self._published = gauge(store, "stockade_audit_checkpoint_timestamp_seconds", text, merge="max").bind()
            text = "Entries that the newest public checkpoint covers."
            self._public = gauge(store, "stockade_audit_checkpoint_size", text, merge="max").bind()

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

    def close(self) -> None:
        """Give the process name back; what was counted stays on the page."""
        self._store.close()

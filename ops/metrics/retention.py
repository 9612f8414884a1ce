"""What `stockade audit retain` came to when it last ran. A process of its own, which ends at once: its gauges stay."""

from collections.abc import Mapping
from pathlib import Path

from ops.metrics.store import Store, gauge

RETENTION = "retention"
"""Its name among the processes of a host."""
KEEPERS = ("hold", "replica", "quorum")


class RetentionMetrics:
    """The series of one host's retention, in the directory that all its processes share.

    Raises:
        MetricsInUse: another one runs.
    """

    def __init__(self, directory: Path) -> None:
        self._store = store = Store(directory, RETENTION)
        with store.lock:
            store.vocabulary.allow("by", KEEPERS)
            text = "Closed epochs that are old enough to be dropped, by what keeps the oldest of them."
            kept = gauge(store, "stockade_audit_epochs_kept", text, ("by",), merge="max")
            self._kept = {by: kept.bind(by) for by in KEEPERS}
            text = "When it was last looked for epochs to drop, in seconds since 1970."
            name = "stockade_audit_retention_timestamp_seconds"
            self._looked = gauge(store, name, text, merge="max").bind()

    def looked(self, kept: Mapping[str, int], time_s: float) -> None:
        """Write down how many epochs are kept, by what keeps them; what is not named keeps none."""
        with self._store.lock:
            for by, cell in self._kept.items():
                cell.set(kept.get(by, 0))
            self._looked.set(time_s)

    def close(self) -> None:
        """Give the process name back; what was found stays on the page."""
        self._store.close()

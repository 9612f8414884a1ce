"""What is known of the log's replica. The series are there only where the log is replicated (`audit.replication`)."""

from ops.metrics.store import Store, counter, gauge

RESULTS = ("failed", "stopped")


class ReplicationMetrics:
    """The series of one log's replica in one process's store. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._lock = store.lock
        with self._lock:
            store.vocabulary.allow("result", RESULTS)
            text = "Times that the log was not replicated; stopped: until somebody has looked at a contradiction."
            failures = counter(store, "stockade_audit_replication_failures_total", text, ("result",))
            self._failures = {result: failures.bind(result) for result in RESULTS}
            text = "Entries of the newest checkpoint that the replica holds with all that it names."
            self._size = gauge(store, "stockade_audit_replicated_size", text).bind()
            text = "Public entries that the replica is not known to hold."
            self._entries = gauge(store, "stockade_audit_replication_lag_entries", text).bind()
            text = "Age of the oldest public entry that the replica is not known to hold: what a lost disk would cost."
            self._seconds = gauge(store, "stockade_audit_replication_lag_seconds", text).bind()

    def measured(self, *, size: int, entries: int, seconds: float) -> None:
        """Write down how far the replica is."""
        with self._lock:
            self._size.set(size)
            self._entries.set(entries)
            self._seconds.set(seconds)

    def failed(self, result: str) -> None:
        """Count one run that did not end well: "failed" or "stopped"."""
        with self._lock:
            self._failures[result].add(1)

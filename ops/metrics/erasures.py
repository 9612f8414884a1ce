"""What is owed to people who asked to be forgotten. The series are those of the host's control plane."""

from collections.abc import Mapping

from ops.audit.payloads.erasure_rows import Owed
from ops.metrics.store import Store, gauge

STATES = ("requested", "agreed")
NS = 1_000_000_000


class ErasureMetrics:
    """The series of one host's erasures. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._lock = store.lock
        with self._lock:
            store.vocabulary.allow("state", STATES)
            text = "Erasures that wait for a second administrator (requested), or to be completed (agreed)."
            counts = gauge(store, "stockade_erasures", text, ("state",))
            text = "Since when the oldest erasure in a state waits, in seconds since 1970; 0 where none does."
            since = gauge(store, "stockade_erasure_oldest_timestamp_seconds", text, ("state",))
            self._counts = {state: counts.bind(state) for state in STATES}
            self._since = {state: since.bind(state) for state in STATES}

    def owed(self, found: Mapping[str, Owed]) -> None:
        """Write down what waits, by state."""
        with self._lock:
            for state, owed in found.items():
                self._counts[state].set(owed.count)
                self._since[state].set(owed.since_ns / NS)

"""What is counted of the response cache. The series are there only where there is one."""

from collections.abc import Mapping

from ops.metrics.store import Store, counter, gauge

RESULTS = ("hit", "miss")


class CacheMetrics:
    """The series of the response cache in one process's store. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._lock = store.lock
        with self._lock:
            store.vocabulary.allow("result", RESULTS)
            text = "Requests that were looked up in the response cache, by what was found."
            self._requests = counter(store, "stockade_cache_requests_total", text, ("model", "result"))
            self._bytes = gauge(store, "stockade_cache_bytes", "What the response cache takes of its bound.").bind()
            self._entries = gauge(store, "stockade_cache_entries", "Answers in the response cache.").bind()

    def happened(self, *, lookups: Mapping[tuple[str, str], int], entries: int, nbytes: int) -> None:
        """Write what has come together since the last time. `lookups`: (model, "hit" or "miss") -> requests."""
        with self._lock:
            for key, count in lookups.items():
                self._requests.bind(*key).add(count)
            self._bytes.set(nbytes)
            self._entries.set(entries)

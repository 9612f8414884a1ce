"""What is counted of labels that clients send later. The series are there once the first label has come."""

from collections import Counter
from collections.abc import Sequence

from ops.metrics.store import Store, counter

DISPOSITIONS = ("accepted", "quarantined", "refused")


class FeedbackMetrics:
    """The series of labels in one process's store, whose vocabulary has the reasons. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._lock = store.lock
        with self._lock:
            store.vocabulary.allow("disposition", DISPOSITIONS)
            text = "Labels that clients sent, by what became of them."
            self._items = counter(store, "stockade_feedback_items_total", text, ("model", "disposition", "reason"))

    def items(self, judged: Sequence[tuple[str, str, str]]) -> None:
        """Labels came. `judged`: (model, or empty where it is not known; disposition; reason, or empty) of each."""
        counts = Counter((model, disposition, reason or "OK") for model, disposition, reason in judged)
        with self._lock:
            for key, count in counts.items():
                self._items.bind(*key).add(count)

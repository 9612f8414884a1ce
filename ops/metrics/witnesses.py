"""What witnesses have said of the log. The series are there only where they are asked (`audit.witnesses`)."""

from collections.abc import Iterable

from ops.metrics.store import Store, counter, gauge

RESULTS = ("failed", "ahead")


class WitnessMetrics:
    """The series of one log's witnesses in one process's store. Thread-safe."""

    def __init__(self, store: Store, witnesses: Iterable[str]) -> None:
        self._lock = store.lock
        names = tuple(witnesses)
        with self._lock:
            store.vocabulary.allow("witness", names)
            store.vocabulary.allow("result", RESULTS)
            text = "Checkpoints that a witness did not cosign; ahead: it has seen a larger tree of this log."
            self._failures = counter(store, "stockade_audit_witness_failures_total", text, ("witness", "result"))
            for name in names:
                for result in RESULTS:
                    self._failures.bind(name, result)
            text = "Entries of the newest checkpoint that the quorum of witnesses has cosigned."
            self._size = gauge(store, "stockade_audit_cosigned_size", text).bind()
            text = "When the quorum of witnesses last cosigned a checkpoint, in seconds since 1970."
            self._time = gauge(store, "stockade_audit_cosigned_timestamp_seconds", text).bind()
            self._time.set(0)

    def cosigned(self, size: int, time_s: float) -> None:
        """Write down that the quorum has cosigned."""
        with self._lock:
            self._size.set(size)
            self._time.set(time_s)

    def failed(self, witness: str, result: str) -> None:
        """Count one checkpoint that a witness did not cosign."""
        with self._lock:
            self._failures.bind(witness, result).add(1)

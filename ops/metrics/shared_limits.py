"""What is counted of limits that gateways share. The series are there only where limits are shared."""

from collections.abc import Mapping, Sequence

from ops.metrics.store import Family, Histogram, Store, counter, gauge

MICRO = 1e-6
DECISIONS = ("admit", "refuse", "local-share", "unavailable")
SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class SharedLimitsMetrics:
    """The series of shared limits in one process's store. Thread-safe. `failures`: every kind there is."""

    def __init__(self, store: Store, failures: Sequence[str]) -> None:
        self._lock = store.lock
        with self._lock:
            store.vocabulary.allow("decision", DECISIONS)
            store.vocabulary.allow("error", failures)
            text = "Whether the shared limits can be asked: 0 as soon as one worker cannot."
            self._up = gauge(store, "stockade_ratelimit_shared_up", text, merge="livemin").bind()
            text = "Decisions about calls whose limits are shared; local-share and unavailable while they are away."
            decisions = counter(store, "stockade_shared_limits_decisions_total", text, ("decision",))
            self._decisions = {decision: decisions.bind(decision) for decision in DECISIONS}
            text = "Times that the shared limits did not answer as they should."
            errors = counter(store, "stockade_shared_limits_errors_total", text, ("error",))
            self._errors = {failure: errors.bind(failure) for failure in failures}
            text = "Time that one exchange with the shared limits took, whatever the number of calls in it."
            family = Family(store, "histogram", "stockade_shared_limits_exchange_seconds", text, ())
            self._trips = Histogram(family, SECONDS, MICRO).bind()

    def happened(
        self, *, up: bool, decisions: Mapping[str, int], failures: Mapping[str, int], trips_us: Sequence[int]
    ) -> None:
        """Write what has come together since the last time."""
        with self._lock:
            self._up.set(int(up))
            for decision, count in decisions.items():
                self._decisions[decision].add(count)
            for failure, count in failures.items():
                self._errors[failure].add(count)
            self._trips.observe(trips_us)

"""Series of parts that not every gateway has: each class is made where its part runs, and its series are there from
then on. All are thread-safe.
"""

from collections.abc import Iterable, Mapping, Sequence

from ops.metrics.store import Store, counter, gauge, histogram

MICRO = 1e-6
SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class CacheMetrics:
    """The response cache."""

    def __init__(self, store: Store) -> None:
        store.vocabulary.allow("result", ("hit", "miss"))
        text = "Requests that were looked up in the response cache, by what was found."
        self._count = counter(store, "stockade_cache_requests_total", text, ("model", "result")).counter_of()
        self._bytes = gauge(store, "stockade_cache_bytes", "What the response cache takes of its bound.").setter()
        self._entries = gauge(store, "stockade_cache_entries", "Answers in the response cache.").setter()

    def happened(self, *, lookups: Mapping[tuple[str, str], int], entries: int, nbytes: int) -> None:
        """Write what has come together since the last time. `lookups`: (model, "hit" or "miss") -> requests."""
        self._count(lookups)
        self._bytes(nbytes)
        self._entries(entries)


class ClusterMetrics:
    """Serve's replicas on the Ray cluster behind the gateway."""

    STATES = ("wanted", "running")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: set[str] = set()
        store.vocabulary.allow("state", self.STATES)
        text = "Replicas of a Ray Serve application, as Serve says: how many it wants, and how many run."
        self._replicas = gauge(store, "stockade_ray_replicas", text, ("application", "state"), merge="livemax")

    def replicas(self, counts: Mapping[str, tuple[int, int]]) -> None:
        """Write how many replicas of each application are wanted and run; one that is no longer there wants none."""
        with self._store.lock:
            self._store.vocabulary.allow("application", counts)
            self._known |= counts.keys()
            for application in self._known:
                for state, count in zip(self.STATES, counts.get(application, (0, 0)), strict=True):
                    self._replicas.bind(application, state).set(count)


class ErasureMetrics:
    """What is owed to people who asked to be forgotten, in the host's control plane."""

    def __init__(self, store: Store) -> None:
        states = ("requested", "agreed")
        text = "Erasures that wait for a second administrator (requested), or to be completed (agreed)."
        self._count = gauge(store, "stockade_erasures", text, ("state",)).setter(states)
        text = "Since when the oldest erasure in a state waits, in seconds since 1970; 0 where none does."
        self._since = gauge(store, "stockade_erasure_oldest_timestamp_seconds", text, ("state",)).setter(states)

    def owed(self, found: Mapping[str, tuple[int, int]]) -> None:
        """Write down what waits: state -> how many, and since when the oldest of them does (ns since 1970)."""
        for state, (count, since_ns) in found.items():
            self._count(state, count)
            self._since(state, since_ns / 1_000_000_000)


class ReplicationMetrics:
    """The log's replica (`audit.replication`)."""

    def __init__(self, store: Store) -> None:
        text = "Times that the log was not replicated; stopped: until somebody has looked at a contradiction."
        failures = counter(store, "stockade_audit_replication_failures_total", text, ("result",))
        self._failed = failures.adder(("failed", "stopped"))
        text = "Entries of the newest checkpoint that the replica holds with all that it names."
        self._size = gauge(store, "stockade_audit_replicated_size", text).setter()
        text = "Public entries that the replica is not known to hold."
        self._entries = gauge(store, "stockade_audit_replication_lag_entries", text).setter()
        text = "Age of the oldest public entry that the replica is not known to hold: what a lost disk would cost."
        self._seconds = gauge(store, "stockade_audit_replication_lag_seconds", text).setter()

    def measured(self, *, size: int, entries: int, seconds: float) -> None:
        """Write down how far the replica is."""
        self._size(size)
        self._entries(entries)
        self._seconds(seconds)

    def failed(self, result: str) -> None:
        """Count one run that did not end well: "failed" or "stopped"."""
        self._failed(result, 1)


class SharedLimitsMetrics:
    """Limits that gateways share. `failures`: every kind there is."""

    def __init__(self, store: Store, failures: Sequence[str]) -> None:
        text = "Whether the shared limits can be asked: 0 as soon as one worker cannot."
        self._up = gauge(store, "stockade_ratelimit_shared_up", text, merge="livemin").setter()
        text = "Decisions about calls whose limits are shared; local-share and unavailable while they are away."
        decisions = counter(store, "stockade_shared_limits_decisions_total", text, ("decision",))
        self._decide = decisions.adder(("admit", "refuse", "local-share", "unavailable"))
        text = "Times that the shared limits did not answer as they should."
        self._fail = counter(store, "stockade_shared_limits_errors_total", text, ("error",)).adder(failures)
        text = "Time that one exchange with the shared limits took, whatever the number of calls in it."
        trips = histogram(store, "stockade_shared_limits_exchange_seconds", text, (), SECONDS, MICRO)
        self._observe = trips.observer()
        self._observe(())  # the series is there at once

    def happened(
        self, *, up: bool, decisions: Mapping[str, int], failures: Mapping[str, int], trips_us: Sequence[int]
    ) -> None:
        """Write what has come together since the last time."""
        self._up(int(up))
        for decision, count in decisions.items():
            self._decide(decision, count)
        for failure, count in failures.items():
            self._fail(failure, count)
        self._observe(trips_us)


class WitnessMetrics:
    """The log's witnesses, by their names in the policy (`audit.witnesses`)."""

    def __init__(self, store: Store, witnesses: Iterable[str]) -> None:
        text = "Checkpoints that a witness did not cosign; ahead: it has seen a larger tree of this log."
        failures = counter(store, "stockade_audit_witness_failures_total", text, ("witness", "result"))
        self._failed = failures.adder(witnesses, ("failed", "ahead"))
        text = "Entries of the newest checkpoint that the quorum of witnesses has cosigned."
        self._size = gauge(store, "stockade_audit_cosigned_size", text).setter()
        text = "When the quorum of witnesses last cosigned a checkpoint, in seconds since 1970."
        self._time = gauge(store, "stockade_audit_cosigned_timestamp_seconds", text).setter()
        self._time(0)

    def cosigned(self, size: int, time_s: float) -> None:
        """Write down that the quorum has cosigned."""
        self._size(size)
        self._time(time_s)

    def failed(self, witness: str, result: str) -> None:
        """Count one checkpoint that a witness did not cosign: "failed" or "ahead"."""
        self._failed(witness, result, 1)

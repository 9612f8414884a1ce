"""What is known of the Ray cluster behind the gateway. The series are there only where models run on one."""

from collections.abc import Mapping

from ops.metrics.store import Store, gauge

STATES = ("wanted", "running")


class ClusterMetrics:
    """The series of Serve's replicas in one process's store. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: set[str] = set()
        with store.lock:
            store.vocabulary.allow("state", STATES)
            text = "Replicas of a Ray Serve application, as Serve says: how many it wants, and how many run."
            self._replicas = gauge(store, "stockade_ray_replicas", text, ("application", "state"), merge="livemax")

    def replicas(self, counts: Mapping[str, tuple[int, int]]) -> None:
        """Write how many replicas of each application are wanted and run; one that is no longer there wants none."""
        with self._store.lock:
            self._store.vocabulary.allow("application", counts)
            self._known |= counts.keys()
            for application in self._known:
                for state, count in zip(STATES, counts.get(application, (0, 0)), strict=True):
                    self._replicas.bind(application, state).set(count)

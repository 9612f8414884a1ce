"""What is counted of models: rows, batches, cost, confidence, what was kept back of answers, and engines."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ops.metrics.store import Family, Histogram, Store, counter, gauge

MICRO = 1e-6
EFFECTS = ("abstained", "moved")
STEPS = ("flag", "harden", "neighbour", "proof_of_work", "top1", "cool_down", "refuse")
STATES = ("ready", "not_ready", "unloaded")
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class BatchesDone(NamedTuple):
    """Batches of one model: the rows of each; cost units and microseconds by tenant class; the queue behind them."""

    rows: Sequence[int]
    cost: Mapping[str, int]
    compute_us: Mapping[str, float]
    waiting_rows: int


class ModelMetrics:
    """The series of models in one process's store. Thread-safe."""

    def __init__(self, store: Store) -> None:
        model = ("model",)
        self._lock = store.lock
        store.vocabulary.allow("effect", EFFECTS)
        store.vocabulary.allow("step", STEPS)
        store.vocabulary.allow("state", STATES)
        self._queue = gauge(store, "stockade_queue_depth", "Rows waiting for a model.", model)
        self._batch_rows = Histogram(Family(store, "histogram", "stockade_batch_rows", "Rows in a batch.", model), ROWS)
        self._rows = counter(store, "stockade_rows_total", "Rows that a model ran.", model)
        text = "Cost charged to tenants, by class."
        self._cost = counter(store, "stockade_cost_units_total", text, ("model", "tenant_class"))
        text = "Time that batches kept a thread busy, by class."
        self._compute = counter(store, "stockade_compute_seconds_total", text, ("model", "tenant_class"))
        text = "Probability of the top class."
        self._scores = Histogram(Family(store, "histogram", "stockade_model_score", text, model), SCORES)
        text = "Requests of accounts that stand on a step of the watch, in shadow too."
        self._account_actions = counter(store, "stockade_account_actions_total", text, ("model", "step"))
        text = (
            "Rows of which the output policy kept something back: no answer, or another class than the model's first."
        )
        self._kept_back = counter(store, "stockade_output_kept_back_total", text, ("model", "effect"))
        self._replicas = gauge(store, "stockade_replicas", "Engines of a model by state.", ("model", "state"))
        text = "How evenly rows chose a mixture's experts, 0 to 1, in the worker where it is least even."
        self._routing = gauge(store, "stockade_expert_entropy", text, ("model", "version"), merge="livemin")
        text = "Batches that the worker's own engine answered because the cluster could not."
        self._fallback = counter(store, "stockade_fallback_batches_total", text, model)

    def batches_done(self, model: str, done: BatchesDone) -> None:
        """Batches of a model have run."""
        with self._lock:
            self._rows.bind(model).add(sum(done.rows))
            self._batch_rows.bind(model).observe(done.rows)
            self._queue.bind(model).set(done.waiting_rows)
            for name, units in done.cost.items():
                self._cost.bind(model, name).add(units)
            for name, spent_us in done.compute_us.items():
                self._compute.bind(model, name).add(spent_us * MICRO)

    def cost_charged(self, units: Mapping[tuple[str, str], int]) -> None:
        """Tenants were charged for answers that no batch ran. `units`: (model, priority class) -> cost units."""
        with self._lock:
            for charged, count in units.items():
                self._cost.bind(*charged).add(count)

    def answered(self, model: str, scores: Sequence[float]) -> None:
        """The probability of the top class of each row that was answered."""
        with self._lock:
            self._scores.bind(model).observe(scores)

    def account_steps(self, model: str, steps: Mapping[str, int]) -> None:
        """So many requests came from accounts that stand on a step of the watch, by the step's name."""
        with self._lock:
            for step, requests in steps.items():
                self._account_actions.bind(model, step).add(requests)

    def kept_back(self, model: str, effect: str, rows: int) -> None:
        """The output policy has kept back something of rows. `effect`: "abstained" or "moved"."""
        with self._lock:
            self._kept_back.bind(model, effect).add(rows)

    def replicas(self, model: str, state: str, count: int) -> None:
        """How many engines of a model are in `state` ("ready", "not_ready" or "unloaded")."""
        with self._lock:
            self._replicas.bind(model, state).set(count)

    def routing(self, model: str, version: str, entropy: float) -> None:
        """How evenly the last rows chose the experts of a mixture, 0 to 1."""
        with self._lock:
            self._routing.bind(model, version).set(entropy)

    def fallback_batches(self, model: str, batches: int) -> None:
        """Batches of a model were answered by the engine behind the one that is meant to."""
        with self._lock:
            self._fallback.bind(model).add(batches)

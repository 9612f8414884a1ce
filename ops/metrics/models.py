"""What is counted of models: their batches, answers and engines, what screens say of rows, what labels say of answers.

All classes are thread-safe.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ops.metrics.store import Cell, Store, counter, gauge, histogram

MICRO = 1e-6
EFFECTS = ("abstained", "moved")
STEPS = ("flag", "harden", "neighbour", "proof_of_work", "top1", "cool_down", "refuse")
STATES = ("ready", "not_ready", "unloaded")
VERDICTS = ("pass", "flag", "refuse")
DISPOSITIONS = ("accepted", "quarantined", "refused")
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
P_VALUES = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
OBSERVED_ROWS = 10_000


class BatchesDone(NamedTuple):
    """Batches of one model: the rows of each; cost units and microseconds by tenant class; the queue behind them."""

    rows: Sequence[int]
    cost: Mapping[str, int]
    compute_us: Mapping[str, float]
    waiting_rows: int


class ModelMetrics:
    """Rows, batches, cost, confidence, what was kept back of answers, and engines."""

    def __init__(self, store: Store) -> None:
        model = ("model",)
        self._lock = store.lock
        store.vocabulary.allow("effect", EFFECTS)
        store.vocabulary.allow("step", STEPS)
        store.vocabulary.allow("state", STATES)
        self._queue = gauge(store, "stockade_queue_depth", "Rows waiting for a model.", model)
        self._batch_rows = histogram(store, "stockade_batch_rows", "Rows in a batch.", model, ROWS)
        self._rows = counter(store, "stockade_rows_total", "Rows that a model ran.", model)
        text = "Cost charged to tenants, by class."
        self._cost = counter(store, "stockade_cost_units_total", text, ("model", "tenant_class"))
        self.cost_charged: Callable[[Mapping[tuple[str, str], int]], None] = self._cost.counter_of()
        """Tenants were charged for answers that no batch ran: (model, priority class) -> cost units."""
        text = "Time that batches kept a thread busy, by class."
        self._compute = counter(store, "stockade_compute_seconds_total", text, ("model", "tenant_class"))
        scores = histogram(store, "stockade_model_score", "Probability of the top class.", model, SCORES)
        self.answered: Callable[[str, Sequence[float]], None] = scores.observer()
        """(model, the probability of the top class of each row that was answered)"""
        text = "Requests of accounts that stand on a step of the watch, in shadow too."
        self._account_actions = counter(store, "stockade_account_actions_total", text, ("model", "step")).adder()
        text = (
            "Rows of which the output policy kept something back: no answer, or another class than the model's first."
        )
        withheld = counter(store, "stockade_output_kept_back_total", text, ("model", "effect"))
        self.kept_back: Callable[[str, str, int], None] = withheld.adder()
        """(model, "abstained" or "moved", rows)"""
        replicas = gauge(store, "stockade_replicas", "Engines of a model by state.", ("model", "state"))
        self.replicas: Callable[[str, str, int], None] = replicas.setter()
        """(model, one of STATES, engines in it)"""
        text = "How evenly rows chose a mixture's experts, 0 to 1, in the worker where it is least even."
        entropy = gauge(store, "stockade_expert_entropy", text, ("model", "version"), merge="livemin")
        self.routing: Callable[[str, str, float], None] = entropy.setter()
        """(model, version, how evenly the last rows chose the experts of a mixture, 0 to 1)"""
        text = "Batches that the worker's own engine answered because the cluster could not."
        self.fallback_batches: Callable[[str, int], None] = counter(
            store, "stockade_fallback_batches_total", text, model
        ).adder()
        """(model, batches)"""

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

    def account_steps(self, model: str, steps: Mapping[str, int]) -> None:
        """So many requests came from accounts that stand on a step of the watch, by the step's name."""
        for step, requests in steps.items():
            self._account_actions(model, step, requests)


class ScreenFacts(NamedTuple):
    """What is known of a screen in force. A rate that was not measured has no series."""

    threshold: float
    """P-value at or below which a row is flagged."""
    technique: str
    """The MITRE ATLAS technique that it looks for."""
    mode: str
    fpr: float | None = None
    """False-positive rate measured on held-out rows, and the bounds of its confidence interval."""
    fpr_low: float | None = None
    fpr_high: float | None = None


class ObservedShare:
    """The share of rows that were flagged or refused in a sliding window: the batches that hold the last rows."""

    __slots__ = ("_batches", "_flagged", "_rows")

    def __init__(self) -> None:
        self._batches: deque[tuple[int, int]] = deque()
        self._rows = 0
        self._flagged = 0

    def add(self, rows: int, flagged: int) -> float:
        """Count a batch and forget what is too old. Returns the share."""
        self._batches.append((rows, flagged))
        self._rows += rows
        self._flagged += flagged
        while self._rows - self._batches[0][0] >= OBSERVED_ROWS:
            old_rows, old_flagged = self._batches.popleft()
            self._rows -= old_rows
            self._flagged -= old_flagged
        return self._flagged / max(self._rows, 1)


class ScreenMetrics:
    """Verdicts and p-values of screens, and what is known of the screens themselves."""

    def __init__(self, store: Store) -> None:
        screen = ("model", "screen")
        self._lock, self._vocabulary = store.lock, store.vocabulary
        self._vocabulary.allow("verdict", VERDICTS)
        self._vocabulary.allow("bound", ("low", "high"))
        self._vocabulary.allow("mode", ("enforce", "shadow"))
        text = "Verdicts of the screens."
        self._verdicts = counter(store, "stockade_screen_verdicts_total", text, (*screen, "verdict"))
        text = "Conformal p-values of rows."
        self._p_values = histogram(store, "stockade_screen_pvalue", text, screen, P_VALUES)
        text = "P-value at or below which a row is flagged."
        self._threshold = gauge(store, "stockade_screen_threshold", text, screen, merge="livemin")
        text = "False-positive rate measured when the screen was calibrated."
        self._fpr = gauge(store, "stockade_screen_fpr_calibrated", text, screen, merge="livemax")
        text = "Bounds of the 95 % interval of the calibrated false-positive rate."
        bound = (*screen, "bound")
        self._fpr_bound = gauge(store, "stockade_screen_fpr_calibrated_bound", text, bound, merge="livemax")
        text = "Screens in force: their mode, and the MITRE ATLAS technique that each looks for."
        self._info = gauge(store, "stockade_screen_info", text, (*screen, "technique", "mode"), merge="livemax")
        self._described: dict[tuple[str, str], Cell] = {}
        text = (
            f"Share of the last {OBSERVED_ROWS} rows that were flagged or refused, in the worker where it is highest."
        )
        self._fpr_observed = gauge(store, "stockade_screen_fpr_observed", text, screen, merge="livemax")
        self._observed: dict[Cell, ObservedShare] = {}

    def serve(self, model: str, screens: Mapping[str, ScreenFacts]) -> None:
        """Let a model's screens have series, or say what has changed about them."""
        with self._lock:
            self._vocabulary.allow("screen", screens)
            for screen, facts in screens.items():
                self._describe(model, screen, facts)
                for verdict in VERDICTS:
                    self._verdicts.bind(model, screen, verdict)

    def _describe(self, model: str, screen: str, facts: ScreenFacts) -> None:
        """Say what is known of a screen, and no longer what was known before. Lock held."""
        self._vocabulary.allow("technique", (facts.technique,))
        self._threshold.bind(model, screen).set(facts.threshold)
        if facts.fpr is not None:
            self._fpr.bind(model, screen).set(facts.fpr)
        for bound, rate in (("low", facts.fpr_low), ("high", facts.fpr_high)):
            if rate is not None:
                self._fpr_bound.bind(model, screen, bound).set(rate)
        if (before := self._described.get((model, screen))) is not None:
            before.set(0)
        cell = self._described[model, screen] = self._info.bind(model, screen, facts.technique, facts.mode)
        cell.set(1)

    def judged(self, model: str, screen: str, verdicts: Mapping[str, int], p_values: Sequence[float]) -> None:
        """A screen has judged rows. `verdicts`: "pass", "flag" or "refuse" -> rows."""
        with self._lock:
            for verdict, rows in verdicts.items():
                self._verdicts.bind(model, screen, verdict).add(rows)
            self._p_values.bind(model, screen).observe(p_values)
            cell = self._fpr_observed.bind(model, screen)
            if (observed := self._observed.get(cell)) is None:
                observed = self._observed[cell] = ObservedShare()
            cell.set(observed.add(len(p_values), len(p_values) - verdicts.get("pass", 0)))


class FeedbackMetrics:
    """Labels that clients send later. The series are there once the first label has come."""

    def __init__(self, store: Store) -> None:
        store.vocabulary.allow("disposition", DISPOSITIONS)
        text = "Labels that clients sent, by what became of them."
        items = counter(store, "stockade_feedback_items_total", text, ("model", "disposition", "reason"))
        self._count = items.counter_of()

    def items(self, judged: Iterable[tuple[str, str, str]]) -> None:
        """Labels came. `judged`: (model, or empty where it is not known; disposition; reason, or empty) of each."""
        self._count(Counter((model, disposition, reason or "OK") for model, disposition, reason in judged))

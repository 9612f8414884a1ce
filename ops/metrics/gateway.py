"""What a gateway worker counts. Built once per process; thread-safe; nothing raises for what a client sent.

Hot methods take a whole batch: one lock round, one write a series that changed. Durations are integer microseconds, as
the record holds them, and come out as seconds.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ops.metrics.cache import CacheMetrics
from ops.metrics.cluster import ClusterMetrics
from ops.metrics.erasures import ErasureMetrics
from ops.metrics.evaluation import EvaluationMetrics
from ops.metrics.feedback import FeedbackMetrics
from ops.metrics.release import ReleaseMetrics
from ops.metrics.replication import ReplicationMetrics
from ops.metrics.shared_limits import SharedLimitsMetrics
from ops.metrics.store import OTHER, Cell, Family, Histogram, HistogramCells, Store, counter, gauge
from ops.metrics.witnesses import WitnessMetrics

__all__ = ["BatchesDone", "Metrics", "RequestDone", "ScreenFacts"]

MICRO = 1e-6
STAGES = ("auth", "admit", "decode", "limits", "screen", "queue", "infer", "harden", "audit", "total")
OUTCOMES = ("served", "refused", "failed", "outcome-unknown")
VERDICTS = ("pass", "flag", "refuse")
EFFECTS = ("abstained", "moved")
STEPS = ("flag", "harden", "neighbour", "proof_of_work", "top1", "cool_down", "refuse")
CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""gRPC status codes by number."""
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
P_VALUES = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
OBSERVED_ROWS = 10_000
SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class RequestDone(NamedTuple):
    """How one request ended. `method` is the full gRPC name, or empty for a message inside a stream that goes on."""

    method: str
    code: int
    model: str
    version: str
    outcome: str
    reason: str
    total_us: int
    stages_us: Sequence[tuple[str, int]]
    """(stage, microseconds); a stage that was not reached is left out."""


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


class BatchesDone(NamedTuple):
    """Batches of one model: the rows of each; cost units and microseconds by tenant class; the queue behind them."""

    rows: Sequence[int]
    cost: Mapping[str, int]
    compute_us: Mapping[str, float]
    waiting_rows: int


class _Rpc(NamedTuple):
    started: Cell
    handled: tuple[Cell, ...]
    handling: HistogramCells


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


class Metrics:
    """Every metric of a gateway worker.

    Args:
        directory: shared by all processes of the host; made if missing.
        process: this process's name among them ("worker-0"); a successor with the same name goes on counting.
        methods: full gRPC name of every method served -> its type ("unary", "bidi_stream", ...).
        reasons: every reason of the refusal table.

    Raises:
        MetricsInUse: a live process writes under that name.
    """

    def __init__(self, directory: Path, process: str, *, methods: Mapping[str, str], reasons: Collection[str]) -> None:
        self._store = Store(directory, process)
        self._lock = self._store.lock
        with self._lock:
            self._allow(methods, reasons)
            self._define_requests()
            self._define_models()
            self._define_facts()
            self._rpc = {method: self._bind_rpc(method, kind) for method, kind in methods.items()}
            self._rpc_unknown = self._bind_rpc(f"/{OTHER}/{OTHER}", OTHER)
        self._policy = ""
        self.release = ReleaseMetrics(self._store)
        self.feedback = FeedbackMetrics(self._store)

    def _allow(self, methods: Mapping[str, str], reasons: Collection[str]) -> None:
        allow = self._store.vocabulary.allow
        allow("stage", STAGES)
        allow("outcome", OUTCOMES)
        allow("verdict", VERDICTS)
        allow("effect", EFFECTS)
        allow("step", STEPS)
        allow("reason", ("OK", "CANCELLED", *reasons))
        allow("decision", ("admit", "refuse"))
        allow("method", ("api_key", "jwt", "mtls", "none"))
        allow("state", ("ready", "not_ready", "unloaded"))
        allow("bound", ("low", "high"))
        allow("mode", ("enforce", "shadow"))
        allow("grpc_code", CODES)
        allow("grpc_type", methods.values())
        allow("grpc_service", (method.split("/")[1] for method in methods))
        allow("grpc_method", (method.split("/")[2] for method in methods))
        allow("model", ("",))  # a request that was refused before its model was known
        allow("version", ("",))

    def _define_requests(self) -> None:
        store, rpc = self._store, ("grpc_type", "grpc_service", "grpc_method")
        ended, stage = ("model", "version", "outcome", "reason"), ("model", "stage")
        self._started = counter(store, "grpc_server_started_total", "RPCs started.", rpc)
        self._handled = counter(store, "grpc_server_handled_total", "RPCs completed.", (*rpc, "grpc_code"))
        self._handling = Histogram(
            Family(store, "histogram", "grpc_server_handling_seconds", "Time an RPC took.", rpc), SECONDS, MICRO
        )
        self._requests = counter(store, "stockade_requests_total", "Requests by how they ended.", ended)
        text = "Time that requests spent in each stage."
        self._duration = Histogram(
            Family(store, "histogram", "stockade_request_duration_seconds", text, stage), SECONDS, MICRO
        )
        text = "Credentials refused."
        self._auth_failures = counter(store, "stockade_auth_failures_total", text, ("method", "reason"))
        text = "Decisions of the rate limiter."
        self._limits = counter(store, "stockade_ratelimit_decisions_total", text, ("class", "decision"))
        self._inflight = gauge(store, "stockade_inflight_requests", "Calls being worked on.").bind()
        self._backlog = gauge(store, "stockade_audit_backlog_records", "Records waiting for the recorder.").bind()
        self._spans = counter(store, "stockade_trace_spans_dropped_total", "Spans that reached no collector.").bind()
        text = "Calls that found no room in the in-flight ring: a worker that dies leaves no word of them."
        self._ring_full = counter(store, "stockade_inflight_ring_full_total", text).bind()
        text = "Calls that ended unanswered and left no record, because none could be written. Must stay 0."
        self._dropped = counter(store, "stockade_audit_dropped_total", text).bind()

    def _define_models(self) -> None:
        store, screen = self._store, ("model", "screen")
        self._queue = gauge(store, "stockade_queue_depth", "Rows waiting for a model.", ("model",))
        self._batch_rows = Histogram(
            Family(store, "histogram", "stockade_batch_rows", "Rows in a batch.", ("model",)), ROWS
        )
        self._rows = counter(store, "stockade_rows_total", "Rows that a model ran.", ("model",))
        text = "Cost charged to tenants, by class."
        self._cost = counter(store, "stockade_cost_units_total", text, ("model", "tenant_class"))
        text = "Time that batches kept a thread busy, by class."
        self._compute = counter(store, "stockade_compute_seconds_total", text, ("model", "tenant_class"))
        text = "Verdicts of the screens."
        self._verdicts = counter(store, "stockade_screen_verdicts_total", text, (*screen, "verdict"))
        self._p_values = Histogram(
            Family(store, "histogram", "stockade_screen_pvalue", "Conformal p-values of rows.", screen), P_VALUES
        )
        text = "P-value at or below which a row is flagged."
        self._threshold = gauge(store, "stockade_screen_threshold", text, screen, merge="livemin")
        text = "False-positive rate measured when the screen was calibrated."
        self._fpr = gauge(store, "stockade_screen_fpr_calibrated", text, screen, merge="livemax")
        text = "Bounds of the 95 % interval of the calibrated false-positive rate."
        self._fpr_bound = gauge(
            store, "stockade_screen_fpr_calibrated_bound", text, (*screen, "bound"), merge="livemax"
        )
        text = "Screens in force: their mode, and the MITRE ATLAS technique that each looks for."
        self._screens = gauge(store, "stockade_screen_info", text, (*screen, "technique", "mode"), merge="livemax")
        self._screen_info: dict[tuple[str, str], Cell] = {}
        text = (
            f"Share of the last {OBSERVED_ROWS} rows that were flagged or refused, in the worker where it is highest."
        )
        self._fpr_observed = gauge(store, "stockade_screen_fpr_observed", text, screen, merge="livemax")
        self._observed: dict[Cell, ObservedShare] = {}
        self._scores = Histogram(
            Family(store, "histogram", "stockade_model_score", "Probability of the top class.", ("model",)), SCORES
        )
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
        self._fallback = counter(store, "stockade_fallback_batches_total", text, ("model",))

    def _define_facts(self) -> None:
        store = self._store
        self._policies = gauge(store, "stockade_policy_info", "Workers that use this policy.", ("digest",))
        self._build = gauge(store, "stockade_build_info", "Workers of this build.", ("version",))
        text = "When a certificate expires."
        self._expiry = gauge(store, "stockade_cert_expiry_timestamp_seconds", text, ("certificate",), merge="livemin")

    def _bind_rpc(self, method: str, kind: str) -> _Rpc:
        _, service, name = method.split("/")
        handled = tuple(self._handled.bind(kind, service, name, code) for code in CODES)
        return _Rpc(self._started.bind(kind, service, name), handled, self._handling.bind(kind, service, name))

    def serve_model(self, model: str, version: str, screens: Mapping[str, ScreenFacts]) -> None:
        """Let a model have series of its own, or say what has changed about its screens."""
        with self._lock:
            allow = self._store.vocabulary.allow
            allow("model", (model,))
            allow("version", (version,))
            allow("screen", screens)
            for stage in STAGES:
                self._duration.bind(model, stage)
            self._requests.bind(model, version, "served", "OK")
            for screen, facts in screens.items():
                self._describe(model, screen, facts)
                for verdict in VERDICTS:
                    self._verdicts.bind(model, screen, verdict)

    def _describe(self, model: str, screen: str, facts: ScreenFacts) -> None:
        """Say what is known of a screen, and no longer what was known before. Lock held."""
        self._store.vocabulary.allow("technique", (facts.technique,))
        self._threshold.bind(model, screen).set(facts.threshold)
        if facts.fpr is not None:
            self._fpr.bind(model, screen).set(facts.fpr)
        for bound, rate in (("low", facts.fpr_low), ("high", facts.fpr_high)):
            if rate is not None:
                self._fpr_bound.bind(model, screen, bound).set(rate)
        if (before := self._screen_info.get((model, screen))) is not None:
            before.set(0)
        cell = self._screen_info[model, screen] = self._screens.bind(model, screen, facts.technique, facts.mode)
        cell.set(1)

    def serve_classes(self, classes: Iterable[str]) -> None:
        """Let priority classes have series of their own: the only form in which tenants appear."""
        with self._lock:
            known = tuple(classes)
            self._store.vocabulary.allow("class", known)
            self._store.vocabulary.allow("tenant_class", known)

    def rpcs_started(self, counts: Mapping[str, int]) -> None:
        """RPCs have begun. `counts`: full gRPC name -> how many."""
        with self._lock:
            for method, count in counts.items():
                self._rpc.get(method, self._rpc_unknown).started.add(count)

    def request_done(self, done: RequestDone) -> None:
        """One request has ended, whichever way."""
        self.requests_done((done,))

    def requests_done(self, batch: Sequence[RequestDone]) -> None:
        """A batch of requests has ended: RPC, outcome and stages of each are counted."""
        handled: dict[tuple[str, int], int] = {}
        ended: dict[tuple[str, str, str, str], int] = {}
        spent: dict[tuple[str, str], list[int]] = {}
        handling: dict[str, list[int]] = {}
        for method, code, model, version, outcome, reason, total_us, stages_us in batch:
            ended_as = (model, version, outcome, reason)
            ended[ended_as] = ended.get(ended_as, 0) + 1
            for stage, stage_us in stages_us:
                spent.setdefault((model, stage), []).append(stage_us)
            spent.setdefault((model, "total"), []).append(total_us)
            if method:
                handled[method, code] = handled.get((method, code), 0) + 1
                handling.setdefault(method, []).append(total_us)
        with self._lock:
            for ended_as, count in ended.items():
                self._requests.bind(*ended_as).add(count)
            for key, values in spent.items():
                self._duration.bind(*key).observe(values)
            for (method, code), count in handled.items():
                self._rpc.get(method, self._rpc_unknown).handled[code].add(count)
            for method, values in handling.items():
                self._rpc.get(method, self._rpc_unknown).handling.observe(values)

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

    def screen_done(self, model: str, screen: str, verdicts: Mapping[str, int], p_values: Sequence[float]) -> None:
        """A screen has judged rows. `verdicts`: "pass", "flag" or "refuse" -> rows."""
        with self._lock:
            for verdict, rows in verdicts.items():
                self._verdicts.bind(model, screen, verdict).add(rows)
            self._p_values.bind(model, screen).observe(p_values)
            cell = self._fpr_observed.bind(model, screen)
            if (observed := self._observed.get(cell)) is None:
                observed = self._observed[cell] = ObservedShare()
            cell.set(observed.add(len(p_values), len(p_values) - verdicts.get("pass", 0)))

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

    def auth_failed(self, method: str, reason: str) -> None:
        """A credential was refused. `method`: "api_key", "jwt", "mtls", or "none" when there was no credential."""
        with self._lock:
            self._auth_failures.bind(method, reason).add(1)

    def limits_decided(self, counts: Mapping[tuple[str, str], int]) -> None:
        """The rate limiter has decided. `counts`: (priority class, "admit" or "refuse") -> requests."""
        with self._lock:
            for decided, count in counts.items():
                self._limits.bind(*decided).add(count)

    def inflight(self, calls: int) -> None:
        """How many calls are being worked on now."""
        with self._lock:
            self._inflight.set(calls)

    def audit_backlog(self, records: int) -> None:
        """How many records wait for the recorder now."""
        with self._lock:
            self._backlog.set(records)

    def ring_full(self, calls: int) -> None:
        """Calls found no room in the in-flight ring."""
        with self._lock:
            self._ring_full.add(calls)

    def audit_dropped(self, records: int) -> None:
        """Calls have left no record. Somebody will be woken up."""
        with self._lock:
            self._dropped.add(records)

    def spans_dropped(self, spans: int) -> None:
        """Spans were dropped: too many at once, or the collector did not take them."""
        with self._lock:
            self._spans.add(spans)

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

    def policy(self, digest: str) -> None:
        """This worker now uses the policy of that digest, and no other."""
        with self._lock:
            if self._policy:
                self._policies.bind(self._policy).set(0)
                self._policies.forget(self._policy)
                self._store.vocabulary.forget("digest", self._policy)
            self._store.vocabulary.allow("digest", (digest,))
            self._policies.bind(digest).set(1)
            self._policy = digest

    def build(self, version: str) -> None:
        """What is running."""
        with self._lock:
            self._store.vocabulary.allow("version", (version,))
            self._build.bind(version).set(1)

    def certificate(self, name: str, expires_s: float) -> None:
        """When the certificate of that role ("server", "client_ca") expires, in seconds since 1970."""
        with self._lock:
            self._store.vocabulary.allow("certificate", (name,))
            self._expiry.bind(name).set(expires_s)

    def shared_limits(self, failures: Sequence[str]) -> SharedLimitsMetrics:
        """Let shared limits have series: called where limits are shared."""
        return SharedLimitsMetrics(self._store, failures)

    def response_cache(self) -> CacheMetrics:
        """Let the response cache have series: called where there is one."""
        return CacheMetrics(self._store)

    def ray_cluster(self) -> ClusterMetrics:
        """Let replicas on a Ray cluster have series: called where models run on one."""
        return ClusterMetrics(self._store)

    def witnesses(self, names: Iterable[str]) -> WitnessMetrics:
        """Let the log's witnesses have series: called where they are asked."""
        return WitnessMetrics(self._store, names)

    def replication(self) -> ReplicationMetrics:
        """Let the log's replica have series: called where the log is replicated."""
        return ReplicationMetrics(self._store)

    def erasures(self) -> ErasureMetrics:
        """Let what is owed of erasures have series: called where they are completed."""
        return ErasureMetrics(self._store)

    def evaluations(self) -> EvaluationMetrics:
        """Let what later labels say of versions have series: called where that is looked at."""
        return EvaluationMetrics(self._store)

    def close(self) -> None:
        """Give the process name back; what was counted stays on the page."""
        self._store.close()

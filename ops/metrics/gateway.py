"""What a gateway worker counts. Built once per process; thread-safe; nothing raises for what a client sent.

Hot methods take a whole batch: one lock round, one write a series that changed. Durations are integer microseconds, as
the record holds them, and come out as seconds.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ops.metrics.models import FeedbackMetrics, ModelMetrics, ScreenFacts, ScreenMetrics
from ops.metrics.parts import (
    CacheMetrics,
    ClusterMetrics,
    ErasureMetrics,
    ReplicationMetrics,
    SharedLimitsMetrics,
    WitnessMetrics,
)
from ops.metrics.release import EvaluationMetrics, ReleaseMetrics
from ops.metrics.store import OTHER, Cell, HistogramCells, Store, counter, gauge, histogram

MICRO = 1e-6
STAGES = ("auth", "admit", "decode", "limits", "screen", "queue", "infer", "harden", "audit", "total")
OUTCOMES = ("served", "refused", "failed", "outcome-unknown")
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


class _Rpc(NamedTuple):
    started: Cell
    handled: tuple[Cell, ...]
    handling: HistogramCells


class Metrics:
    """Every metric of a gateway worker.

    Args:
        directory: shared by all processes of the host; made if missing.
        process: this process's name among them ("worker-0"); a successor with the same name goes on counting.
        methods: full gRPC name of every method served -> its type ("unary", "bidi_stream", ...).
        reasons: every reason of the refusal table, and every one for which a label is not accepted.

    Raises:
        MetricsInUse: a live process writes under that name.
    """

    def __init__(self, directory: Path, process: str, *, methods: Mapping[str, str], reasons: Collection[str]) -> None:
        self._store = Store(directory, process)
        self._lock = self._store.lock
        self._allow(methods, reasons)
        self._define_requests()
        self._define_facts()
        with self._lock:
            self._rpc = {method: self._bind_rpc(method, kind) for method, kind in methods.items()}
            self._rpc_unknown = self._bind_rpc(f"/{OTHER}/{OTHER}", OTHER)
        self._policy = ""
        self.models = ModelMetrics(self._store)
        self.screens = ScreenMetrics(self._store)
        self.release = ReleaseMetrics(self._store)
        self.feedback = FeedbackMetrics(self._store)

    def _allow(self, methods: Mapping[str, str], reasons: Collection[str]) -> None:
        allow = self._store.vocabulary.allow
        allow("stage", STAGES)
        allow("outcome", OUTCOMES)
        allow("reason", ("OK", "CANCELLED", *reasons))
        allow("decision", ("admit", "refuse"))
        allow("method", ("api_key", "jwt", "mtls", "none"))
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
        text = "Time an RPC took."
        self._handling = histogram(store, "grpc_server_handling_seconds", text, rpc, SECONDS, MICRO)
        self._requests = counter(store, "stockade_requests_total", "Requests by how they ended.", ended)
        text = "Time that requests spent in each stage."
        self._duration = histogram(store, "stockade_request_duration_seconds", text, stage, SECONDS, MICRO)

    def _define_facts(self) -> None:
        """The series that one call writes, and those calls: each takes what stands in its comment."""
        store = self._store
        text = "Credentials refused."
        self._auth_failures = counter(store, "stockade_auth_failures_total", text, ("method", "reason")).adder()
        text = "Decisions of the rate limiter."
        limits = counter(store, "stockade_ratelimit_decisions_total", text, ("class", "decision"))
        self.limits_decided: Callable[[Mapping[tuple[str, str], int]], None] = limits.counter_of()
        """(priority class, "admit" or "refuse") -> requests"""
        inflight = gauge(store, "stockade_inflight_requests", "Calls being worked on.")
        self.inflight: Callable[[int], None] = inflight.setter()
        backlog = gauge(store, "stockade_audit_backlog_records", "Records waiting for the recorder.")
        self.audit_backlog: Callable[[int], None] = backlog.setter()
        spans = counter(store, "stockade_trace_spans_dropped_total", "Spans that reached no collector.")
        self.spans_dropped: Callable[[int], None] = spans.adder()
        text = "Calls that found no room in the in-flight ring: a worker that dies leaves no word of them."
        self.ring_full: Callable[[int], None] = counter(store, "stockade_inflight_ring_full_total", text).adder()
        text = "Calls that ended unanswered and left no record, because none could be written. Must stay 0."
        self.audit_dropped: Callable[[int], None] = counter(store, "stockade_audit_dropped_total", text).adder()
        self._policies = gauge(store, "stockade_policy_info", "Workers that use this policy.", ("digest",))
        self._build = gauge(store, "stockade_build_info", "Workers of this build.", ("version",)).setter()
        text = "When a certificate expires."
        name = "stockade_cert_expiry_timestamp_seconds"
        self._expiry = gauge(store, name, text, ("certificate",), merge="livemin").setter()

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
            for stage in STAGES:
                self._duration.bind(model, stage)
            self._requests.bind(model, version, "served", "OK")
        self.screens.serve(model, screens)

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

    def auth_failed(self, method: str, reason: str) -> None:
        """A credential was refused. `method`: "api_key", "jwt", "mtls", or "none" when there was no credential."""
        self._auth_failures(method, reason, 1)

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
        self._store.vocabulary.allow("version", (version,))
        self._build(version, 1)

    def certificate(self, name: str, expires_s: float) -> None:
        """When the certificate of that role ("server", "client_ca") expires, in seconds since 1970."""
        self._store.vocabulary.allow("certificate", (name,))
        self._expiry(name, expires_s)

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

"""Metrics: what is counted comes out, over processes and deaths, and nobody can make up a series."""

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ops.metrics import (
    BatchesDone,
    Metrics,
    MetricsInUse,
    RecorderMetrics,
    RequestDone,
    ScreenFacts,
    expose,
    forget_process,
    prepare_directory,
    serve_metrics,
)
from ops.metrics import page as page_module
from ops.metrics import store as store_module

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
METHODS = {INFER: "unary", STREAM: "bidi_stream"}
REASONS = ["TENSOR_INVALID", "RATE_LIMITED"]
DONE = RequestDone(INFER, 0, "kiosk", "1", "served", "OK", 1000, (("auth", 100), ("infer", 400)))

EVIDENCE = ScreenFacts(0.01, "AML.T0015", "enforce", 0.0094, 0.0076, 0.0115)


def metrics_in(directory, process="worker-0"):
    metrics = Metrics(directory, process, methods=METHODS, reasons=REASONS)
    metrics.serve_model("kiosk", "1", {"evidence": EVIDENCE})
    metrics.serve_classes(["interactive", "standard"])
    return metrics


@pytest.fixture
def metrics(tmp_path):
    metrics = metrics_in(tmp_path)
    yield metrics
    metrics.close()


def samples(directory):
    """{name: {frozenset of labels: value}} of the page."""
    found = defaultdict(dict)
    for family in text_string_to_metric_families(expose(directory).decode()):
        for sample in family.samples:
            found[sample.name][frozenset(sample.labels.items())] = sample.value
    return found


def value(directory, name, **labels):
    return samples(directory)[name].get(frozenset(labels.items()))


def test_every_name_of_the_interface_is_on_the_page(tmp_path, metrics):
    recorder = RecorderMetrics(tmp_path, "recorder", kinds=["served"])
    recorder.durable({"served": 1}, 1, 1.0)
    metrics.rpcs_started({INFER: 2})
    metrics.request_done(DONE)
    metrics.models.batches_done("kiosk", BatchesDone([1], {"interactive": 1}, {"interactive": 1.0}, 0))
    metrics.screens.judged("kiosk", "evidence", {"pass": 1}, [0.5])
    metrics.models.answered("kiosk", [0.9])
    metrics.auth_failed("api_key", "CREDENTIAL_INVALID")
    metrics.limits_decided({("standard", "admit"): 3})
    metrics.models.replicas("kiosk", "ready", 1)
    metrics.models.fallback_batches("kiosk", 1)
    metrics.policy("a" * 64)
    metrics.build("0.1.0")
    metrics.certificate("server", 1.0)
    families = {family.name for family in text_string_to_metric_families(expose(tmp_path).decode())}
    recorder.close()
    assert families == {
        "grpc_server_started",
        "grpc_server_handled",
        "grpc_server_handling_seconds",
        "stockade_requests",
        "stockade_request_duration_seconds",
        "stockade_inflight_requests",
        "stockade_queue_depth",
        "stockade_batch_rows",
        "stockade_rows",
        "stockade_auth_failures",
        "stockade_ratelimit_decisions",
        "stockade_screen_verdicts",
        "stockade_screen_pvalue",
        "stockade_screen_threshold",
        "stockade_screen_fpr_calibrated",
        "stockade_screen_fpr_calibrated_bound",
        "stockade_screen_info",
        "stockade_screen_fpr_observed",
        "stockade_audit_records",
        "stockade_audit_epoch",
        "stockade_audit_epochs_begun",
        "stockade_audit_epoch_changes_failed",
        "stockade_audit_epoch_due_timestamp_seconds",
        "stockade_audit_backlog_records",
        "stockade_audit_last_durable_timestamp_seconds",
        "stockade_audit_tree_size",
        "stockade_audit_checkpoint_timestamp_seconds",
        "stockade_audit_checkpoint_size",
        "stockade_audit_dropped",
        "stockade_inflight_ring_full",
        "stockade_trace_spans_dropped",
        "stockade_model_score",
        "stockade_compute_seconds",
        "stockade_cost_units",
        "stockade_replicas",
        "stockade_fallback_batches",
        "stockade_policy_info",
        "stockade_build_info",
        "stockade_cert_expiry_timestamp_seconds",
    }


def test_promtool_finds_nothing_wrong_with_the_page(tmp_path, metrics):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    metrics.request_done(DONE)
    metrics.policy("a" * 64)
    metrics.screens.judged("kiosk", "evidence", {"pass": 1}, [0.5])
    result = subprocess.run([promtool, "check", "metrics"], input=expose(tmp_path), capture_output=True, check=False)
    assert (result.returncode, result.stdout + result.stderr) == (0, b"")


def test_a_batch_is_counted_as_its_requests_would_be_one_by_one(tmp_path):
    batch = [DONE._replace(total_us=us, stages_us=(("queue", us // 2),)) for us in (99, 100, 101, 2500, 9_999_999)]
    batch.append(DONE._replace(code=3, outcome="refused", reason="TENSOR_INVALID", stages_us=()))
    batch.append(DONE._replace(method=""))
    for name in ("together", "apart"):
        metrics = metrics_in(tmp_path / name)
        for part in [batch] if name == "together" else [[done] for done in batch]:
            metrics.requests_done(part)
        metrics.close()
    together, apart = samples(tmp_path / "together"), samples(tmp_path / "apart")
    assert together.keys() == apart.keys()
    for name, series in together.items():
        assert series == pytest.approx(apart[name], rel=1e-12), name
    handled = {"grpc_type": "unary", "grpc_service": "inference.GRPCInferenceService", "grpc_method": "ModelInfer"}
    assert value(tmp_path / "apart", "grpc_server_handled_total", **handled, grpc_code="OK") == 5
    assert value(tmp_path / "apart", "grpc_server_handled_total", **handled, grpc_code="INVALID_ARGUMENT") == 1
    assert value(tmp_path / "apart", "grpc_server_handling_seconds_count", **handled) == 6


@pytest.mark.parametrize(("total_us", "bucket"), [(0, "0.0001"), (100, "0.0001"), (101, "0.00025"), (5_000_000, "5.0")])
def test_buckets_hold_at_their_bound_and_one_past(tmp_path, metrics, total_us, bucket):
    metrics.request_done(DONE._replace(total_us=total_us))
    buckets = samples(tmp_path)["stockade_request_duration_seconds_bucket"]
    total = {float(dict(key)["le"]): count for key, count in buckets.items() if ("stage", "total") in key}
    assert min(bound for bound, count in total.items() if count == 1) == float(bucket)
    spent = value(tmp_path, "stockade_request_duration_seconds_sum", model="kiosk", stage="total")
    assert spent == pytest.approx(total_us / 1e6)


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=40))
def test_a_histogram_agrees_with_the_librarys(values):
    """Our way of counting many at once against prometheus_client's observe, bucket by bucket."""
    from prometheus_client import CollectorRegistry, Histogram

    from ops.metrics.gateway import MICRO, SECONDS

    theirs = Histogram("h", "h", registry=CollectorRegistry(), buckets=SECONDS)
    cells = [Number() for _ in range(len(SECONDS) + 1)]
    total = Number()
    ours = store_module.HistogramCells([round(bound / MICRO) for bound in SECONDS], cells, total, MICRO)
    ours.observe(values)
    for one in values:
        theirs.observe(one * MICRO)
    expected = [sample.value for sample in theirs.collect()[0].samples if sample.name == "h_bucket"]
    seen, running = [], 0
    for cell in cells:
        running += cell.value
        seen.append(running)
    assert seen == expected
    assert total.value == pytest.approx(sum(values) * MICRO)


class Number:
    """Stands where a cell does, outside any file."""

    value = 0.0

    def add(self, amount):
        self.value += amount


def test_the_library_reads_and_adds_what_we_write_to_what_it_wrote(tmp_path, metrics):
    """A process with prometheus_client's own multiprocess mode beside ours: one page, one sum."""
    code = """
import prometheus_client as p
c = p.Counter("stockade_rows_total", "Rows that a model ran.", ["model"]); c.labels("kiosk").inc(5)
h = p.Histogram("stockade_batch_rows", "Rows in a batch.", ["model"], buckets=[2 ** i for i in range(11)])
h.labels("kiosk").observe(5)
"""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    metrics.models.batches_done("kiosk", BatchesDone([7], {"interactive": 7}, {"interactive": 1.0}, 0))
    assert value(tmp_path, "stockade_rows_total", model="kiosk") == 12
    assert value(tmp_path, "stockade_batch_rows_bucket", model="kiosk", le="8.0") == 2
    assert value(tmp_path, "stockade_batch_rows_sum", model="kiosk") == 12


WRITER = """
import sys, time
from pathlib import Path
from ops.metrics import Metrics, RequestDone
m = Metrics(Path(sys.argv[1]), sys.argv[2], methods={"/inference.GRPCInferenceService/ModelInfer": "unary"}, reasons=[])
m.serve_model("kiosk", "1", {})
for _ in range(int(sys.argv[3])):
    m.request_done(RequestDone("/inference.GRPCInferenceService/ModelInfer", 0, "kiosk", "1", "served", "OK", 5, ()))
m.inflight(4)
print("counted", flush=True)
sys.stdin.read()
"""


def start_writer(directory, process, count):
    command = [sys.executable, "-c", WRITER, str(directory), process, str(count)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"counted\n"
    return child


def served(directory):
    return value(directory, "stockade_requests_total", model="kiosk", version="1", outcome="served", reason="OK")


def test_one_scrape_is_the_sum_of_all_processes_and_a_killed_ones_counts_stay(tmp_path):
    children = [start_writer(tmp_path, "worker-0", 3), start_writer(tmp_path, "worker-1", 4)]
    assert served(tmp_path) == 7
    assert value(tmp_path, "stockade_inflight_requests") == 8
    children[0].send_signal(signal.SIGKILL)
    children[0].wait()
    forget_process(tmp_path, "worker-0")
    assert served(tmp_path) == 7
    assert value(tmp_path, "stockade_inflight_requests") == 4
    children[0].communicate()
    children.append(start_writer(tmp_path, "worker-0", 5))  # its successor goes on from there, in the same files
    assert served(tmp_path) == 12
    assert len(list(tmp_path.glob("counter_*.db"))) == 2
    for child in children[1:]:
        child.communicate(b"")
    prepare_directory(tmp_path, keep={"worker-1"})
    assert served(tmp_path) == 4
    prepare_directory(tmp_path)
    assert expose(tmp_path) == b""


def test_a_live_processs_name_cannot_be_taken(tmp_path, metrics):
    with pytest.raises(MetricsInUse) as in_use:
        metrics_in(tmp_path)
    assert in_use.value.process == "worker-0"
    metrics.close()
    metrics_in(tmp_path).close()


@pytest.mark.parametrize("process", ["", "worker_0", "../worker", "w" * 65, "w\n"])
def test_a_name_that_is_none(tmp_path, process):
    with pytest.raises(ValueError, match="cannot name a process"):
        metrics_in(tmp_path, process)
    assert list(tmp_path.iterdir()) == []


def test_no_client_can_make_up_a_series(tmp_path, metrics):
    metrics.request_done(DONE)
    before = {name: len(found) for name, found in samples(tmp_path).items()}
    for index in range(100):
        made_up = f"made-up-{index}"
        metrics.rpcs_started({f"/{made_up}/x": 1})
        metrics.request_done(DONE._replace(model=made_up, version=made_up, outcome=made_up, reason=made_up))
        metrics.models.batches_done(made_up, BatchesDone([1], {made_up: 1}, {made_up: 1.0}, 0))
        metrics.screens.judged(made_up, made_up, {made_up: 1}, [0.5])
        assert len(metrics.screens._observed) == 1
        metrics.auth_failed(made_up, made_up)
        metrics.limits_decided({(made_up, made_up): 1})
    assert b"made-up" not in expose(tmp_path)
    after = {name: len(found) for name, found in samples(tmp_path).items()}
    for name, count in after.items():
        most = 3 * 16 if name.endswith("_bucket") else 3  # "other" in three stages, however many were tried
        assert count - before.get(name, 0) <= most, name
    assert (
        value(tmp_path, "stockade_requests_total", model="other", version="other", outcome="other", reason="other")
        == 100
    )


def test_a_label_has_at_most_so_many_values(tmp_path):
    vocabulary = store_module.Vocabulary()
    limit = store_module.VALUES_PER_LABEL_MAX
    vocabulary.allow("model", (f"m{index}" for index in range(limit)))
    assert vocabulary.word("model", f"m{limit - 2}") == f"m{limit - 2}"
    assert vocabulary.word("model", f"m{limit - 1}") == "other"


def test_a_batch_shares_its_time_and_cost_among_classes(tmp_path, metrics):
    metrics.models.batches_done(
        "kiosk", BatchesDone([4], {"interactive": 6, "standard": 2}, {"interactive": 3000.0, "standard": 1000.0}, 9)
    )
    for name, interactive, standard in (
        ("stockade_compute_seconds_total", 0.003, 0.001),
        ("stockade_cost_units_total", 6, 2),
    ):
        assert value(tmp_path, name, model="kiosk", tenant_class="interactive") == pytest.approx(interactive)
        assert value(tmp_path, name, model="kiosk", tenant_class="standard") == pytest.approx(standard)
    assert value(tmp_path, "stockade_queue_depth", model="kiosk") == 9
    assert value(tmp_path, "stockade_batch_rows_bucket", model="kiosk", le="4.0") == 1
    assert value(tmp_path, "stockade_batch_rows_bucket", model="kiosk", le="2.0") == 0


def test_screens(tmp_path, metrics):
    assert value(tmp_path, "stockade_screen_threshold", model="kiosk", screen="evidence") == 0.01
    assert value(tmp_path, "stockade_screen_fpr_calibrated", model="kiosk", screen="evidence") == 0.0094
    assert value(tmp_path, "stockade_screen_fpr_observed", model="kiosk", screen="evidence") is None
    metrics.screens.judged(
        "kiosk", "evidence", {"pass": 96, "flag": 3, "refuse": 1}, [0.5] * 96 + [0.01] * 3 + [0.0005]
    )
    assert value(tmp_path, "stockade_screen_fpr_observed", model="kiosk", screen="evidence") == 0.04
    assert value(tmp_path, "stockade_screen_pvalue_bucket", model="kiosk", screen="evidence", le="0.01") == 4
    assert value(tmp_path, "stockade_screen_pvalue_bucket", model="kiosk", screen="evidence", le="0.0005") == 1


def observed(directory):
    return value(directory, "stockade_screen_fpr_observed", model="kiosk", screen="evidence")


def test_the_observed_share_is_that_of_the_last_rows(tmp_path, metrics):
    def judged(flagged, rows):
        metrics.screens.judged("kiosk", "evidence", {"pass": rows - flagged, "flag": flagged}, [0.5] * rows)

    judged(500, 1000)
    assert observed(tmp_path) == 0.5
    judged(0, 9000)  # exactly as many as are remembered
    assert observed(tmp_path) == 500 / 10_000
    judged(1, 999)  # one short of what pushes the first batch out
    assert observed(tmp_path) == 501 / 10_999
    judged(0, 1)
    assert observed(tmp_path) == 1 / 10_000
    judged(30_000, 30_000)
    assert observed(tmp_path) == 1


def test_the_observed_share_of_a_host_is_that_of_its_worst_worker(tmp_path, metrics):
    other = metrics_in(tmp_path, "worker-1")
    metrics.screens.judged("kiosk", "evidence", {"pass": 3, "refuse": 1}, [0.5] * 4)
    other.screens.judged("kiosk", "evidence", {"pass": 4}, [0.5] * 4)
    assert observed(tmp_path) == 0.25
    other.close()


def test_a_rate_that_was_not_measured_is_not_shown_and_a_new_level_is(tmp_path):
    metrics = Metrics(tmp_path, "worker-0", methods=METHODS, reasons=REASONS)
    metrics.serve_model("kiosk", "1", {"evidence": ScreenFacts(0.2, "AML.T0015", "shadow", fpr_low=0.04)})
    assert value(tmp_path, "stockade_screen_fpr_calibrated", model="kiosk", screen="evidence") is None
    assert bounds(tmp_path) == {"low": 0.04}
    metrics.serve_model("kiosk", "1", {"evidence": ScreenFacts(0.01, "AML.T0015", "shadow", 0.0063, 0.0048, 0.0081)})
    assert bounds(tmp_path) == {"low": 0.0048, "high": 0.0081}
    assert value(tmp_path, "stockade_screen_threshold", model="kiosk", screen="evidence") == 0.01
    assert value(tmp_path, "stockade_screen_fpr_calibrated", model="kiosk", screen="evidence") == 0.0063
    metrics.close()


def bounds(directory):
    found = samples(directory)["stockade_screen_fpr_calibrated_bound"]
    return {dict(labels)["bound"]: rate for labels, rate in found.items()}


def test_a_screen_is_shown_with_its_technique_and_only_the_mode_in_force(tmp_path, metrics):
    other = metrics_in(tmp_path, "worker-1")
    named = {"model": "kiosk", "screen": "evidence", "technique": "AML.T0015"}
    assert samples(tmp_path)["stockade_screen_info"] == {frozenset({**named, "mode": "enforce"}.items()): 1}
    for worker in (metrics, other):
        worker.serve_model("kiosk", "1", {"evidence": EVIDENCE._replace(mode="shadow")})
    assert samples(tmp_path)["stockade_screen_info"] == {frozenset({**named, "mode": "shadow"}.items()): 1}
    other.close()


@pytest.mark.parametrize(
    ("count", "name"),
    [
        ("audit_dropped", "stockade_audit_dropped_total"),
        ("ring_full", "stockade_inflight_ring_full_total"),
        ("spans_dropped", "stockade_trace_spans_dropped_total"),
    ],
)
def test_what_must_not_happen_is_there_before_it_does(tmp_path, metrics, count, name):
    assert value(tmp_path, name) == 0  # an alert can see it rise
    getattr(metrics, count)(2)
    getattr(metrics, count)(1)
    assert value(tmp_path, name) == 3


def test_only_the_policy_in_force_is_shown_with_how_many_workers_use_it(tmp_path, metrics):
    other = metrics_in(tmp_path, "worker-1")
    metrics.policy("a" * 64)
    other.policy("a" * 64)
    assert value(tmp_path, "stockade_policy_info", digest="a" * 64) == 2
    metrics.policy("b" * 64)
    assert value(tmp_path, "stockade_policy_info", digest="a" * 64) == 1
    other.policy("b" * 64)
    assert samples(tmp_path)["stockade_policy_info"] == {frozenset({("digest", "b" * 64)}): 2}
    other.close()


def test_the_policy_in_force_is_named_however_many_there_were(tmp_path, metrics, monkeypatch):
    monkeypatch.setattr(store_module, "VALUES_PER_LABEL_MAX", 3)
    for number in range(5):
        metrics.policy(f"{number:064x}")
        assert samples(tmp_path)["stockade_policy_info"] == {frozenset({("digest", f"{number:064x}")}): 1}
    metrics.policy(f"{4:064x}")  # loaded again
    assert samples(tmp_path)["stockade_policy_info"] == {frozenset({("digest", f"{4:064x}")}): 1}
    metrics.policy(f"{0:064x}")  # and back to the first one
    assert samples(tmp_path)["stockade_policy_info"] == {frozenset({("digest", f"{0:064x}")}): 1}


def test_the_earliest_expiry_of_a_certificate_counts(tmp_path, metrics):
    other = metrics_in(tmp_path, "worker-1")
    metrics.certificate("server", 2000.0)
    other.certificate("server", 1000.0)
    assert value(tmp_path, "stockade_cert_expiry_timestamp_seconds", certificate="server") == 1000.0
    other.close()


def test_the_recorder(tmp_path):
    recorder = RecorderMetrics(tmp_path, "recorder", kinds=["served", "refused"])
    recorder.durable({"served": 3, "refused": 1}, 4, 1000.5)
    recorder.durable({"served": 1}, 5, 1001.5)
    assert value(tmp_path, "stockade_audit_records_total", kind="served") == 4
    assert value(tmp_path, "stockade_audit_tree_size") == 5
    assert value(tmp_path, "stockade_audit_last_durable_timestamp_seconds") == 1001.5
    recorder.published(4, 1000.75)
    recorder.close()
    forget_process(tmp_path, "recorder")
    # These stay, and grow old: that alerts.
    assert value(tmp_path, "stockade_audit_last_durable_timestamp_seconds") == 1001.5
    assert value(tmp_path, "stockade_audit_checkpoint_timestamp_seconds") == 1000.75
    assert value(tmp_path, "stockade_audit_checkpoint_size") == 4


def test_a_process_killed_before_its_file_had_a_size_does_not_blind_the_page(tmp_path, metrics):
    metrics.request_done(DONE)
    (tmp_path / "counter_worker-9.db").touch()
    assert served(tmp_path) == 1


def test_threads_lose_nothing(tmp_path, metrics):
    def count():
        for _ in range(300):
            metrics.requests_done([DONE, DONE])

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served(tmp_path) == 2400


@pytest.fixture
def page(tmp_path, metrics):
    state = {"health": True, "ready": False}
    running = serve_metrics("127.0.0.1", 0, tmp_path, lambda: state["health"], lambda: state["ready"])
    running.state = state
    yield running
    running.close()


def get(page, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def test_the_page_over_http(page, tmp_path):
    response, body = get(page, "/metrics?x=1")
    assert (response.status, body) == (200, expose(tmp_path))
    assert response.getheader("Content-Type").startswith("text/plain; version=0.0.4")
    assert "Python" not in response.getheader("Server")
    response, body = get(page, "/metrics", "HEAD")
    assert (response.status, body) == (200, b"")
    assert get(page, "/")[0].status == 404
    assert get(page, "/../etc/passwd")[0].status == 404
    assert get(page, "/metrics", "POST")[0].status == 501


def test_health_and_readiness_are_asked_each_time(page):
    assert (get(page, "/healthz")[0].status, get(page, "/readyz")[0].status) == (200, 503)
    page.state.update(health=False, ready=True)
    assert (get(page, "/healthz")[0].status, get(page, "/readyz")[0].status) == (503, 200)


def test_connections_are_bounded_and_come_back(page, monkeypatch):
    idle = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(page_module.CONNECTIONS_MAX)]
    for connection in idle:  # a first byte each, so that all of them are surely being served
        connection.sendall(b"G")
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as one_more:
        assert one_more.recv(1) == b""  # hung up on
    for connection in idle:
        connection.sendall(b"ET /healthz HTTP/1.0\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"200"
        connection.close()
    assert eventually_served(page)


def eventually_served(page):
    for _ in range(1000):  # the last of the sixteen gives its place back after it has hung up
        try:
            return get(page, "/healthz")[0].status == 200
        except (ConnectionError, http.client.HTTPException):
            continue
    return False


def test_a_slow_client_is_hung_up_on(page, monkeypatch):
    monkeypatch.setattr(page.RequestHandlerClass, "timeout", 0.05)
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as slow:
        slow.sendall(b"GET /met")
        assert slow.recv(1) == b""


def test_buckets_reach_down_to_a_hundred_microseconds(tmp_path, metrics):
    bounds = re.findall(
        rb'stockade_request_duration_seconds_bucket\{le="([^"]+)",model="kiosk",stage="infer"\}', expose(tmp_path)
    )
    in_seconds = "0.0001 0.00025 0.0005 0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 2.5 5.0 +Inf"
    assert b" ".join(bounds).decode() == in_seconds

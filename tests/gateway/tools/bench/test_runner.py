import os
import sys
from dataclasses import replace

import grpc
import pytest

from gateway.tools.bench import load as h2load
from gateway.tools.bench.load import (
    FRAME_HEADER_BYTES,
    Endpoint,
    H2loadReport,
    InFlight,
    echo_reply,
    load_of,
)
from gateway.tools.bench.machine import ProcessTree, free_ports, h2load_missing
from gateway.tools.bench.peers import script
from gateway.tools.bench.runner import (
    Launch,
    NotMeasured,
    Running,
    StartFailed,
    parse_handled,
    probe,
    require_answers,
    run_checked,
    running,
)
from gateway.tools.bench.serve import measure

needs_h2load = pytest.mark.skipif(h2load_missing() is not None, reason=str(h2load_missing()))

REPLY_BYTES = 100
GOOD = H2loadReport(
    seconds=1.0,
    requests_per_s=1000.0,
    done=1000,
    succeeded=1000,
    failed=0,
    errored=0,
    timeout=0,
    data_bytes=1000 * (REPLY_BYTES + FRAME_HEADER_BYTES),
)


def test_a_run_in_which_everything_was_answered_counts():
    require_answers(GOOD, REPLY_BYTES, {})
    require_answers(GOOD, REPLY_BYTES, {"OK": 1000, "CANCELLED": 12, "UNAVAILABLE": 0})
    require_answers(replace(GOOD, data_bytes=999 * 105), REPLY_BYTES, {})


@pytest.mark.parametrize(
    ("report", "handled", "problem"),
    [
        (replace(GOOD, failed=1), {}, "1 of them failed"),
        (replace(GOOD, errored=1), {}, "1 of them failed"),
        (replace(GOOD, timeout=1), {}, "1 of them failed"),
        (replace(GOOD, succeeded=999), {}, "999 with HTTP status 200"),
        (replace(GOOD, done=0, succeeded=0), {}, "0 requests done"),
        (replace(GOOD, data_bytes=998 * 105), {}, "those of 998 replies"),
        (GOOD, {"OK": 999}, "the server counts"),
        (GOOD, {"OK": 1000, "RESOURCE_EXHAUSTED": 1}, "the server counts"),
    ],
)
def test_a_run_in_which_anything_was_not_answered_does_not_count(report, handled, problem):
    with pytest.raises(NotMeasured, match=problem):
        require_answers(report, REPLY_BYTES, handled)


def refuse(_request, context):
    context.abort(grpc.StatusCode.UNAVAILABLE, "busy")


def answer(_request, _context):
    return echo_reply()


@needs_h2load
def test_refusals_are_never_throughput(serving, tmp_path, request_bytes):
    endpoint = serving(refuse)
    server = Running(endpoint, ProcessTree(os.getpid()), len(echo_reply()))
    command = h2load.fixed_count(load_of(endpoint, request_bytes, tmp_path), InFlight(1, 4), 50)
    with pytest.raises(NotMeasured, match="50 requests done, but the bytes received are those of 0 replies"):
        run_checked(server, command, 20)


@needs_h2load
def test_a_cell_has_all_its_figures(serving, tmp_path, request_bytes):
    endpoint = serving(answer)
    reply = probe(endpoint, request_bytes)
    server = Running(endpoint, ProcessTree(os.getpid()), len(reply))
    cell = measure(server, load_of(endpoint, request_bytes, tmp_path), InFlight(2, 4), 0.4)
    assert cell.rps > 0
    assert 0 < cell.p50_ms <= cell.p99_ms
    assert 0 < cell.half_load_p50_ms <= cell.half_load_p99_ms
    assert 0 < cell.half_load_rps < cell.rps


def test_a_probe_reads_what_it_gets(serving, request_bytes):
    with pytest.raises(grpc.RpcError, match="busy"):
        probe(serving(refuse), request_bytes)


METRICS = """\
# HELP grpc_server_handled_total Calls that ended, by status.
# TYPE grpc_server_handled_total counter
grpc_server_handled_total{grpc_code="OK",grpc_method="ModelInfer",grpc_service="s",grpc_type="unary"} 1234.0
grpc_server_handled_total{grpc_service="s",grpc_method="ModelInfer",grpc_code="OK",grpc_type="unary"} 1.0
grpc_server_handled_total{grpc_code="UNAVAILABLE",grpc_method="ModelInfer",grpc_service="s",grpc_type="unary"} 5.0
grpc_server_handled_total{grpc_code="OK",grpc_method="ModelReady",grpc_service="s",grpc_type="unary"} 7.0
grpc_server_started_total{grpc_code="OK",grpc_method="ModelInfer",grpc_service="s",grpc_type="unary"} 9.0
"""


@pytest.mark.parametrize(("page", "counts"), [(METRICS, {"OK": 1235, "UNAVAILABLE": 5}), ("", {})])
def test_predictions_are_counted_by_status_whatever_the_order_of_the_labels(page, counts):
    assert parse_handled(page) == counts


@pytest.fixture
def echo(tmp_path):
    (port,) = free_ports(1)
    reply = tmp_path / "reply"
    reply.write_bytes(echo_reply())
    command = [sys.executable, str(script("echo.py")), "--port", str(port), "--reply", str(reply)]
    return Launch(command, Endpoint(port), tmp_path / "echo")


def test_a_server_runs_until_the_end_of_the_block_and_no_longer_also_when_it_raises(echo, request_bytes):
    def look_and_raise():
        with running(echo, request_bytes) as server:
            pids.extend(server.tree.living())
            assert server.reply_bytes == len(echo_reply())
            assert [os.getpgid(pid) for pid in pids] == pids != [os.getpgid(0)]
            raise KeyError

    pids = []
    with pytest.raises(KeyError):
        look_and_raise()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_what_a_server_leaves_behind_is_stopped_too(echo, request_bytes, tmp_path):
    daemon = "subprocess.Popen(['sleep', '600'], start_new_session=True)"
    become = f"os.execv({sys.executable!r}, {list(echo.command)!r})"
    command = [sys.executable, "-c", f"import os, subprocess; {daemon}; {become}"]
    launch = Launch(command, echo.endpoint, tmp_path / "daemon")
    with running(launch, request_bytes) as server:
        assert len(server.tree.living()) == 2
    assert server.tree.living() == {}


@pytest.mark.parametrize(
    ("command", "changes", "tail"),
    [
        ([sys.executable, "-c", "import sys; sys.exit('no such model')"], {"attempts": 2}, ["no such model"] * 2),
        (["sleep", "600"], {"start_seconds_max": 0.3}, []),
        (None, {"start_seconds_max": 3.0}, []),
    ],
    ids=["it ends at once", "it never answers", "it answers with something else"],
)
def test_a_server_that_does_not_answer_has_failed_and_says_why(echo, request_bytes, command, changes, tail):
    (echo.directory.parent / "reply").write_bytes(b"not a prediction")
    launch = Launch(command or echo.command, echo.endpoint, echo.directory, **changes)
    with pytest.raises(StartFailed, match="did not answer") as caught, running(launch, request_bytes):
        pass
    assert caught.value.log_tail.splitlines() == tail

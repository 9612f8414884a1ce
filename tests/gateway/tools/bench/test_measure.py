import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest

from gateway.tools.bench import h2load
from gateway.tools.bench.frame import FRAME_HEADER_BYTES, METHOD, echo_reply, framed, image_request
from gateway.tools.bench.h2load import H2loadReport, InFlight, Load
from gateway.tools.bench.measure import NotServed, measure, require_answers, run_checked
from gateway.tools.bench.procfs import ProcessTree
from gateway.tools.bench.running import Endpoint, Running, probe

needs_h2load = pytest.mark.skipif(h2load.missing() is not None, reason=str(h2load.missing()))

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
    with pytest.raises(NotServed, match=problem):
        require_answers(report, REPLY_BYTES, handled)


def refuse(_request, context):
    context.abort(grpc.StatusCode.UNAVAILABLE, "busy")


def answer(_request, _context):
    return echo_reply("kiosk")


@pytest.fixture
def serving():
    """Serve one behaviour on a free port of loopback, in this process."""
    servers = []

    def start(behaviour):
        server = grpc.server(ThreadPoolExecutor(2))
        handler = grpc.unary_unary_rpc_method_handler(behaviour)
        service, method = METHOD[1:].split("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return Endpoint(port)

    yield start
    for server in servers:
        server.stop(None).wait()


@pytest.fixture
def request_file(tmp_path, image):
    body = tmp_path / "body"
    body.write_bytes(framed(image_request("kiosk", image)))
    return body


@needs_h2load
def test_refusals_are_never_throughput(serving, request_file, tmp_path):
    endpoint = serving(refuse)
    server = Running(endpoint, ProcessTree(os.getpid()), len(echo_reply("kiosk")))
    command = h2load.fixed_count(Load(endpoint.url, request_file), InFlight(1, 4), 50, tmp_path / "log")
    with pytest.raises(NotServed, match="50 requests done, but the bytes received are those of 0 replies"):
        run_checked(server, command, 20)


@needs_h2load
def test_a_cell_has_all_its_figures(serving, request_file, tmp_path, image):
    endpoint = serving(answer)
    reply = probe(endpoint, image_request("kiosk", image))
    server = Running(endpoint, ProcessTree(os.getpid()), len(reply))
    cell = measure(server, Load(endpoint.url, request_file), InFlight(2, 4), 0.4, tmp_path)
    assert cell.rps > 0
    assert 0 < cell.p50_ms <= cell.p99_ms
    assert 0 < cell.half_load_p50_ms <= cell.half_load_p99_ms
    assert 0 < cell.half_load_rps < cell.rps


def test_a_probe_reads_what_it_gets(serving, image):
    with pytest.raises(grpc.RpcError, match="busy"):
        probe(serving(refuse), image_request("kiosk", image))

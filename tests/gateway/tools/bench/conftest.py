import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from gateway.cli.main import main
from gateway.tools.bench.load import METHOD, Endpoint, image_request


@pytest.fixture
def request_bytes():
    return image_request(np.linspace(0, 1, 784, dtype=np.float32).reshape(28, 28))


@pytest.fixture
def bench():
    """Run a verb of `stockade bench` in this process; returns its exit code."""

    def run(*words):
        return main(["bench", *words])

    return run


@pytest.fixture
def measured(tmp_path):
    """Run a verb in a process of its own, which may enter another network; returns its report and what it prints."""

    def run(*words):
        report = tmp_path / "out" / "report.json"
        command = [sys.executable, "-m", "gateway", "bench", *words, "--report", str(report)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(report.read_text()), done.stdout

    return run


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

"""Text through a real MLServer and a real Triton: no prediction, and adopted by what the server itself says."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gateway.cli.main import main
from gateway.models.upstream import UpstreamEngine
from gateway.tools.bench import peers
from gateway.tools.bench.machine import ProcessTree, free_pair
from serving.bundles.bundle import load_bundle
from tests.e2e.running import until
from tests.gateway.oip_server import settings

SERVERS = Path(__file__).parent / "servers"
START_S = 90.0
WORDS = [b"shop", "gr\u00fc\u00df".encode(), b"a", b"words " * 50, b"b", b"c", b"d", b"e", b"f"]


@pytest.fixture(scope="module", params=["mlserver", "triton"])
def name(request):
    if problem := peers.missing(peers.default_root(), request.param):
        pytest.skip(problem)
    return request.param


@pytest.fixture(scope="module")
def address(name, tmp_path_factory):
    directory = tmp_path_factory.mktemp(name)
    port = free_pair()
    python = peers.interpreter(peers.default_root(), name)
    command = [str(python), str(SERVERS / f"{name}_text.py"), str(port), str(directory / "server")]
    environment = os.environ | {"HOME": str(directory), "LD_LIBRARY_PATH": peers.library_path()}
    with (directory / "output.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    tree = ProcessTree(process.pid)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        for pid in tree.living():
            os.kill(pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def bundle(address, tmp_path_factory):
    """As soon as the server is there: it says everything that is needed."""
    place = tmp_path_factory.mktemp("bundles")
    where = ["--out", str(place / "bundles"), "--signing-key", str(place / "own.key")]
    command = ["models", "adopt", "--server", address, "--model", "text", "--as", "text/1", *where]
    until(lambda: main(command) == 0, "it could not be adopted", START_S)
    return load_bundle(place / "bundles/text/1", [place / "own.pub"])


def test_what_the_server_says(bundle, name):
    assert [(spec.name, spec.datatype, spec.shape) for spec in (*bundle.inputs, *bundle.outputs)] == [
        ("words", "BYTES", (-1, 1)),
        ("upper", "BYTES", (-1, 1)),
        ("length", "INT64", (-1, 1)),
    ]
    assert bundle.manifest["upstream"]["rows_max"] == {"mlserver": 0, "triton": 4}[name]


def test_words_go_there_and_come_back(bundle, address):
    words = np.array([[word] for word in WORDS], object)
    engine = UpstreamEngine(bundle, settings(address))
    try:
        answer = engine.infer({"words": words})
    finally:
        engine.close()
    assert answer["upper"].tolist() == [[word.decode().upper().encode()] for word in WORDS]
    assert answer["length"].tolist() == [[len(word.decode())] for word in WORDS]

"""The clients people have, unmodified, each in its own environment, against a gateway over TLS."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.e2e import clients
from tests.e2e.caller import images, labels
from tests.e2e.running import Running

PROGRAMS = Path(__file__).parent / "client_programs"
CLIENT_S = 120
WRONG_SHAPE = "[TENSOR_INVALID] The request does not fit the model: inputs[0].shape"
MISSING = "[CREDENTIAL_MISSING] A credential is required."


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.npy"
    np.save(path, images()[:1])
    return path


def run(client: str, script: str, *arguments: str | Path) -> dict:
    command = [clients.program(client), PROGRAMS / script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_S, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def ca(stand: Running) -> Path:
    return stand.site.directory / "tls/ca.crt"


@pytest.mark.parametrize(("client", "version"), [("tritonclient-2.41", "2.41."), ("tritonclient", "2.")])
def test_tritonclient(stand, image, client, version):
    key_id, _, secret = stand.site.keys["plenty"].partition(".")
    saw = run(client, "triton.py", stand.facts["data"], ca(stand), key_id, secret, image)
    assert saw["version"].startswith(version)
    assert saw["server"] == ["stockade", True, True]
    assert saw["model"] == ["kiosk", ["1"], "FP32", [-1, 28, 28]]
    assert saw["ready"] is True
    assert saw["config"] == "kiosk"
    assert saw["class"] == saw["basic"] == labels()[0]
    assert saw["id"] == "t-1"
    assert saw["outputs"] == ["probabilities"]
    assert len(saw["ranked"]) == 2
    assert saw["ranked"][0].split(":")[1] == str(labels()[0])
    assert saw["wrong shape"].startswith(f"StatusCode.INVALID_ARGUMENT {WRONG_SHAPE}")
    assert saw["no key"].startswith(f"StatusCode.UNAUTHENTICATED {MISSING}")
    assert saw["stream"][:8] == [f"s-{number}" for number in range(8)]
    assert saw["stream"][8].startswith(WRONG_SHAPE)
    assert saw["stream"][9] == "s-last"


def test_kserve(stand, image):
    saw = run("kserve", "kserve_client.py", stand.facts["data"], ca(stand), stand.site.keys["plenty"], image)
    assert (saw["live"], saw["ready"], saw["model ready"]) == (True, True, True)
    assert (saw["id"], saw["class"]) == ("k-1", labels()[0])
    assert saw["wrong shape"].startswith(f"INVALID_ARGUMENT {WRONG_SHAPE}")
    assert saw["no key"].startswith(f"UNAUTHENTICATED {MISSING}")


@pytest.mark.parametrize("client", ["tritonclient-2.41", "tritonclient"])
def test_tritonclient_takes_a_model_out_of_service_and_back(stand, client):
    saw = run(client, "triton_control.py", stand.facts["data"], ca(stand), stand.site.keys["rival"], "tiny")
    assert saw["before"] == {"tiny/1": "READY"}
    assert saw["unloaded"] == [{"tiny/1": "UNAVAILABLE"}, False]
    assert saw["loaded"] == [{"tiny/1": "READY"}, True]
    assert saw["pushed"].startswith("StatusCode.INVALID_ARGUMENT [ARGUMENT_INVALID]")


def test_kserve_takes_a_model_out_of_service_and_back(stand):
    saw = run("kserve", "kserve_control.py", stand.facts["data"], ca(stand), stand.site.keys["rival"], "tiny")
    assert saw == {"unloaded": ["tiny", True, False], "loaded": ["tiny", True, True]}


def test_mlserver_stubs(stand, image):
    saw = run("mlserver", "mlserver_stubs.py", stand.facts["data"], ca(stand), stand.site.keys["plenty"], image)
    assert (saw["server"], saw["ready"], saw["model"]) == ("stockade", True, ["kiosk", ["1"], "image"])
    assert saw["id"] == "m-1"
    assert "probabilities" in saw["outputs"]
    assert saw["wrong shape"].startswith(f"INVALID_ARGUMENT {WRONG_SHAPE}")
    assert saw["no key"].startswith(f"UNAUTHENTICATED {MISSING}")
    assert saw["stream"] == ["m-1"] * 3
    assert saw["broken stream"].startswith(f"INVALID_ARGUMENT {WRONG_SHAPE}")


def grpcurl(stand: Running, *arguments: str, headers: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """One call of grpcurl, which learns everything about the gateway through reflection."""
    named = [part for header in headers for part in ("-H", header)]
    command = [clients.program("grpcurl", "grpcurl"), "-cacert", ca(stand), *named, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_S, check=False)


def test_grpcurl(stand, image):
    bearer = (f"authorization: Bearer {stand.site.keys['plenty']}",)
    address = stand.facts["data"]
    listed = grpcurl(stand, address, "list", headers=bearer)
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(listed.stdout.split())
    described = grpcurl(stand, address, "describe", "inference.ModelInferRequest", headers=bearer)
    assert "raw_input_contents" in described.stdout
    health = grpcurl(stand, address, "grpc.health.v1.Health/Check", headers=bearer)
    assert json.loads(health.stdout) == {"status": "SERVING"}
    raw = base64.b64encode(images()[:1].tobytes()).decode()
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 28, 28]}
    body = json.dumps({"modelName": "kiosk", "id": "g-1", "inputs": [tensor], "rawInputContents": [raw]})
    method = "inference.GRPCInferenceService/ModelInfer"
    answer = grpcurl(stand, "-d", body, address, method, headers=bearer)
    assert json.loads(answer.stdout)["id"] == "g-1", answer.stderr
    streamed = grpcurl(
        stand, "-d", body + body, address, "inference.GRPCInferenceService/ModelStreamInfer", headers=bearer
    )
    assert streamed.stdout.count('"g-1"') == 2, streamed.stderr


def test_grpcurl_is_shown_why_it_was_refused(stand):
    refused = grpcurl(stand, stand.facts["data"], "list")
    assert refused.returncode != 0
    assert "[CREDENTIAL_MISSING]" in refused.stderr
    headers = (f"authorization: Bearer {stand.site.keys['plenty']}",)
    malformed = grpcurl(
        stand,
        "-d",
        '{"model_name": "none"}',
        stand.facts["data"],
        "inference.GRPCInferenceService/ModelInfer",
        headers=headers,
    )
    assert "Code: NotFound" in malformed.stderr
    assert "[MODEL_UNKNOWN]" in malformed.stderr

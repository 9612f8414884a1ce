"""`stockade models adopt`: what a server says becomes a signed bundle, or a sentence that says what to do."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import onnx.utils
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.cli.main import main
from gateway.models.upstream import UpstreamEngine
from gateway.tools.registry.adopt import declared
from serving.bundles.bundle import load_bundle
from serving.bundles.manifest import TensorSpec
from serving.train.pack import tensor_bytes
from stockade.open_inference import grpc_service_pb2 as pb
from tests.gateway.oip_server import OipServer, settings
from tests.serving.tiny import CLASSES, tiny_graph


def said(*, versions=("3",), inputs=(("image", "FP32", [-1, 28, 28]),), outputs=(("probabilities", "FP32", [-1, 3]),)):
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name="kiosk",
        versions=versions,
        platform="python",
        inputs=[tensor(name=name, datatype=datatype, shape=shape) for name, datatype, shape in inputs],
        outputs=[tensor(name=name, datatype=datatype, shape=shape) for name, datatype, shape in outputs],
    )


def model(inputs):
    return {"probabilities": np.full((len(inputs["image"]), CLASSES), 0.5, np.float32)}


@pytest.fixture
def serving():
    with contextlib.ExitStack() as stack:

        def start(described, **more):
            server = OipServer(model, described=described, **more)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def adopt(tmp_path, capsys):
    def run(address, *more, name="kiosk"):
        place = ["--out", str(tmp_path / "bundles"), "--signing-key", str(tmp_path / "keys/bundles.key")]
        command = ["models", "adopt", "--server", address, "--model", name, *place, *more]
        code = main(command)
        written = capsys.readouterr()
        return code, written.out, " ".join(written.err.split())

    return run


@pytest.fixture
def load(tmp_path):
    def read(name="kiosk", version="3"):
        return load_bundle(tmp_path / "bundles" / name / version, [tmp_path / "keys/bundles.pub"])

    return read


def test_what_the_server_says_becomes_a_signed_bundle_that_serves_it(serving, adopt, load):
    server = serving(said(), rows_max=8)
    code, out, _ = adopt(server.address)
    assert code == 0
    bundle = load()
    assert bundle.inputs == (TensorSpec("image", "FP32", (-1, 28, 28)),)
    assert bundle.outputs == (TensorSpec("probabilities", "FP32", (-1, 3)),)
    assert (bundle.graphs, bundle.calibration) == ({}, {})
    assert bundle.manifest["upstream"] == {"name": "kiosk", "version": "3", "rows_max": 8}
    assert bundle.manifest["training"]["adopted"]["server"] == {"name": "loopback", "version": "9"}
    assert bundle.digest in out
    engine = UpstreamEngine(bundle, settings(server.address))
    try:
        assert engine.infer({"image": np.zeros((20, 28, 28), np.float32)})["probabilities"].shape == (20, 3)
    finally:
        engine.close()
    assert [request.inputs[0].shape[0] for request in server.seen] == [8, 8, 4]


def test_it_says_what_to_put_into_the_two_files(serving, adopt, tmp_path):
    server = serving(said())
    _, out, _ = adopt(server.address)
    assert f'oip: {{addresses: ["{server.address}"]}}' in out
    assert 'kiosk: {serve: "3"}' in out
    assert str(tmp_path / "keys/bundles.pub") in out


def test_for_machines(serving, adopt, load):
    code, out, _ = adopt(serving(said()).address, "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["digest"], told["outputs"]) == (load().digest, ["probabilities:FP32:-1,3"])


def test_the_name_and_version_here_may_be_others(serving, adopt, load):
    server = serving(said(versions=("v1.2", "v1.3")))
    code, _, _ = adopt(server.address, "--version", "v1.3", "--as", "shop/7", name="Kiosk.V2")
    assert code == 0
    assert load("shop", "7").manifest["upstream"]["name"] == "Kiosk.V2"
    assert load("shop", "7").manifest["upstream"]["version"] == "v1.3"
    assert (server.asked[0].name, server.asked[0].version) == ("Kiosk.V2", "v1.3")


def test_a_server_without_versions_is_asked_for_its_default(serving, adopt, load):
    code, out, _ = adopt(serving(said(versions=())).address)
    assert code == 0
    assert load(version="1").manifest["upstream"]["version"] == ""
    assert "whichever it serves by default" in out


def test_what_the_server_does_not_say_is_said_by_hand(serving, adopt, load):
    server = serving(said(inputs=(), outputs=(("scores", "FP32", [-1, -1]), ("more", "INT64", [-1]))))
    by_hand = ("--input", "image:FP32:-1,28,28", "--output", "scores:FP32:-1,5", "--output", "extra:BYTES:-1")
    code, _, _ = adopt(server.address, *by_hand)
    assert code == 0
    assert load().inputs == (TensorSpec("image", "FP32", (-1, 28, 28)),)
    assert load().outputs == (
        TensorSpec("scores", "FP32", (-1, 5)),
        TensorSpec("more", "INT64", (-1,)),
        TensorSpec("extra", "BYTES", (-1,)),
    )


def test_a_model_of_one_row_is_called_row_by_row(serving, adopt, load):
    code, out, _ = adopt(serving(said(inputs=[("image", "FP32", [1, 4])], outputs=[("y", "FP32", [1])])).address)
    assert code == 0
    assert load().inputs[0].shape == (-1, 4)
    assert load().manifest["upstream"]["rows_max"] == 1
    assert "every row is a call" in out


REFUSED = {
    "unknown": (None, (), "NOT_FOUND (no such model)"),
    "no tensors": (said(inputs=()), (), "--input NAME:DATATYPE:SHAPE"),
    "no outputs": (said(outputs=()), (), "--output NAME:DATATYPE:SHAPE"),
    "no rows": (said(inputs=[("x", "FP32", [])]), (), "x:FP32: has no number of rows"),
    "fixed rows": (said(inputs=[("x", "FP32", [8, 4])]), (), "x:FP32:8,4 has no number of rows"),
    "one row in": (said(inputs=[("x", "FP32", [1, 4])]), (), "no row can be told apart"),
    "free size": (said(inputs=[("x", "INT64", [-1, -1])]), (), "x:INT64:-1,-1 has a free dimension"),
    "half floats": (said(outputs=[("y", "BF16", [-1, 4])]), (), "BF16 cannot be served"),
    "versions": (said(versions=("1", "2")), (), "has the versions 1, 2 there; choose with --version"),
    "name": (said(), ("--as", "Kiosk/1"), "Kiosk/1 cannot be a bundle's"),
    "version": (said(), ("--as", "kiosk/0"), "kiosk/0 cannot be a bundle's"),
    "size": (said(), ("--output", "big:FP32:-1,99999999"), "a row of big is too large"),
}


@pytest.mark.parametrize(("described", "more", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_adopted_is_refused_with_advice(serving, adopt, tmp_path, *, described, more, problem):
    code, _, err = adopt(serving(described).address, *more)
    assert code == 1
    assert problem in err
    assert not list(tmp_path.glob("bundles/*/*"))


UNUSABLE = {
    "tensor": (("--input", "image:FP32"), "'image:FP32' is not a tensor"),
    "as": (("--as", "kiosk"), "'kiosk' is not NAME/VERSION"),
    "key alone": (("--ca", "ca.pem", "--key", "k.pem"), "--certificate and --key belong together"),
    "key without ca": (("--key", "k.pem"), "need --ca"),
    "no such token": (("--token", "nowhere"), "nowhere"),
    "no such encoder": (("--encoder", "nowhere.onnx"), "nowhere.onnx"),
}


@pytest.mark.parametrize(("more", "problem"), UNUSABLE.values(), ids=UNUSABLE)
def test_arguments_that_cannot_be_used(serving, adopt, more, problem):
    code, _, err = adopt(serving(said()).address, *more)
    assert code == 2
    assert problem in err


def test_another_machine_without_tls_is_not_asked(adopt):
    code, _, err = adopt("192.0.2.1:8001")
    assert code == 2
    assert "192.0.2.1:8001 is another machine" in err


def test_a_server_that_is_not_there(adopt, monkeypatch):
    monkeypatch.setattr("gateway.tools.registry.adopt.TIMEOUT_S", 0.2)
    code, _, err = adopt("127.0.0.1:1")
    assert code == 1
    assert "127.0.0.1:1 said" in err


def test_a_server_of_something_else(serving, adopt, monkeypatch):
    monkeypatch.setattr(OipServer, "_describe", lambda self, body, context: b"\xff")
    code, _, err = adopt(serving(said()).address)
    assert code == 1
    assert "does not speak the Open Inference Protocol" in err


def test_a_bundle_is_never_replaced(serving, adopt, load):
    server = serving(said())
    assert adopt(server.address)[0] == 0
    digest = load().digest
    server.described = said(outputs=[("other", "FP32", [-1])])
    code, _, err = adopt(server.address)
    assert code == 1
    assert "name another one with --as" in err
    assert load().digest == digest


def test_a_token_is_shown_to_the_server(serving, adopt, tmp_path):
    (tmp_path / "token").write_text("let-me-in\n")
    server = serving(said())
    assert adopt(server.address, "--token", str(tmp_path / "token"))[0] == 0
    assert server.metadata[0]["authorization"] == "Bearer let-me-in"


def test_the_key_is_made_once_and_for_its_owner_alone(serving, adopt, load, tmp_path):
    server = serving(said())
    adopt(server.address)
    key = tmp_path / "keys/bundles.key"
    made = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    load_pem_private_key(made, None)
    adopt(server.address, "--as", "kiosk/4")
    assert key.read_bytes() == made
    load(version="4")


def extracted(*outputs):
    whole = onnx.load_from_string(tiny_graph())
    return onnx.utils.Extractor(whole).extract_model(["image"], list(outputs)).SerializeToString()


def test_an_encoder_adds_what_only_it_has(serving, adopt, load, tmp_path):
    (tmp_path / "encoder.onnx").write_bytes(extracted("probabilities", "latent", "energy"))
    (tmp_path / "calibration.safetensors").write_bytes(tensor_bytes({"scores": np.linspace(0, 1, 5)}))
    files = ("--encoder", str(tmp_path / "encoder.onnx"), "--calibration", str(tmp_path / "calibration.safetensors"))
    code, out, _ = adopt(serving(said()).address, *files)
    assert code == 0
    bundle = load()
    assert [spec.name for spec in bundle.outputs] == ["probabilities", "latent", "energy"]
    assert bundle.outputs[2].shape == (-1,)
    assert bundle.manifest["roles"] == {"encoder": ["latent", "energy"]}
    assert bundle.graphs.keys() == {"encoder"}
    assert bundle.calibration.keys() == {"scores"}
    assert "output  energy:FP32:-1, from the encoder" in out


def test_an_encoder_for_other_inputs_is_refused(serving, adopt, tmp_path):
    (tmp_path / "encoder.onnx").write_bytes(extracted("energy"))
    server = serving(said(inputs=[("image", "FP32", [-1, 27, 28])]))
    code, _, err = adopt(server.address, "--encoder", str(tmp_path / "encoder.onnx"))
    assert code == 1
    assert "input image is not in the graph as the manifest declares it" in err
    assert not list(tmp_path.glob("bundles/*/*"))


@pytest.mark.parametrize("graph", [b"", b"not onnx"], ids=["empty", "text"])
def test_an_encoder_that_is_none(serving, adopt, tmp_path, graph):
    (tmp_path / "encoder.onnx").write_bytes(graph)
    code, _, err = adopt(serving(said()).address, "--encoder", str(tmp_path / "encoder.onnx"))
    assert code == 1
    assert "encoder.onnx" in err


@pytest.mark.parametrize("text", ["", ":FP32:-1", "x:fp32:-1", "x:FP32:", "x:FP32:-1,", "x:FP32:1,2,3,4,5,6,7,8,9"])
def test_what_is_no_tensor(text):
    with pytest.raises(ValueError, match="is not a tensor"):
        declared(text)

"""Layouts that other servers keep models in: read without them, written so that they read them."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest
import yaml
from google.protobuf import text_format
from safetensors.numpy import load_file, save
from tritonclient.grpc import model_config_pb2 as triton

from gateway.cli import main as cli
from gateway.registry.interchange import InterchangeRefused, exported, read_model
from gateway.samples import bundles_directory, sample_images
from serving.bundle import load_bundle
from serving.inprocess import InProcessEngine
from tests.serving.tiny import tiny_bundle
from tests.serving.train.foreign_models import blobs, model

ROOT = bundles_directory()
TRITON = """
name: "risk"
backend: "onnxruntime"
max_batch_size: 64
input [ { name: "x" data_type: TYPE_FP32 dims: [ 12 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "classes.txt" } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
# As `mlflow.onnx.save_model` of MLflow 2 writes it.
MLFLOW = """
artifact_path: model
flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_version: 1.16.1
    providers: [CUDAExecutionProvider, CPUExecutionProvider]
  python_function:
    data: model.onnx
    env: {conda: conda.yaml, virtualenv: python_env.yaml}
    loader_module: mlflow.onnx
    python_version: 3.11.7
mlflow_version: 2.14.0
model_uuid: 5d1c2b0a9f8e4d7c8b6a5f4e3d2c1b0a
run_id: 0123456789abcdef0123456789abcdef
signature:
  inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 12]}}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]'
utc_time_created: '2026-01-02 03:04:05.678901'
"""


@pytest.fixture
def repository(tmp_path):
    place = tmp_path / "risk"
    for version in ("2", "10"):
        (place / version).mkdir(parents=True)
        (place / version / "model.onnx").write_bytes(model() if version == "10" else b"older")
    (place / "config.pbtxt").write_text(TRITON)
    (place / "classes.txt").write_text("a\nb\nc\nd\n")
    return place


@pytest.fixture
def mlflow(tmp_path):
    place = tmp_path / "logged"
    place.mkdir()
    (place / "MLmodel").write_text(MLFLOW)
    (place / "model.onnx").write_bytes(model())
    return place


def test_a_model_of_tritons_repository_is_its_newest_version_with_its_labels(repository):
    found = read_model(repository)
    assert (found.graph, found.name, found.version, found.class_names) == (model(), "risk", "10", tuple("abcd"))


def test_a_model_of_mlflow_is_its_onnx_flavour(mlflow):
    found = read_model(mlflow)
    assert (found.graph, found.name) == (model(), "logged")
    assert found.source["run"] == "0123456789abcdef0123456789abcdef"


def test_a_plain_file_is_a_model(mlflow):
    assert read_model(mlflow / "model.onnx").graph == model()


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("config.pbtxt", TRITON.replace("onnxruntime", "python"), "backend python is not onnxruntime"),
        ("config.pbtxt", TRITON.replace("{ name", "{ ~"), "config.pbtxt: "),
        ("config.pbtxt", TRITON + 'default_model_filename: "../../x"', "leads out of it"),
        ("config.pbtxt", b'name: "\xff"', "is not UTF-8"),
        ("MLmodel", "flavors: {sklearn: {pickled_model: model.pkl}}", "no flavour onnx .there: sklearn"),
        ("MLmodel", "flavors: {onnx: {data: ../model.onnx}}", "leads out of it"),
        ("MLmodel", "flavors: [", "not what MLflow writes"),
        ("MLmodel", "!!python/object/apply:os.system [x]", "not what MLflow writes"),
        ("other", "", "holds neither config.pbtxt"),
    ],
)
def test_what_is_in_no_layout_is_told_why(tmp_path, file, text, problem):
    place = tmp_path / "m"
    (place / "1").mkdir(parents=True)
    (place / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InterchangeRefused, match=problem):
        read_model(place)


def test_a_repository_without_a_version_is_told_why(repository):
    for version in ("2", "10"):
        (repository / version / "model.onnx").unlink()
        (repository / version).rmdir()
    with pytest.raises(InterchangeRefused, match="no directory of a version"):
        read_model(repository)


@pytest.mark.parametrize("name", ["kiosk", "clickstream", "payments"])
def test_what_is_written_for_triton_is_read_by_its_own_schema_and_by_us(name, tmp_path, capsys):
    words = ["models", "export", str(ROOT / name / "1"), "--layout", "triton", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    bundle = load_bundle(ROOT / name / "1", [ROOT / "stockade-release.pub"])
    config = text_format.Parse((tmp_path / name / "config.pbtxt").read_text(), triton.ModelConfig())
    assert (config.name, config.backend) == (name, "onnxruntime")
    assert config.max_batch_size > 0
    for side, specs in ((config.input, bundle.inputs), (config.output, bundle.outputs)):
        for tensor, spec in zip(side, specs, strict=True):
            shape = [] if tensor.HasField("reshape") else list(tensor.dims)
            assert (tensor.name, shape) == (spec.name, list(spec.shape[1:]))
            assert list(tensor.dims)  # Triton refuses a tensor without any
    found = read_model(tmp_path / name)
    assert (found.graph, found.version, found.class_names) == (bundle.graphs["dense"], "1", bundle.class_names)
    assert cli.main(words) == 1
    assert "is there already" in capsys.readouterr().err


def test_what_is_written_for_mlflow_says_what_it_takes_and_runs_as_it_did(tmp_path):
    assert cli.main(["models", "export", str(ROOT / "kiosk/1"), "--layout", "mlflow", "--out", str(tmp_path)]) == 0
    described = yaml.safe_load((tmp_path / "MLmodel").read_text())
    (taken,) = json.loads(described["signature"]["inputs"])
    assert taken["tensor-spec"] == {"dtype": "float32", "shape": [-1, 28, 28]}
    images = load_file(sample_images())["images"][:9].astype(np.float32) / np.float32(255)
    session = ort.InferenceSession(read_model(tmp_path).graph, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["probabilities"], {"image": images})
    engine = InProcessEngine(load_bundle(ROOT / "kiosk/1", [ROOT / "stockade-release.pub"]))
    np.testing.assert_array_equal(scores, engine.infer({"image": images})["probabilities"])


def test_a_plain_file_is_written_and_a_bundle_of_several_graphs_is_not():
    bundle = tiny_bundle()
    assert exported(bundle, "onnx") == {"tiny-1.onnx": bundle.graphs["dense"]}


@pytest.mark.parametrize("layout", ["repository", "mlflow"])
def test_a_team_brings_its_model_with_one_command(layout, request, tmp_path, capsys):
    source, sample = request.getfixturevalue(layout), tmp_path / "sample.safetensors"
    rows, labels = blobs()
    sample.write_bytes(save({"x": rows, "labels": labels}))
    words = ["--as", "risk/1", "--out", tmp_path / "bundles", "--signing-key", tmp_path / "own.key"]
    asked = ["models", "wrap", source, "--sample", sample, *words]
    assert cli.main(list(map(str, asked))) == 0
    bundle = load_bundle(tmp_path / "bundles/risk/1", [tmp_path / "own.pub"])
    assert bundle.class_names == (tuple("abcd") if layout == "repository" else ())
    assert bundle.manifest["training"]["wrapped"]["layout"] == {"repository": "triton"}.get(layout, layout)
    points = bundle.manifest["calibration_report"]["evidence"]["operating_points"]
    assert [point["fpr_max"] for point in points] == [0.05, 0.01]
    assert cli.main(list(map(str, asked))) == 1
    assert "a version never changes" in capsys.readouterr().err
    sample.write_bytes(save({"x": rows[:100]}))
    asked[asked.index("risk/1")] = "risk/2"
    assert cli.main(list(map(str, asked))) == 2
    assert "the least that calibrate a screen" in capsys.readouterr().err
    assert not (tmp_path / "bundles/risk/2").exists()

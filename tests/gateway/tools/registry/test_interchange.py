"""Layouts that other servers keep models in: read without them, written so that they read them."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import yaml
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save
from tritonclient.grpc import model_config_pb2 as triton

from gateway.cli import main as cli
from gateway.tools.registry.interchange import (
    DEPTH_MAX,
    NODES_MAX,
    TEXT_BYTES_MAX,
    InterchangeRefused,
    Model,
    exported,
    read_model,
)
from gateway.tools.samples import bundles_directory, sample_images
from serving.bundles.bundle import load_bundle
from serving.engines.inprocess import InProcessEngine
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


BOMB = "a0: &a0 [x, x, x]\n" + "".join(
    f"a{level}: &a{level} [*a{level - 1}, *a{level - 1}, *a{level - 1}]\n" for level in range(1, 8)
)


def read_text(place: Path, file: str, text: str | bytes) -> Model:
    """What is made of a description whose model is there."""
    (place / "1").mkdir(parents=True, exist_ok=True)
    for graph in ("model.onnx", "1/model.onnx"):
        (place / graph).write_bytes(b"graph")
    for each in ("config.pbtxt", "MLmodel"):
        (place / each).unlink(missing_ok=True)
    (place / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_model(place)


ONNX = "flavors: {onnx: {data: model.onnx}}\n"


GROWING = {
    "aliases": BOMB + ONNX + "run_id: *a7",
    "an alias that is small": "flavors: &f {onnx: {data: model.onnx}}\nother: *f",
    "deep lists": "flavors: " + "[" * 50_000,
    "deep mappings": "flavors: " + "{a: " * 50_000,
    "deep blocks": "flavors: " + "- " * 50_000,
    "a long list": ONNX + "x: [" + "a," * 200_000 + "]",
    "a list for a key": "{[flavors]: x}",
}


@pytest.mark.parametrize("text", GROWING.values(), ids=GROWING)
def test_a_description_that_grows_is_refused(tmp_path, text):
    with pytest.raises(InterchangeRefused, match="is not what MLflow writes"):
        read_text(tmp_path, "MLmodel", text)


def test_the_parts_and_levels_of_mlflows_description_are_bounded(tmp_path):
    few = 7  # the mapping, `flavors`, its mapping, `onnx`, its mapping, `data`, and what that is
    at_limit = ONNX + "x: [" + "a," * (NODES_MAX - few - 2) + "]"  # `x`, and the list
    assert read_text(tmp_path, "MLmodel", at_limit).graph == b"graph"
    with pytest.raises(InterchangeRefused):
        read_text(tmp_path, "MLmodel", at_limit.replace("a,]", "a,a]"))
    levels = DEPTH_MAX - 1  # the mapping is one
    assert read_text(tmp_path, "MLmodel", ONNX + "x: " + "[" * levels + "]" * levels).graph == b"graph"
    with pytest.raises(InterchangeRefused):
        read_text(tmp_path, "MLmodel", ONNX + "x: " + "[" * (levels + 1) + "]" * (levels + 1))


def test_nothing_in_mlflows_description_becomes_a_number_a_time_or_an_object(tmp_path):
    """Each of these was an exception of Python's own in PyYAML's safe loader, or may be one."""
    for word in ("9" * 5000, "2026-99-99", "1:" * 2000 + "1", "!!python/object/apply:os.system [x]", "[a]"):
        found = read_text(tmp_path, "MLmodel", f"{ONNX}run_id: {word}\n")
        assert found.source["run"] == (word[:200] if word[0] in "912" else "")
    assert read_text(tmp_path, "MLmodel", ONNX + 'run_id: "\\e[31mred\\n"').source["run"] == "[31mred"


def test_tritons_description_is_bounded(tmp_path):
    base = 'backend: "onnxruntime" '
    at_limit = base + "dims: 1 " * (NODES_MAX - 1)
    assert read_text(tmp_path, "config.pbtxt", at_limit).graph == b"graph"
    with pytest.raises(InterchangeRefused, match=f"more than {NODES_MAX} fields"):
        read_text(tmp_path, "config.pbtxt", at_limit + "x: 1")
    for nested in ("parameters { ", "unknown < "):
        with pytest.raises(InterchangeRefused, match="nested too deep"):
            read_text(tmp_path, "config.pbtxt", base + nested * (NODES_MAX - 10))
    with pytest.raises(InterchangeRefused) as refused:
        read_text(tmp_path, "config.pbtxt", base + "x: \x1b[31m" + "y" * 5000)
    assert len(str(refused.value)) < 500
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("file", ["config.pbtxt", "MLmodel"])
def test_the_bytes_of_a_description_are_bounded(tmp_path, file):
    text = 'backend: "onnxruntime"\n' if file == "config.pbtxt" else ONNX
    at_limit = text + "#" * (TEXT_BYTES_MAX - len(text))
    assert read_text(tmp_path, file, at_limit).graph == b"graph"
    with pytest.raises(InterchangeRefused, match=f"larger than {TEXT_BYTES_MAX} bytes"):
        read_text(tmp_path, file, at_limit + "#")


def test_names_that_no_file_can_have_are_refused(tmp_path):
    with pytest.raises(InterchangeRefused, match="leads out of it"):
        read_text(tmp_path, "MLmodel", 'flavors: {onnx: {data: "a\\0b"}}')
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((InterchangeRefused, OSError)):
        read_text(tmp_path, "MLmodel", "flavors: {onnx: {data: loop/model.onnx}}")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InterchangeRefused, match="is no file"):  # to open it would take for ever
        read_text(tmp_path, "MLmodel", "flavors: {onnx: {data: pipe}}")


WORDS = st.sampled_from(
    ["flavors", "onnx", "data", "model.onnx", "run_id", "backend", "onnxruntime", "output", "dims", "label_filename"]
)
SIGNS = st.sampled_from([*"{}[]<>:,;-?!&*#|%@`'\"\\\n \t~=09", ": ", "- ", "? ", "<<: ", "!!", "--- ", "... "])
PIECES = st.lists(WORDS | SIGNS | st.text(max_size=3), max_size=40).map("".join)


@given(file=st.sampled_from(["config.pbtxt", "MLmodel"]), text=PIECES.map(str.encode) | st.binary(max_size=200))
def test_any_description_gives_a_model_or_is_refused(tmp_path_factory, file, text):
    place = tmp_path_factory.getbasetemp() / "any"
    with suppress(InterchangeRefused, FileNotFoundError):
        assert isinstance(read_text(place, file, text), Model)


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

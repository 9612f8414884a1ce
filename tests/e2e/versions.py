"""Small models in two versions, the second of which is as good, broken, slow, or of another opinion."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from serving.train.pack import seal
from tests.serving.tiny import CLASSES, signing_key, tiny_files, tiny_manifest, write

WIDE, LAYERS = 1536, 300  # a product of this size takes a quarter of a millisecond or more a row
SLOPES = np.array([[1.0, 0.0, -1.0]], np.float32)
OFFSETS = np.array([0.0, 0.4, 0.9], np.float32)
WAYS = ("good", "broken", "slow", "odd")
"""What becomes of the second version of the model with this name."""


@cache
def graph_of(way: str) -> bytes:
    """A softmax over lines in the mean of the pixels; `way` says what is wrong with it."""
    initializers = {"slopes": SLOPES, "offsets": OFFSETS, "flat": np.array([-1, 784], np.int64)}
    nodes = [
        helper.make_node("Reshape", ["image", "flat"], ["pixels"]),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["mean", "slopes"], ["steep"]),
        helper.make_node("Add", ["steep", "offsets"], ["lines"]),
    ]
    last = "lines"
    if way == "broken":  # the logarithm of a negative number, for every image darker than this
        initializers["dark"] = np.array([0.5], np.float32)
        nodes += [
            helper.make_node("Sub", ["mean", "dark"], ["light"]),
            helper.make_node("Log", ["light"], ["nothing"]),
            helper.make_node("Add", ["lines", "nothing"], ["failing"]),
        ]
        last = "failing"
    elif way == "slow":
        rng = np.random.default_rng(0)
        initializers |= {
            "in": rng.normal(size=(784, WIDE)).astype(np.float32) / WIDE,
            "wide": rng.normal(size=(WIDE, WIDE)).astype(np.float32) / WIDE,
            "zero": np.zeros(1, np.float32),
        }
        nodes.append(helper.make_node("MatMul", ["pixels", "in"], ["w0"]))
        nodes += [helper.make_node("MatMul", [f"w{number}", "wide"], [f"w{number + 1}"]) for number in range(LAYERS)]
        nodes += [
            helper.make_node("ReduceMean", [f"w{LAYERS}"], ["much"], axes=[1], keepdims=1),
            helper.make_node("Mul", ["much", "zero"], ["little"]),
            helper.make_node("Add", ["lines", "little"], ["late"]),
        ]
        last = "late"
    elif way == "odd":
        nodes.append(helper.make_node("Neg", ["lines"], ["turned"]))
        last = "turned"
    nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "versions",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["rows", 28, 28])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def write_versions(bundles: Path, name: str, second: str) -> None:
    """Two signed bundles of a model: version 1 is good, version 2 as `second` says."""
    for version, way in (("1", "good"), ("2", second)):
        files = tiny_files() | {"model.onnx": graph_of(way)}
        write(seal(files, manifest(name, version), signing_key()), bundles / name / version)


def manifest(name: str, version: str) -> dict:
    (answer, *_) = tiny_manifest()["outputs"]
    return tiny_manifest(version) | {"name": name, "outputs": [answer]}

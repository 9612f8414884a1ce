"""Models as somebody else would bring them: trained by scikit-learn, written as ONNX by hand, with a sample."""

from __future__ import annotations

import functools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPClassifier

WIDTH, CLASSES, HIDDEN = 12, 4, 16


@functools.cache
def blobs(rows: int = 3_000, seed: int = 0):
    """Rows float32 (n, 12) around four places on a plane of six dimensions, and which place."""
    rng = np.random.default_rng(1)
    places, plane = rng.normal(size=(CLASSES, 6)) * 2, rng.normal(size=(6, WIDTH))
    rng = np.random.default_rng([seed, 2])
    labels = rng.integers(0, CLASSES, rows)
    near = places[labels] + rng.normal(size=(rows, 6))
    return (near @ plane + 0.1 * rng.normal(size=(rows, WIDTH))).astype(np.float32), labels.astype(np.int64)


@functools.cache
def trained():
    rows, labels = blobs(seed=9)
    return MLPClassifier((HIDDEN,), max_iter=60, random_state=0, early_stopping=True).fit(rows, labels)


def model(ending: str = "softmax", *, opset: int = 17, kind: int = TensorProto.FLOAT, rows: str | int = "batch"):
    """ONNX bytes: input x; output y of probabilities ("softmax", or "shares" without a Softmax), or of "logits".

    "labels": a probability for each class by itself (Sigmoid). "one": of one class alone.
    """
    net = trained()
    weights = {"w0": net.coefs_[0], "b0": net.intercepts_[0], "w1": net.coefs_[1], "b1": net.intercepts_[1]}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["mixed"]),
        helper.make_node("Add", ["mixed", "b0"], ["shifted"]),
        helper.make_node("Relu", ["shifted"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w1", "b1"], ["y" if ending == "logits" else "scores"]),
    ]
    if ending == "softmax":
        nodes.append(helper.make_node("Softmax", ["scores"], ["y"], axis=1))
    elif ending == "labels":
        nodes.append(helper.make_node("Sigmoid", ["scores"], ["y"]))
    elif ending == "one":
        weights["columns"] = np.array([0], np.int64)
        nodes.append(helper.make_node("Gather", ["scores", "columns"], ["column"], axis=1))
        nodes.append(helper.make_node("Sigmoid", ["column"], ["y"]))
    elif ending == "shares":
        nodes.append(helper.make_node("Exp", ["scores"], ["powers"]))
        weights["axis"] = np.array([1], np.int64)
        nodes.append(helper.make_node("ReduceSum", ["powers", "axis"], ["whole"], keepdims=1))
        nodes.append(helper.make_node("Div", ["powers", "whole"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("x", kind, [rows, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 1 if ending == "one" else CLASSES])],
        [
            numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
            for name, value in weights.items()
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return bytes(made.SerializeToString())


def renamed(graph: bytes, old: str, new: str) -> bytes:
    """The same graph with another name for a tensor."""
    made = onnx.load_from_string(graph)
    for node in made.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for each in (*made.graph.input, *made.graph.output):
        each.name = new if each.name == old else each.name
    return bytes(made.SerializeToString())

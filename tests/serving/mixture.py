"""A small mixture over the tiny bundle's inputs and outputs, with random weights: router, experts, head, twin."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from serving.bundles.bundle import Bundle, assemble
from serving.engines.experts import HEAD, ROUTER, expert_graph
from serving.train.graph import GraphBuilder, rows_of
from serving.train.pack import seal, tensor_bytes
from tests.serving.tiny import CLASSES, WIDTH, signing_key, tiny_manifest, trusted

EXPERTS, ACTIVE, HIDDEN = 4, 2, 8


def mixture_graphs() -> dict[str, bytes]:
    parts = [(_random(number, WIDTH, HIDDEN), _random(number + 50, HIDDEN, CLASSES)) for number in range(EXPERTS)]
    graphs = {"dense": _dense(parts), ROUTER: _router(), HEAD: _head()}
    for number, (inner, outer) in enumerate(parts):
        build = _lifted()
        _write_part(build, str(number), inner, outer, "parts")
        graphs[expert_graph(number)] = build.model("mixture", [rows_of("image", 28, 28)], [rows_of("parts", CLASSES)])
    return graphs


def mixture_sealed(graphs: dict[str, bytes] | None = None, **changes) -> dict[str, bytes]:
    graphs = graphs or mixture_graphs()
    files = {f"{name}.onnx": graph for name, graph in graphs.items()}
    files |= {"weights.safetensors": tensor_bytes({"w": np.zeros(1)}), "calibration.safetensors": tensor_bytes({})}
    manifest = tiny_manifest() | {"graphs": {name: f"{name}.onnx" for name in graphs}} | changes
    return seal(files, manifest, signing_key())


def mixture_bundle(graphs: dict[str, bytes] | None = None, **changes) -> Bundle:
    return assemble(mixture_sealed(graphs, **changes), (trusted(),))


def _random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def _lifted() -> GraphBuilder:
    """`flat` (rows, 784) and `latent` (rows, WIDTH). Means of pixels, so that no product is large or cancels."""
    build = GraphBuilder()
    for name, value in (("low", 0.0), ("high", 1.0)):
        build.constant(name, np.array(value))
    build.constant("flat.shape", np.array([-1, 784], np.int64))
    build.constant("latent.weight", _random(9, 784, WIDTH) / 28)
    build.constant("axis.1", np.array([1], np.int64))
    build.node("Clip", ["image", "low", "high"], "clipped")
    build.node("Reshape", ["clipped", "flat.shape"], "flat")
    build.node("MatMul", ["flat", "latent.weight"], "latent")
    return build


def _write_routing(build: GraphBuilder) -> list:
    build.constant("routes", _random(7, WIDTH, EXPERTS))
    build.constant("active", np.array([ACTIVE], np.int64))
    build.node("MatMul", ["latent", "routes"], "scores")
    build.nodes.append(helper.make_node("TopK", ["scores", "active"], ["best", "chosen"], axis=1))
    build.node("Softmax", ["best"], "gates", axis=1)
    build.node("ReduceL2", ["latent"], "mahalanobis", axes=[1], keepdims=0)
    build.node("ReduceMean", ["flat"], "residual", axes=[1], keepdims=0)
    return [rows_of("latent", WIDTH), rows_of("mahalanobis"), rows_of("residual")]


def _router() -> bytes:
    build = _lifted()
    own = _write_routing(build)
    chosen = [rows_of("chosen", ACTIVE, kind=TensorProto.INT64), rows_of("gates", ACTIVE)]
    return build.model("mixture", [rows_of("image", 28, 28)], chosen + own)


def _write_part(build: GraphBuilder, own: str, inner: np.ndarray, outer: np.ndarray, output: str) -> None:
    build.constant(f"inner.{own}", inner)
    build.constant(f"outer.{own}", outer)
    build.node("MatMul", ["latent", f"inner.{own}"], f"{own}.sum")
    build.node("Relu", [f"{own}.sum"], f"{own}.hidden")
    build.node("MatMul", [f"{own}.hidden", f"outer.{own}"], output)


def _write_head(build: GraphBuilder) -> list:
    build.node("Identity", ["mixed"], "logits")
    build.node("Softmax", ["mixed"], "probabilities", axis=1)
    build.node("ReduceLogSumExp", ["mixed"], "evidence", axes=[1], keepdims=0)
    build.node("Neg", ["evidence"], "energy")
    return [rows_of("probabilities", CLASSES), rows_of("logits", CLASSES), rows_of("energy")]


def _head() -> bytes:
    build = GraphBuilder()
    outputs = _write_head(build)
    return build.model("mixture", [rows_of("mixed", CLASSES)], outputs)


def _dense(parts: list) -> bytes:
    build = _lifted()
    outputs = _write_routing(build)
    build.constant("count", np.array(EXPERTS, np.int64))
    build.constant("on", np.array([0.0, 1.0]))
    build.constant("axis.2", np.array([2], np.int64))
    build.node("OneHot", ["chosen", "count", "on"], "each", axis=-1)
    build.node("Unsqueeze", ["gates", "axis.2"], "gates.column")
    build.node("Mul", ["each", "gates.column"], "each.gated")
    build.node("ReduceSum", ["each.gated", "axis.1"], "weights", keepdims=0)
    total = ""
    for number, (inner, outer) in enumerate(parts):
        own = str(number)
        _write_part(build, own, inner, outer, f"{own}.parts")
        build.constant(f"{own}.index", np.array([number], np.int64))
        build.node("Gather", ["weights", f"{own}.index"], f"{own}.weight", axis=1)
        added = build.node("Mul", [f"{own}.parts", f"{own}.weight"], f"{own}.gated" if number else "total.0")
        total = build.node("Add", [total, added], f"total.{number}") if total else added
    build.node("Identity", [total], "mixed")
    outputs += _write_head(build)
    return build.model("mixture", [rows_of("image", 28, 28)], outputs)

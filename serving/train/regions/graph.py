"""Write the region model's graphs: a dense one, and for a mixture its router, its experts and its head.

    direction (rows, 3) -> Gemm -> quantized to 255 steps, which is the ReLU also -> int8 weights -> scores
                             '-> (mixture) what is outside the row's cells is put to 0
    scores -> probabilities, energy = -logsumexp(scores)
    direction -> scores of the cells -> chosen, gates (all 1), router_entropy (nats)

Weights are int8 with one scale for each region, the same for all experts, and activations have a fixed scale: integers
add up exactly, no row's rounding depends on another row, and the paths differ in the last bits of one sum alone.
Quantization: Jacob et al., CVPR 2018, section 2, symmetric.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from serving.engines.experts import HEAD, ROUTER, expert_graph
from serving.train.graph import GraphBuilder, rows_of
from serving.train.regions.network import Cells, RegionNet

STEPS = 255
WEIGHT_MAX = 127
SHARPNESS = 30.0
"""By what the cells' scores are multiplied before their entropy is taken; it changes no answer."""
OUTPUTS = ("probabilities", "energy", "router_entropy")

Floats = NDArray[np.float64]


def write_dense(net: RegionNet) -> bytes:
    """Return one graph with every unit: the dense twin of a mixture, or a network that was trained as a dense one."""
    build = GraphBuilder()
    _write_units(build, net.keys, net.radii)
    outputs = [rows_of("probabilities", net.weights.shape[1]), rows_of("energy")]
    units = "units"
    if net.cells is not None:
        _write_router(build, net.cells, net.active)
        units = _write_mask(build, net.cells)
        outputs.append(rows_of("router_entropy"))
    _write_weights(build, units, "mixed", *_quantized(net))
    _write_head(build)
    return build.model("dense", [rows_of("direction", 3)], outputs)


def write_mixture(net: RegionNet) -> dict[str, bytes]:
    """Return the graphs of a mixture by name, its dense twin among them."""
    if net.cells is None:
        raise ValueError("a dense network has no experts")
    router, head = GraphBuilder(), GraphBuilder()
    _write_router(router, net.cells, net.active)
    chosen = helper.make_tensor_value_info("chosen", TensorProto.INT64, ["rows", net.active])
    _write_head(head)
    regions = net.weights.shape[1]
    graphs = {
        "dense": write_dense(net),
        ROUTER: router.model(
            ROUTER,
            [rows_of("direction", 3)],
            [chosen, rows_of("gates", net.active), rows_of("router_entropy")],
        ),
        HEAD: head.model(HEAD, [rows_of("mixed", regions)], [rows_of("probabilities", regions), rows_of("energy")]),
    }
    levels, scales = _quantized(net)
    for number in range(len(net.cells.offsets)):
        own = net.cells.owner == number
        build = GraphBuilder()
        _write_units(build, net.keys[own], net.radii[own])
        _write_weights(build, "units", "parts", levels[own], scales)
        name = expert_graph(number)
        graphs[name] = build.model(name, [rows_of("direction", 3)], [rows_of("parts", regions)])
    return graphs


def _quantized(net: RegionNet) -> tuple[NDArray[np.int8], Floats]:
    """Return int8 weights (units, regions) and the scale of each region."""
    weights = net.weights.astype(np.float64)
    scales = np.maximum(np.abs(weights).max(0), 1e-6) / WEIGHT_MAX
    return np.rint(weights / scales).astype(np.int8), scales


def _write_units(build: GraphBuilder, keys: Floats, radii: Floats) -> None:
    """`units` (rows, units): 1 - |x - k|^2 / r^2, which is (1 - 2 / r^2) + x (2 k / r^2).

    In double: where places are a kilometre apart the two are ten million and cancel.
    """
    for name, value in (("units.weight", (2 * keys / radii[:, None] ** 2).T), ("units.bias", 1 - 2 / radii**2)):
        build.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    build.node("Cast", ["direction"], "direction.double", to=TensorProto.DOUBLE)
    build.node("Gemm", ["direction.double", "units.weight", "units.bias"], "units.double")
    build.node("Cast", ["units.double"], "units", to=TensorProto.FLOAT)


def _write_weights(build: GraphBuilder, units: str, output: str, levels: NDArray[np.int8], scales: Floats) -> None:
    build.constant("step", np.array(1 / STEPS))
    build.constants.append(numpy_helper.from_array(np.array(0, np.uint8), "none"))
    build.constants.append(numpy_helper.from_array(np.ascontiguousarray(levels), "levels"))
    build.constant("scales", scales / STEPS)
    build.node("QuantizeLinear", [units, "step", "none"], f"{output}.steps")
    build.node("MatMulInteger", [f"{output}.steps", "levels"], f"{output}.whole")
    build.node("Cast", [f"{output}.whole"], f"{output}.wide", to=TensorProto.FLOAT)
    build.node("Mul", [f"{output}.wide", "scales"], output)


def _write_router(build: GraphBuilder, cells: Cells, active: int) -> None:
    build.constant("cells.weight", cells.centres.T)
    build.constant("cells.offsets", cells.offsets)
    build.constant("active", np.array([active], np.int64))
    build.constant("zero", np.array(0.0))
    build.constant("one", np.array(1.0))
    build.constant("sharpness", np.array(SHARPNESS))
    build.constant("axis.1", np.array([1], np.int64))
    build.node("Gemm", ["direction", "cells.weight", "cells.offsets"], "cells")
    build.nodes.append(helper.make_node("TopK", ["cells", "active"], ["best", "chosen"], name="chosen", axis=1))
    build.node("Mul", ["best", "zero"], "best.none")
    build.node("Add", ["best.none", "one"], "gates")
    build.node("Mul", ["cells", "sharpness"], "cells.sharp")
    build.node("LogSoftmax", ["cells.sharp"], "cells.log", axis=1)
    build.node("Exp", ["cells.log"], "cells.share")
    build.node("Mul", ["cells.share", "cells.log"], "cells.terms")
    build.node("ReduceSum", ["cells.terms", "axis.1"], "cells.sum", keepdims=0)
    build.node("Neg", ["cells.sum"], "router_entropy")


def _write_mask(build: GraphBuilder, cells: Cells) -> str:
    """Put the units outside a row's cells to 0; returns their name."""
    build.constant("experts", np.array(len(cells.offsets), np.int64))
    build.constant("on", np.array([0.0, 1.0]))
    build.constant("owner", cells.owner)
    build.node("OneHot", ["chosen", "experts", "on"], "cells.each", axis=-1)
    build.node("ReduceSum", ["cells.each", "axis.1"], "cells.on", keepdims=0)
    build.node("Gather", ["cells.on", "owner"], "units.on", axis=1)
    return build.node("Mul", ["units", "units.on"], "units.kept")


def _write_head(build: GraphBuilder) -> None:
    build.node("Softmax", ["mixed"], "probabilities", axis=1)
    build.node("ReduceLogSumExp", ["mixed"], "evidence", axes=[1], keepdims=0)
    build.node("Neg", ["evidence"], "energy")

"""ONNX graphs written node by node: the names are ours, and the bytes depend on what is put in alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPERATOR_SET = 17
IR_VERSION = 8


def rows_of(name: str, *sizes: int, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """Return an input or output of a graph: so many values of this kind for each row."""
    return helper.make_tensor_value_info(name, kind, ["rows", *sizes])


@dataclass(slots=True)
class GraphBuilder:
    """Nodes and constants of a graph as it is written; floating-point constants become float32."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: NDArray[np.float64] | NDArray[np.int64]) -> str:
        array = value if value.dtype == np.int64 else value.astype(np.float32)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def model(self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> bytes:
        """Return the model's bytes, checked."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPERATOR_SET)], producer_name="stockade"
        )
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))

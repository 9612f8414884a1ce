from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from serving.bundles.graph import DEPTH_MAX, check_graph
from serving.errors import BundleRejected, Rejection
from tests.serving.tiny import tiny_graph


def model(nodes=None, initializers=(), domains=("",), **fields):
    nodes = [helper.make_node("Identity", ["x"], ["y"])] if nodes is None else nodes
    tensor = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", tensor[:1], tensor[1:], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, 17) for domain in domains], **fields)


def rejected(made):
    with pytest.raises(BundleRejected) as caught:
        check_graph(made if isinstance(made, bytes) else made.SerializeToString(), "m.onnx")
    assert caught.value.reason is Rejection.GRAPH
    assert caught.value.file == "m.onnx"
    return caught.value.problem


def outcome(data):
    try:
        check_graph(data, "m.onnx")
    except BundleRejected as error:
        return error.reason
    return None


def test_what_we_write_passes():
    check_graph(tiny_graph(), "m.onnx")
    check_graph(model(domains=("", "ai.onnx")).SerializeToString(), "m.onnx")


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml", "ai.onnx.training", "evil", "ai.onnx "])
def test_unknown_operator_domains(domain):
    assert "domain" in rejected(model(domains=("", domain)))
    assert "domain" in rejected(model([helper.make_node("Identity", ["x"], ["y"], domain=domain)]))


def external(location="weights.bin"):
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def test_external_data_wherever_a_tensor_can_stand():
    assert "outside" in rejected(model(initializers=[external()]))
    assert "outside" in rejected(model([helper.make_node("Constant", [], ["y"], value=external("/etc/passwd"))]))
    attribute = onnx.AttributeProto(name="ts", type=onnx.AttributeProto.TENSORS, tensors=[external()])
    node = helper.make_node("Identity", ["x"], ["y"])
    node.attribute.append(attribute)
    assert "outside" in rejected(model([node]))
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "inner", [], [], [external()])
    assert "outside" in rejected(model([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)]))


def test_external_location_alone_and_marker_alone():
    tensor = external()
    tensor.ClearField("external_data")
    assert "outside" in rejected(model(initializers=[tensor]))
    tensor = external()
    tensor.ClearField("data_location")
    assert "outside" in rejected(model(initializers=[tensor]))


def test_an_inner_operator_of_another_domain():
    node = helper.make_node("Identity", ["x"], ["z"], domain="evil")
    inner = helper.make_graph([node], "inner", [], [])
    assert "domain" in rejected(model([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)]))


def test_functions_training_and_sparse_tensors():
    function = helper.make_function("", "F", ["x"], ["y"], [], [helper.make_opsetid("", 17)])
    assert "field 25" in rejected(model(functions=[function]))
    trained = model()
    trained.training_info.add()
    assert "field 20" in rejected(trained)
    sparse = model()
    sparse.graph.sparse_initializer.add()
    assert "field 15" in rejected(sparse)


def test_a_second_graph_is_not_merged_unseen():
    assert "exactly one graph" in rejected(tiny_graph() + tiny_graph())
    assert "exactly one graph" in rejected(b"")


def nested(depth):
    graph = helper.make_graph([], "leaf", [], [])
    for _ in range(depth - 1):
        graph = helper.make_graph([helper.make_node("Loop", ["x"], ["y"], body=graph)], "g", [], [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def test_depth_at_the_limit_and_one_past_it():
    check_graph(nested(DEPTH_MAX), "m.onnx")
    assert "deeply" in rejected(nested(DEPTH_MAX + 1))


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01",
        b"\x3a",
        b"\x3a\x05ab",
        b"\x08" + b"\xff" * 10,
        b"\x09\x00",
        b"\x0d\x00",
        b"\x0b",
        b"\x3f",
        b"\x08\x80",
    ],
    ids=["field 0", "no length", "too long", "number", "64 bits", "32 bits", "group", "wire 7", "cut"],
)
def test_malformed_protobuf(data):
    rejected(data)


@given(st.binary(max_size=300))
def test_any_bytes_pass_or_are_rejected(data):
    assert outcome(data) in (None, Rejection.GRAPH)


@given(st.data())
@settings(max_examples=200)
def test_a_changed_graph_passes_or_is_rejected(data):
    content = bytearray(tiny_graph())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(content)) in (None, Rejection.GRAPH)

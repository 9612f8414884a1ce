"""decode: what is accepted, and each thing that is refused, by the field it names."""

import numpy as np
import pytest

from gateway.codec import CodecLimits, decode, parse
from gateway.codec.datatypes import DATATYPES, narrow_bf16, widen_bf16
from gateway.errors import RequestTooLarge, TensorInvalid
from stockade.open_inference.grpc_service_pb2 import InferParameter, ModelInferRequest
from tests.gateway.wire_samples import INPUTS, LIMITS, OUTPUTS, Tensor, request


def decoded(message, inputs=INPUTS, outputs=OUTPUTS, limits=LIMITS):
    return decode(message, inputs, outputs, limits)


def refused_field(message, inputs=INPUTS, outputs=OUTPUTS):
    with pytest.raises(TensorInvalid) as caught:
        decode(message, inputs, outputs, LIMITS)
    return caught.value.field


def one(datatype, values, *, shape=None, low=None, high=None):
    """A typed request and its declaration, for one tensor of a datatype."""
    spec = Tensor("x", datatype, (-1,), low, high)
    message = ModelInferRequest()
    tensor = message.inputs.add(name="x", datatype=datatype, shape=shape or [len(values)])
    getattr(tensor.contents, DATATYPES[datatype].contents).extend(values)
    return message, (spec,)


@pytest.mark.parametrize("raw", [True, False])
def test_an_image_arrives_as_it_was_sent(raw):
    values = np.linspace(0, 1, 18, dtype=np.float32).reshape(3, 2, 3)
    got = decoded(request(values, raw=raw))
    np.testing.assert_array_equal(got.inputs["image"], values)
    assert got.inputs["image"].dtype == np.float32
    assert (got.rows, got.raw, got.id, got.model_name) == (3, raw, "42", "kiosk")
    assert got.requested_outputs is None


@pytest.mark.parametrize("raw", [True, False])
def test_nobody_can_write_into_what_was_sent(raw):
    array = decoded(request(raw=raw)).inputs["image"]
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0, 0] = 1


def test_raw_contents_are_not_copied_again():
    array = decoded(request()).inputs["image"]
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert isinstance(array.base, bytes)


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in {"BYTES", "BF16"}])
def test_every_fixed_width_datatype_arrives_raw(datatype):
    values = np.array([0, 1, 1], DATATYPES[datatype].wire)
    message = ModelInferRequest(raw_input_contents=[values.tobytes()])
    message.inputs.add(name="x", datatype=datatype, shape=[3])
    got = decoded(message, (Tensor("x", datatype, (-1,)),)).inputs["x"]
    np.testing.assert_array_equal(got, values)
    assert got.dtype == values.dtype


@pytest.mark.parametrize("datatype", [name for name, kind in DATATYPES.items() if kind.contents and name != "BYTES"])
def test_every_datatype_with_a_field_arrives_typed(datatype):
    message, specs = one(datatype, [0, 1, 1])
    got = decoded(message, specs).inputs["x"]
    np.testing.assert_array_equal(got, np.array([0, 1, 1], DATATYPES[datatype].wire))
    assert got.dtype == DATATYPES[datatype].wire


def test_bf16_arrives_as_float32():
    bits = np.array([0x3F80, 0xC000, 0x0001], "<u2")  # 1, -2, the smallest subnormal
    message = ModelInferRequest(raw_input_contents=[bits.tobytes()])
    message.inputs.add(name="x", datatype="BF16", shape=[3])
    got = decoded(message, (Tensor("x", "BF16", (-1,)),)).inputs["x"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got[:2], [1.0, -2.0])
    assert 0 < got[2] < 1e-37
    np.testing.assert_array_equal(got, widen_bf16(bits))


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_travels_raw_only(datatype):
    message = ModelInferRequest()
    message.inputs.add(name="x", datatype=datatype, shape=[1]).contents.fp32_contents.append(1)
    assert refused_field(message, (Tensor("x", datatype, (-1,)),)) == "inputs[0].contents"


def test_bytes_arrive_raw_and_typed():
    words = [b"", b"a", b"\x00\xff" * 3]
    spec = (Tensor("x", "BYTES", (-1,)),)
    typed, _ = one("BYTES", words)
    raw = ModelInferRequest(raw_input_contents=[b"".join(len(w).to_bytes(4, "little") + w for w in words)])
    raw.inputs.add(name="x", datatype="BYTES", shape=[3])
    assert decoded(typed, spec).inputs["x"].tolist() == words
    assert decoded(raw, spec).inputs["x"].tolist() == words


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x00\x00",
        b"\x01\x00\x00\x00",
        b"\x02\x00\x00\x00a",
        b"\xff\xff\xff\xffa",
        b"\x01\x00\x00\x00ab",
        b"\x01\x00\x00\x00a\x00\x00\x00\x00",
    ],
)
def test_bytes_that_do_not_add_up_are_refused(data):
    message = ModelInferRequest(raw_input_contents=[data])
    message.inputs.add(name="x", datatype="BYTES", shape=[1])
    assert refused_field(message, (Tensor("x", "BYTES", (-1,)),)) == "raw_input_contents[0]"


def test_contents_beside_raw_are_refused_even_empty_ones():
    message = request()
    message.inputs[0].contents.SetInParent()
    assert refused_field(message) == "inputs[0].contents"


def test_contents_of_another_datatype_are_refused():
    message = request(raw=False)
    message.inputs[0].contents.int_contents.append(1)
    assert refused_field(message) == "inputs[0].contents.int_contents"


@pytest.mark.parametrize(("delta", "field"), [(-1, "raw_input_contents[0]"), (1, "raw_input_contents[0]")])
def test_raw_length_must_agree(delta, field):
    message = request()
    message.raw_input_contents[0] = bytes(24 + delta)
    assert refused_field(message) == field


@pytest.mark.parametrize("count", [5, 7, 0])
def test_typed_length_must_agree(count):
    message = request(raw=False)
    del message.inputs[0].contents.fp32_contents[:]
    message.inputs[0].contents.fp32_contents.extend([0.5] * count)
    assert refused_field(message) == "inputs[0].contents.fp32_contents"


def test_entries_of_raw_contents_must_be_as_many_as_inputs():
    message = request()
    message.raw_input_contents.append(b"")
    assert refused_field(message) == "raw_input_contents"
    nothing = ModelInferRequest(raw_input_contents=[b""])
    assert refused_field(nothing) == "raw_input_contents"


def test_a_boolean_byte_is_zero_or_one():
    message = ModelInferRequest(raw_input_contents=[b"\x00\x02"])
    message.inputs.add(name="x", datatype="BOOL", shape=[2])
    assert refused_field(message, (Tensor("x", "BOOL", (-1,)),)) == "raw_input_contents[0]"


@pytest.mark.parametrize(
    ("datatype", "least", "most"),
    [("INT8", -128, 127), ("INT16", -32768, 32767), ("UINT8", 0, 255), ("UINT16", 0, 65535)],
)
def test_narrow_integers_in_wide_fields_stay_in_their_range(datatype, least, most):
    message, specs = one(datatype, [least, most])
    assert decoded(message, specs).inputs["x"].tolist() == [least, most]
    message, specs = one(datatype, [most + 1])
    assert refused_field(message, specs).startswith("inputs[0].contents.")
    if least:
        message, specs = one(datatype, [least - 1])
        assert refused_field(message, specs).startswith("inputs[0].contents.")


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        ([], "inputs[0].shape"),
        ([1, 6], "inputs[0].shape"),
        ([1, 2, 3, 1], "inputs[0].shape"),
        ([0, 2, 3], "inputs[0].shape[0]"),
        ([-1, 2, 3], "inputs[0].shape[0]"),
        ([1, -2, -3], "inputs[0].shape[1]"),
        ([1, 2, 2**62], "inputs[0].shape[2]"),
        ([-(2**63), 2, 3], "inputs[0].shape[0]"),
    ],
)
def test_a_shape_that_is_not_the_models_is_refused(shape, field):
    message = request()
    message.inputs[0].shape[:] = shape
    assert refused_field(message) == field


def test_shapes_whose_product_overflows_64_bits_are_refused_by_their_size():
    spec = (Tensor("x", "FP32", (-1, -1, -1)),)
    message = ModelInferRequest(raw_input_contents=[b""])
    message.inputs.add(name="x", datatype="FP32", shape=[2, 2**32, 2**31])  # 2**64: zero, in 64 bits
    with pytest.raises(RequestTooLarge, match="elements of a tensor"):
        decoded(message, spec)


def test_a_second_free_dimension_may_have_any_positive_size():
    spec = (Tensor("x", "FP32", (-1, -1)),)
    message = ModelInferRequest(raw_input_contents=[bytes(24)])
    message.inputs.add(name="x", datatype="FP32", shape=[2, 3])
    assert decoded(message, spec).inputs["x"].shape == (2, 3)
    message.inputs[0].shape[1] = 0
    assert refused_field(message, spec) == "inputs[0].shape[1]"


def test_a_model_may_fix_its_rows():
    spec = (Tensor("x", "BOOL", (2, 3)),)
    message = ModelInferRequest(raw_input_contents=[bytes(6)])
    message.inputs.add(name="x", datatype="BOOL", shape=[2, 3])
    assert decoded(message, spec).rows == 2
    message.inputs[0].shape[0] = 1
    assert refused_field(message, spec) == "inputs[0].shape[0]"


def test_datatype_and_names_must_be_the_models():
    message = request()
    message.inputs[0].datatype = "FP64"
    assert refused_field(message) == "inputs[0].datatype"
    message.inputs[0].name = "img"
    assert refused_field(message) == "inputs[0].name"


def test_an_input_may_not_appear_twice_nor_be_missing():
    message = request()
    message.inputs.append(message.inputs[0])
    message.raw_input_contents.append(message.raw_input_contents[0])
    assert refused_field(message) == "inputs[1].name"
    assert refused_field(ModelInferRequest()) == "inputs[image]"


def test_inputs_come_in_any_order_with_the_same_rows():
    specs = (Tensor("a", "INT32", (-1,)), Tensor("b", "INT32", (-1,)))
    message = ModelInferRequest(raw_input_contents=[bytes([1, 0, 0, 0]), bytes([2, 0, 0, 0])])
    message.inputs.add(name="b", datatype="INT32", shape=[1])
    message.inputs.add(name="a", datatype="INT32", shape=[1])
    got = decoded(message, specs)
    assert (got.inputs["a"].tolist(), got.inputs["b"].tolist()) == ([2], [1])
    message.inputs[1].shape[0] = 2
    message.raw_input_contents[1] = bytes(8)
    assert refused_field(message, specs) == "inputs[1].shape[0]"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.0000001, -1e-45])
@pytest.mark.parametrize("raw", [True, False])
def test_a_number_that_is_not_in_the_declared_range_is_refused(bad, raw):
    values = np.full((2, 2, 3), 0.5, np.float32)
    values[1, 1, 2] = bad
    assert refused_field(request(values, raw=raw)) == ("raw_input_contents[0]" if raw else "inputs[0].contents")


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_position_hides_a_number_that_is_not_finite(datatype, bad):
    """Vectorised loops treat the ends of an array differently from its middle."""
    for length in (1, 7, 8, 33, 130):
        for position in range(length):
            values = np.linspace(-1, 1, length)
            values[position] = bad
            wire = narrow_bf16(values) if datatype == "BF16" else values.astype(DATATYPES[datatype].wire)
            message = ModelInferRequest(raw_input_contents=[wire.tobytes()])
            message.inputs.add(name="x", datatype=datatype, shape=[length])
            assert refused_field(message, (Tensor("x", datatype, (-1,)),)) == "raw_input_contents[0]"


def test_both_ends_of_the_declared_range_are_inside_as_the_client_writes_them():
    for datatype in ("FP16", "FP32", "FP64", "BF16"):
        spec = Tensor("x", datatype, (-1,), low=-0.1, high=0.1)
        if datatype == "BF16":
            values = np.array([0xBDCD, 0x3DCD], "<u2")  # what 0.1 is in BF16, and it is above 0.1
        else:
            values = np.array([-0.1, 0.1], DATATYPES[datatype].wire)
        message = ModelInferRequest(raw_input_contents=[values.tobytes()])
        message.inputs.add(name="x", datatype=datatype, shape=[2])
        assert decoded(message, (spec,)).rows == 2


def test_a_bound_that_a_narrow_float_cannot_hold_bounds_nothing():
    spec = Tensor("x", "FP16", (-1,), low=-1e30, high=1e30)
    message = ModelInferRequest(raw_input_contents=[np.array([65504], "<f2").tobytes()])
    message.inputs.add(name="x", datatype="FP16", shape=[1])
    assert decoded(message, (spec,)).rows == 1


def test_integers_have_ranges_too():
    message, specs = one("INT64", [5], low=0, high=5)
    assert decoded(message, specs).rows == 1
    message, specs = one("INT64", [6], low=0, high=5)
    assert refused_field(message, specs) == "inputs[0].contents"


def test_integers_without_a_declared_range_may_be_anything():
    message, specs = one("INT64", [-(2**63), 2**63 - 1])
    assert decoded(message, specs).inputs["x"].tolist() == [-(2**63), 2**63 - 1]


def test_floats_without_a_declared_range_must_still_be_finite():
    message, specs = one("FP64", [1e300, float("nan")])
    assert refused_field(message, specs) == "inputs[0].contents"


def test_requested_outputs_are_kept_in_order_and_must_exist_once():
    message = request()
    message.outputs.add(name="energy")
    message.outputs.add(name="probabilities")
    assert decoded(message).requested_outputs == ("energy", "probabilities")
    message.outputs.add(name="energy")
    assert refused_field(message) == "outputs[2].name"
    message.outputs[2].name = "weights"
    assert refused_field(message) == "outputs[2].name"


def test_a_typed_request_cannot_ask_for_an_output_that_only_travels_raw():
    outputs = (*OUTPUTS, Tensor("half", "FP16", (-1,)))
    message = request(raw=False)
    assert refused_field(message, outputs=outputs) == "outputs"
    message.outputs.add(name="energy")
    assert decoded(message, outputs=outputs).requested_outputs == ("energy",)
    message.outputs.add(name="half")
    assert refused_field(message, outputs=outputs) == "outputs[1]"
    message.outputs[1].parameters["classification"].int64_param = 1  # strings, which have a field
    assert decoded(message, outputs=outputs).classification == {"half": 1}


def test_a_model_without_inputs_is_asked_for_one_row_and_answers_raw():
    got = decoded(ModelInferRequest(), inputs=())
    assert (got.inputs, got.rows, got.raw) == ({}, 1, True)


PARAMETERS = [
    (InferParameter(int64_param=7), 7),
    (InferParameter(uint64_param=2**64 - 1), 2**64 - 1),
    (InferParameter(string_param="0"), 0),
    (InferParameter(string_param=str(2**64 - 1)), 2**64 - 1),
]


@pytest.mark.parametrize(("value", "number"), PARAMETERS)
def test_timeout_and_priority_are_read_in_every_form_a_client_has(value, number):
    message = request()
    message.parameters["timeout"].CopyFrom(value)
    message.parameters["priority"].CopyFrom(value)
    got = decoded(message)
    assert (got.timeout_us, got.priority) == (number, number)


@pytest.mark.parametrize(
    "value",
    [
        InferParameter(int64_param=-1),
        InferParameter(string_param=str(2**64)),
        InferParameter(string_param="1" * 21),
        InferParameter(string_param="-1"),
        InferParameter(string_param=" 1"),
        InferParameter(string_param="\u0661"),  # a digit, and not one of ours
        InferParameter(string_param=""),
        InferParameter(double_param=1.0),
        InferParameter(bool_param=True),
        InferParameter(),
    ],
)
def test_a_timeout_that_is_no_number_is_refused(value):
    message = request()
    message.parameters["timeout"].CopyFrom(value)
    assert refused_field(message) == "parameters[timeout]"


def test_more_digits_than_python_converts_are_refused_all_the_same():
    message = request()
    message.parameters["timeout"].string_param = "1" * 5000
    with pytest.raises(TensorInvalid):
        decoded(message, limits=CodecLimits(string_bytes_max=5000))


def test_parameters_of_other_servers_are_ignored():
    message = request()
    message.parameters["sequence_id"].uint64_param = 3
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    got = decoded(message)
    assert (got.timeout_us, got.priority) == (None, 0)


@pytest.mark.parametrize("where", ["input", "output"])
def test_shared_memory_is_refused(where):
    message = request()
    tensor = message.inputs[0] if where == "input" else message.outputs.add(name="energy")
    tensor.parameters["shared_memory_region"].string_param = "/dev/shm/x"
    assert refused_field(message) == f"{where}s[0].parameters"


def test_classification_is_read_and_needs_numbers():
    message = request()
    message.outputs.add(name="probabilities").parameters["classification"].int64_param = 3
    assert decoded(message).classification == {"probabilities": 3}
    message.outputs[0].parameters["classification"].int64_param = 0
    assert decoded(message).classification == {}
    message.outputs[0].name = "label"
    message.outputs[0].parameters["classification"].int64_param = 1
    assert refused_field(message) == "outputs[0].parameters[classification]"


def test_no_refusal_repeats_what_was_sent():
    secret = "hunter2"
    hostile = []
    message = request()
    message.inputs[0].name = secret
    hostile.append(message)
    message = request()
    message.inputs[0].datatype = secret
    hostile.append(message)
    message = request()
    message.outputs.add(name=secret)
    hostile.append(message)
    message = request()
    message.parameters["timeout"].string_param = secret
    hostile.append(message)
    message = request()
    message.inputs[0].parameters[f"shared_memory_{secret}"].string_param = secret
    hostile.append(message)
    for message in hostile:
        with pytest.raises(TensorInvalid) as caught:
            decoded(parse(message.SerializeToString(), CodecLimits()))
        assert secret not in str(caught.value)

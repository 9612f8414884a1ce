"""Every limit of the codec, at it and one past it, and the memory that hostile messages can cost."""

import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from google.protobuf.internal import api_implementation

from gateway.codec import CodecLimits, decode, parse, parse_as
from gateway.codec.parse import UNSCANNED_BYTES_MAX
from gateway.errors import MalformedMessage, RequestTooLarge, TensorInvalid
from stockade.open_inference.grpc_service_pb2 import ModelInferRequest, ModelMetadataRequest
from tests.gateway.wire_samples import INPUTS, LIMITS, OUTPUTS, Tensor, request

SMALL = CodecLimits(rows_max=3, elements_max=18, tensors_max=2, parameters_max=2, string_bytes_max=8)


def too_large(message, limits, inputs=INPUTS):
    with pytest.raises(RequestTooLarge) as caught:
        decode(message, inputs, OUTPUTS, limits)
    return caught.value.what, caught.value.limit


def test_message_bytes():
    body = request().SerializeToString()
    assert parse(body, replace(LIMITS, message_bytes_max=len(body))).id == "42"
    with pytest.raises(RequestTooLarge) as caught:
        parse(body, replace(LIMITS, message_bytes_max=len(body) - 1))
    assert (caught.value.what, caught.value.limit) == ("message", len(body) - 1)


def test_message_bytes_of_the_other_methods():
    body = ModelMetadataRequest(name="n" * (UNSCANNED_BYTES_MAX - 4)).SerializeToString()
    assert len(body) == UNSCANNED_BYTES_MAX
    assert len(parse_as(ModelMetadataRequest, body, LIMITS).name) == UNSCANNED_BYTES_MAX - 4
    with pytest.raises(RequestTooLarge):
        parse_as(ModelMetadataRequest, body + b"\x00", LIMITS)
    with pytest.raises(RequestTooLarge):
        parse_as(ModelMetadataRequest, body, replace(LIMITS, message_bytes_max=len(body) - 1))
    with pytest.raises(MalformedMessage):
        parse_as(ModelMetadataRequest, b"\x0a\x05", LIMITS)


def test_rows_and_elements():
    assert decode(request(np.zeros((3, 2, 3))), INPUTS, OUTPUTS, SMALL).rows == 3
    assert too_large(request(np.zeros((4, 2, 3))), SMALL) == ("rows", 3)
    assert too_large(request(np.zeros((3, 2, 3))), replace(SMALL, elements_max=17)) == ("elements of a tensor", 17)


def test_inputs():
    specs = [Tensor(name, "BOOL", (-1,)) for name in "abc"]
    message = ModelInferRequest(raw_input_contents=[b"\x00"] * 2)
    for spec in specs[:2]:
        message.inputs.add(name=spec.name, datatype="BOOL", shape=[1])
    assert decode(message, specs[:2], (), SMALL).rows == 1
    message.inputs.add(name="c", datatype="BOOL", shape=[1])
    message.raw_input_contents.append(b"\x00")
    assert too_large(message, SMALL, specs) == ("inputs", 2)


def test_requested_outputs():
    message = request()
    for name in ("energy", "label"):
        message.outputs.add(name=name)
    assert decode(message, INPUTS, OUTPUTS, SMALL).requested_outputs == ("energy", "label")
    message.outputs.add(name="probabilities")
    assert too_large(message, SMALL) == ("outputs", 2)


@pytest.mark.parametrize("where", ["request", "input", "output"])
def test_parameters(where):
    message = request()
    holder = {"request": message, "input": message.inputs[0], "output": message.outputs.add(name="energy")}[where]
    holder.parameters["k" * 8].string_param = "v" * 8
    holder.parameters["b"].bool_param = True
    assert decode(message, INPUTS, OUTPUTS, SMALL).rows == 1
    holder.parameters["c"].bool_param = True
    assert too_large(message, SMALL)[1] == 2
    del holder.parameters["c"]
    holder.parameters["b"].string_param = "v" * 9
    assert too_large(message, SMALL)[1] == 8
    del holder.parameters["b"]
    holder.parameters["k" * 9].bool_param = True
    assert too_large(message, SMALL)[1] == 8


@pytest.mark.parametrize("field", ["model_name", "model_version", "id"])
def test_strings_are_measured_in_bytes(field):
    message = ModelInferRequest(**{field: "\u00e4" * 4})
    assert getattr(parse(message.SerializeToString(), SMALL), field) == "\u00e4" * 4
    setattr(message, field, "\u00e4" * 4 + "a")
    with pytest.raises(RequestTooLarge, match=field):
        parse(message.SerializeToString(), SMALL)


def test_dims_and_fields_of_a_large_message():
    """The counts that are checked on the bytes, before protobuf makes anything of them."""
    limits = replace(LIMITS, tensors_max=1, parameters_max=1, dims_max=2)
    filler = ModelInferRequest(raw_input_contents=[bytes(UNSCANNED_BYTES_MAX)]).SerializeToString()

    def empty_inputs(count):
        return filler + b"\x2a\x00" * count  # field 5, no bytes

    fields_max = 8 + 3 + 1
    assert len(parse(empty_inputs(fields_max - 1), limits).inputs) == fields_max - 1
    with pytest.raises(RequestTooLarge, match="fields of the message"):
        parse(empty_inputs(fields_max), limits)

    def dims(count):
        unpacked = b"\x18\x01" * count  # field 3 of the tensor, one element a field
        return filler + b"\x2a" + bytes([len(unpacked)]) + unpacked

    tensor_fields_max = 8 + 2 + 1
    assert len(parse(dims(tensor_fields_max), limits).inputs[0].shape) == tensor_fields_max
    with pytest.raises(RequestTooLarge, match="fields of a tensor"):
        parse(dims(tensor_fields_max + 1), limits)


def large(*pieces: bytes) -> bytes:
    """A message beyond the size from which bodies are walked, with a tensor of these pieces."""
    tensor = b"".join(pieces)
    return b"\x2a" + varint(len(tensor)) + tensor + b"\x3a" + varint(UNSCANNED_BYTES_MAX) + bytes(UNSCANNED_BYTES_MAX)


def varint(number: int) -> bytes:
    low = number & 0x7F
    return bytes([low | 0x80]) + varint(number >> 7) if number > 0x7F else bytes([low])


def contents(inner: bytes) -> bytes:
    return b"\x2a" + varint(len(inner)) + inner


def packed(field: int, numbers: bytes) -> bytes:
    return bytes([field << 3 | 2]) + varint(len(numbers)) + numbers


FEW = replace(LIMITS, single_elements_max=5, packed_elements_max=7, dims_max=2)


@pytest.mark.parametrize("field", [1, 2, 3, 4, 5], ids=["bool", "int", "int64", "uint", "uint64"])
@pytest.mark.parametrize("number", [b"\x01", b"\x81\x01"], ids=["one byte", "two bytes"])
def test_packed_numbers_are_counted_before_protobuf_makes_anything_of_them(field, number):
    assert parse(large(contents(packed(field, number * 7))), FEW).inputs[0].HasField("contents")
    with pytest.raises(RequestTooLarge, match="not raw") as refused:
        parse(large(contents(packed(field, number * 8))), FEW)
    assert refused.value.limit == 7


@pytest.mark.parametrize("element", [b"\x42\x00", b"\x28\x01"], ids=["BYTES", "numbers that are not packed"])
def test_elements_that_come_one_by_one_are_counted(element):
    assert parse(large(contents(element * 5)), FEW).inputs[0].HasField("contents")
    with pytest.raises(RequestTooLarge, match="not raw") as refused:
        parse(large(contents(element * 6)), FEW)
    assert refused.value.limit == 5


def test_packed_dimensions_are_bounded():
    assert len(parse(large(packed(3, b"\x01" * 20)), FEW).inputs[0].shape) == 20  # `decode` refuses these, cheaply
    with pytest.raises(RequestTooLarge, match="dimensions of a tensor"):
        parse(large(packed(3, b"\x01" * 21)), FEW)


@pytest.mark.parametrize(
    "tail",
    [
        b"\x2a",  # no length
        b"\x2a\x05\x00",  # a length past the end
        b"\x2a\x02\x2a\x05",  # an inner length past its own end
        b"\x0b\x0c",  # a group
        b"\xff" * 11,  # a varint without an end
        b"\x09\x00",  # eight bytes, of which one is there
        b"\x0d\x00",  # four bytes, of which one is there
        b"\x0f",  # a wire type that does not exist
    ],
)
def test_broken_fields_of_a_large_message_are_malformed(tail):
    filler = ModelInferRequest(raw_input_contents=[bytes(UNSCANNED_BYTES_MAX)]).SerializeToString()
    assert parse(filler, LIMITS)
    with pytest.raises(MalformedMessage):
        parse(filler + tail, LIMITS)


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a\x05ab",  # truncated
        b"\x0a\x01\xff",  # not UTF-8
        b"\x0b" * 200,  # groups deeper than protobuf follows
        b"\x00",  # field number zero
    ],
)
def test_broken_small_messages_are_malformed(body):
    with pytest.raises(MalformedMessage):
        parse(body, LIMITS)


def peak_bytes(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("datatype", ["FP32", "BYTES", "BF16", "BOOL"])
@pytest.mark.parametrize("raw", [True, False])
def test_a_claimed_shape_allocates_nothing(datatype, raw):
    """The limits would let this tensor through; its bytes are not there."""
    wide = replace(LIMITS, elements_max=2**40)
    spec = (Tensor("x", datatype, (-1, -1)),)
    message = ModelInferRequest(raw_input_contents=[b"\x00"] if raw else [])
    message.inputs.add(name="x", datatype=datatype, shape=[256, 2**30])

    def refused():
        with pytest.raises(TensorInvalid):
            decode(message, spec, (), wide)

    assert peak_bytes(refused) < 100_000


GROWTH_OF = """
import resource, sys
from gateway.codec import CodecLimits, parse
from gateway.errors import Refusal
body = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    parse(body, CodecLimits())
except Refusal:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("field", [b"\x22", b"\x2a", b"\x32", b"\x3a"])
def test_a_large_message_of_nothing_costs_nothing(field):
    """4 MiB of empty tensors would be 176 MB of objects outside of Python's own accounting, hence a process."""
    body = (field + b"\x00") * (LIMITS.message_bytes_max // 2)
    result = subprocess.run([sys.executable, "-c", GROWTH_OF], input=body, capture_output=True, check=True)
    assert int(result.stdout) < 4 * 1024  # KiB


def test_protobuf_is_the_fast_one():
    """upb bounds depth and checks UTF-8 while parsing, and is what the measured times rest on."""
    assert api_implementation.Type() == "upb"

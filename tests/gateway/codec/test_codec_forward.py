"""The other side of the wire: what we send is read by others as it was meant, and any bytes that come back give arrays
as declared or one of the codec's three errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.codec import CodecLimits, decode, parse, read_reply, write_request
from gateway.codec.datatypes import DATATYPES
from gateway.errors import MalformedMessage, RequestTooLarge, TensorInvalid
from stockade.open_inference.grpc_service_pb2 import ModelInferResponse
from tests.gateway.codec.test_codec_properties import raw_bytes, tensors
from tests.gateway.wire_samples import CLIENTS, Tensor, client_message

LIMITS = CodecLimits(message_bytes_max=70_000, tensors_max=4)
OUTPUTS = (Tensor("y", "FP32", (-1, 3)), Tensor("words", "BYTES", (-1,)))


def a_reply(rows=2):
    reply = ModelInferResponse(model_name="m", model_version="1")
    reply.outputs.add(name="y", datatype="FP32", shape=[rows, 3])
    reply.outputs.add(name="words", datatype="BYTES", shape=[rows])
    reply.raw_output_contents.append(np.zeros((rows, 3), np.float32).tobytes())
    reply.raw_output_contents.append(b"\x01\x00\x00\x00w" * rows)
    return reply.SerializeToString()


def outcome(body, rows=2):
    try:
        arrays = read_reply(body, ("m", "1"), OUTPUTS, rows, LIMITS)
    except (MalformedMessage, RequestTooLarge, TensorInvalid) as error:
        return type(error)
    assert arrays["y"].shape == (rows, 3)
    assert np.isfinite(arrays["y"]).all()
    assert arrays["words"].shape == (rows,)
    assert all(isinstance(word, bytes) for word in arrays["words"])
    return None


@given(tensors())
def test_what_we_send_is_read_as_clients_send_it(tensor):
    datatype, array = tensor
    spec = Tensor("x", datatype, (-1, array.shape[1]))
    body = write_request("m", "7", {"x": array}, (spec,), OUTPUTS)
    message = parse(body, LIMITS)
    assert (message.model_name, message.model_version, message.id) == ("m", "7", "")
    request = decode(message, (spec,), OUTPUTS, CodecLimits())
    np.testing.assert_array_equal(request.inputs["x"], array)
    assert request.requested_outputs == ("y", "words")


@given(tensors(), st.sampled_from(CLIENTS), st.booleans())
def test_what_others_write_is_read(tensor, client, raw):
    """The message classes of real servers' packages, raw and typed."""
    datatype, array = tensor
    raw = raw or DATATYPES[datatype].contents is None
    theirs = client_message(client, "ModelInferResponse")(model_name="m", model_version="1")
    output = theirs.outputs.add(name="x", datatype=datatype, shape=array.shape)
    if raw:
        theirs.raw_output_contents.append(raw_bytes(array))
    else:
        getattr(output.contents, DATATYPES[datatype].contents).extend(array.ravel().tolist())
    spec = Tensor("x", datatype, (-1, array.shape[1]))
    found = read_reply(theirs.SerializeToString(), ("m", "1"), (spec,), len(array), LIMITS)
    np.testing.assert_array_equal(found["x"], array)


def test_a_good_reply_is_read():
    assert outcome(a_reply()) is None
    assert outcome(a_reply(), rows=3) is TensorInvalid


@pytest.mark.parametrize("size", [70_000, 70_001])
def test_a_message_at_the_limit_and_one_past_it(size):
    reply = ModelInferResponse.FromString(a_reply())
    reply.id = "x" * (size - reply.ByteSize() - 4)
    assert reply.ByteSize() == size
    assert outcome(reply.SerializeToString()) is (None if size <= 70_000 else RequestTooLarge)


@pytest.mark.parametrize("name", ["", "m"])
def test_servers_may_leave_out_whose_reply_it_is(name):
    reply = ModelInferResponse.FromString(a_reply())
    reply.model_name, reply.model_version = name, ""
    assert outcome(reply.SerializeToString()) is None


@given(st.binary(max_size=200))
@example(b"\x2a\x00" * 34_000)
@example(b"\x32\x00" * 34_000)
def test_any_bytes_are_refused(body):
    assert outcome(body) in {MalformedMessage, RequestTooLarge, TensorInvalid}


@given(st.data())
def test_a_changed_reply_is_a_reply_or_refused(data):
    content = bytearray(a_reply())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(content)) in {None, MalformedMessage, RequestTooLarge, TensorInvalid}

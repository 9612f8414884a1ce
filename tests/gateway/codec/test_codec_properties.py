"""Properties of the codec over arbitrary tensors and arbitrary bytes."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.codec import decode, encode, parse
from gateway.codec.datatypes import DATATYPES
from stockade.open_inference.grpc_service_pb2 import ModelInferRequest
from tests.gateway import codec_property
from tests.gateway.wire_samples import CLIENTS, LIMITS, Tensor, client_message

ROOT = Path(__file__).parents[3]
SEEDS = codec_property.seeds()
FIXED = [name for name in DATATYPES if name not in {"BYTES", "BF16"}]


@st.composite
def tensors(draw):
    """A datatype and an array of it, two-dimensional, finite."""
    name = draw(st.sampled_from([*FIXED, "BYTES"]))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    if name == "BYTES":
        words = draw(st.lists(st.binary(max_size=9), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
        array = np.empty(len(words), object)
        array[:] = words
        return name, array.reshape(shape)
    options = {"allow_nan": False, "allow_infinity": False} if DATATYPES[name].is_float else {}
    return name, draw(hnp.arrays(DATATYPES[name].wire, shape, elements=hnp.from_dtype(DATATYPES[name].wire, **options)))


def raw_bytes(array):
    if array.dtype == object:
        return b"".join(len(word).to_bytes(4, "little") + word for word in array.ravel())
    return array.tobytes()


@given(tensors(), st.text(max_size=20), st.sampled_from(CLIENTS), st.booleans())
def test_what_a_client_sends_arrives_and_comes_back(tensor, request_id, client, raw):
    """The client's own message classes on both ends: request in, the same tensor echoed as output."""
    datatype, array = tensor
    raw = raw or DATATYPES[datatype].contents is None
    theirs = client_message(client, "ModelInferRequest")(model_name="echo", id=request_id)
    declared = theirs.inputs.add(name="x", datatype=datatype, shape=array.shape)
    if raw:
        theirs.raw_input_contents.append(raw_bytes(array))
    else:
        getattr(declared.contents, DATATYPES[datatype].contents).extend(array.ravel().tolist())

    spec = Tensor("x", datatype, (-1, -1))
    request = decode(parse(theirs.SerializeToString(), LIMITS), (spec,), (spec,), LIMITS)
    np.testing.assert_array_equal(request.inputs["x"], array)
    assert request.id == request_id

    body = encode(request, "echo", "1", {"x": request.inputs["x"]}, {"x": datatype})
    reply = client_message(client, "ModelInferResponse").FromString(body)
    (output,) = reply.outputs
    assert (reply.id, reply.model_name, reply.model_version) == (request_id, "echo", "1")
    assert (output.datatype, tuple(output.shape)) == (datatype, array.shape)
    if raw:
        assert list(reply.raw_output_contents) == [raw_bytes(array)]
    else:
        assert list(getattr(output.contents, DATATYPES[datatype].contents)) == array.ravel().tolist()
    assert not len(UnknownFieldSet(reply))


@given(st.binary(max_size=300))
@example(b"\x0b" * 150)
def test_any_bytes_give_a_value_or_the_named_error(body):
    codec_property.check(body)


@st.composite
def mutated(draw):
    """A good request with a few bytes changed, cut out or repeated: it gets further in than noise does."""
    body = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(body) - 1)))
        match draw(st.sampled_from(["set", "cut", "repeat", "insert"])):
            case "set" if body:
                body[at] = draw(st.integers(0, 255))
            case "cut":
                del body[at : at + draw(st.integers(1, 8))]
            case "repeat":
                body[at:at] = body[at : at + draw(st.integers(1, 40))]
            case "insert":
                body[at:at] = draw(st.binary(max_size=8))
    return bytes(body)


@given(mutated())
def test_any_mutation_gives_a_value_or_the_named_error(body):
    codec_property.check(body)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_truncation_gives_a_value_or_the_named_error(seed):
    assert codec_property.check(seed) is not None  # or the property is tried on nothing
    for length in range(len(seed)):
        codec_property.check(seed[:length])


@pytest.mark.parametrize("bits", [0x7F800001, 0xFF800001, 0x7FC00000, 0x7F800000, 0xFF800000])
def test_signalling_and_quiet_nans_and_infinities_are_refused_without_a_warning(bits):
    message = ModelInferRequest(raw_input_contents=[bits.to_bytes(4, "little")])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    assert codec_property.check(message.SerializeToString()) is None


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this platform")
def test_the_fuzzer_finds_nothing_in_a_few_seconds():
    """Guided by coverage, from the seeds. `runs` bounds it on any machine; longer campaigns run the file itself."""
    command = [sys.executable, "-m", "tests.gateway.fuzz_codec", "-runs=200000", "-max_len=4096"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "Done" in result.stderr

"""encode: the bytes are protobuf's own, the numbers are the rows of the request that asked, and nothing else leaves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.codec import InferRequest, encode, encode_batch
from gateway.codec.datatypes import DATATYPES, narrow_bf16, widen_bf16
from gateway.errors import ModelError
from stockade.open_inference.grpc_service_pb2 import ModelInferResponse

DATATYPE_OF = {"probabilities": "FP32", "energy": "FP32", "label": "BYTES"}


def asked(rows=1, *, raw=True, outputs=None, classification=None, request_id="42"):
    return InferRequest("kiosk", "", request_id, {}, rows, raw, outputs, classification or {}, 0, None)


def batch(rows):
    scores = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    labels = np.empty(rows, object)
    labels[:] = [f"row {row}".encode() for row in range(rows)]
    return {"probabilities": scores, "energy": -np.arange(rows, dtype=np.float32), "label": labels}


def reply(data):
    return ModelInferResponse.FromString(data)


def as_protobuf_writes_it(data):
    return reply(data).SerializeToString(deterministic=True)


@pytest.mark.parametrize("request_id", ["", "42", "\u00e4" * 300])
@pytest.mark.parametrize("outputs", [None, ("energy",), ("label", "probabilities"), ()])
def test_the_bytes_are_those_that_protobuf_writes(request_id, outputs):
    data = encode(
        asked(2, outputs=outputs, request_id=request_id),
        "kiosk",
        "1",
        batch(2),
        DATATYPE_OF,
        parameters={"triton_final_response": True},
    )
    assert data == as_protobuf_writes_it(data)
    message = reply(data)
    assert (message.model_name, message.model_version, message.id) == ("kiosk", "1", request_id)
    assert [output.name for output in message.outputs] == list(batch(1) if outputs is None else outputs)


def test_raw_contents_stand_in_the_order_of_the_outputs():
    message = reply(encode(asked(2, outputs=("energy", "label", "probabilities")), "kiosk", "1", batch(2), DATATYPE_OF))
    energy, label, probabilities = message.raw_output_contents
    assert np.frombuffer(energy, "<f4").tolist() == [0, -1]
    assert label == b"\x05\x00\x00\x00row 0\x05\x00\x00\x00row 1"
    assert np.frombuffer(probabilities, "<f4").tolist() == list(range(8))
    assert [list(output.shape) for output in message.outputs] == [[2], [2], [2, 4]]
    assert [output.datatype for output in message.outputs] == ["FP32", "BYTES", "FP32"]
    assert not any(output.HasField("contents") for output in message.outputs)


def test_a_typed_request_is_answered_in_contents():
    message = reply(encode(asked(2, raw=False), "kiosk", "1", batch(2), DATATYPE_OF))
    assert not message.raw_output_contents
    probabilities, energy, label = (output.contents for output in message.outputs)
    assert list(probabilities.fp32_contents) == list(range(8))
    assert list(energy.fp32_contents) == [0, -1]
    assert list(label.bytes_contents) == [b"row 0", b"row 1"]


@pytest.mark.parametrize("datatype", [name for name, kind in DATATYPES.items() if name not in {"BYTES", "BF16"}])
def test_every_fixed_width_datatype_is_written_whatever_the_array_was(datatype):
    array = np.array([[0, 1], [1, 1]], np.float64)
    message = reply(encode(asked(2), "m", "1", {"x": array.T}, {"x": datatype}))
    np.testing.assert_array_equal(np.frombuffer(message.raw_output_contents[0], DATATYPES[datatype].wire), [0, 1, 1, 1])
    if DATATYPES[datatype].contents:
        typed = reply(encode(asked(2, raw=False), "m", "1", {"x": array.T}, {"x": datatype}))
        assert list(getattr(typed.outputs[0].contents, DATATYPES[datatype].contents)) == [0, 1, 1, 1]


def test_bf16_leaves_as_the_nearest_bf16():
    message = reply(encode(asked(2), "m", "1", {"x": np.array([1.0, 0.1])}, {"x": "BF16"}))
    assert message.raw_output_contents[0] == b"\x80\x3f\xcd\x3d"
    assert message.outputs[0].datatype == "BF16"


def test_parameters_have_the_type_of_their_value():
    parameters = {"a": True, "b": 3, "c": 0.5, "d": "e"}
    message = reply(encode(asked(), "m", "1", {}, {}, parameters=parameters))
    assert {key: value.WhichOneof("parameter_choice") for key, value in message.parameters.items()} == {
        "a": "bool_param",
        "b": "int64_param",
        "c": "double_param",
        "d": "string_param",
    }


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20), st.data())
def test_a_batch_gives_each_request_its_own_rows_and_only_them(sizes, data):
    outputs = batch(sum(sizes))
    choices = st.sampled_from([None, ("energy",), ("label", "probabilities")])
    requests = [
        asked(
            rows,
            raw=data.draw(st.booleans()),
            outputs=data.draw(choices),
            classification=data.draw(st.sampled_from([{}, {"probabilities": 2}])),
            request_id=str(position),
        )
        for position, rows in enumerate(sizes)
    ]
    replies = encode_batch(requests, "kiosk", "1", outputs, DATATYPE_OF)
    start = 0
    for request, together in zip(requests, replies, strict=True):
        own = {name: array[start : start + request.rows] for name, array in outputs.items()}
        assert together == encode(request, "kiosk", "1", own, DATATYPE_OF)
        start += request.rows


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_do_not_add_up_never_leave(rows):
    with pytest.raises(ModelError):
        encode_batch(
            [asked(1), asked(1)], "m", "1", {"x": np.zeros(2), "y": np.zeros(rows)}, {"x": "FP32", "y": "FP32"}
        )


def test_no_requests_need_no_replies():
    assert encode_batch([], "m", "1", {"x": np.zeros((0, 3), np.float32)}, {"x": "FP32"}) == []


def test_the_best_classes_come_first_with_their_labels():
    scores = np.array([[0.1, 0.7, 0.2, 0.7], [4, 3, 2, 1]], np.float32)
    names = ("shirt", "shoe", "bag", "coat")
    request = asked(2, outputs=("p",), classification={"p": 3})
    message = reply(encode(request, "m", "1", {"p": scores}, {"p": "FP32"}, class_names=names))
    assert (message.outputs[0].datatype, list(message.outputs[0].shape)) == ("BYTES", [2, 3])
    assert message.raw_output_contents[0].count(b"shoe") == 2
    typed = asked(2, raw=False, outputs=("p",), classification={"p": 3})
    message = reply(encode(typed, "m", "1", {"p": scores}, {"p": "FP32"}, class_names=names))
    assert list(message.outputs[0].contents.bytes_contents) == [
        b"0.700000:1:shoe",
        b"0.700000:3:coat",
        b"0.200000:2:bag",
        b"4.000000:0:shirt",
        b"3.000000:1:shoe",
        b"2.000000:2:bag",
    ]


def test_equal_scores_stand_in_the_order_of_their_indices():
    scores = np.tile([1.0, 2.0], (1, 50))
    request = asked(1, raw=False, classification={"p": 100})
    message = reply(encode(request, "m", "1", {"p": scores}, {"p": "FP64"}))
    indices = [int(word.split(b":")[1]) for word in message.outputs[0].contents.bytes_contents]
    assert indices == [*range(1, 100, 2), *range(0, 100, 2)]


def test_more_classes_than_there_are_means_all_of_them_and_foreign_labels_are_left_out():
    request = asked(1, raw=False, classification={"p": 99})
    message = reply(encode(request, "m", "1", {"p": np.array([[1.0, 2.0]])}, {"p": "FP64"}, class_names=("one",)))
    assert list(message.outputs[0].contents.bytes_contents) == [b"2.000000:1", b"1.000000:0"]


@given(hnp.arrays(np.uint16, st.integers(1, 50)))
def test_every_bf16_survives_widening_and_narrowing(bits):
    back = narrow_bf16(widen_bf16(bits))
    is_nan = (bits & 0x7FFF) > 0x7F80
    np.testing.assert_array_equal(back[~is_nan], bits[~is_nan])
    assert np.isnan(widen_bf16(back[is_nan])).all()


def test_bf16_rounds_to_the_nearest_and_ties_to_even():
    halfway = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7F800001, 0xFFFFFFFF], np.uint32)
    narrowed = narrow_bf16(halfway.view(np.float32))
    assert narrowed.tolist()[:4] == [0x3F80, 0x3F82, 0x3F81, 0x7F80]
    assert np.isnan(widen_bf16(narrowed[4:])).all()

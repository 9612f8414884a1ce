from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundles.manifest import MANIFEST_BYTES_MAX, TENSORS_MAX, parse_manifest
from serving.errors import BundleRejected, Rejection
from tests.serving.tiny import tiny_manifest

ENTRY = {"bytes": 1, "sha256": "0" * 64}
FILES = dict.fromkeys(("model.onnx", "weights.safetensors", "calibration.safetensors"), ENTRY)
GOOD = {**tiny_manifest(), "files": FILES}
TENSOR = {"name": "t", "datatype": "FP32", "shape": [-1], "low": None, "high": None}


def parsed(**change):
    return parse_manifest(json.dumps({**GOOD, **change}).encode())


def problem(**change):
    with pytest.raises(BundleRejected) as caught:
        parsed(**change)
    assert caught.value.reason is Rejection.MANIFEST
    return caught.value.problem


def outcome(data):
    try:
        parse_manifest(data)
    except BundleRejected as error:
        return error.reason
    return None


def test_typed_and_plain_forms_agree():
    manifest, document = parsed()
    assert document == GOOD
    assert manifest.inputs[0].shape == (-1, 28, 28)
    assert (manifest.inputs[0].low, manifest.inputs[0].high) == (0.0, 1.0)


def test_reasons_have_a_role_for_their_codes():
    manifest, _ = parsed(reasons=["none", "income"], roles={"reasons": ["logits"]})
    assert manifest.reasons == ("none", "income")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "stockade.bundle/2"}, "format 1"),
        ({"unknown": 1}, "format 1"),
        ({"inputs": "image"}, "format 1"),
        ({"reasons": ["none", "income"]}, "reasons"),
        ({"roles": {"reasons": ["logits"]}}, "reasons"),
        ({"roles": {"reasons": ["logits"]}, "reasons": ["income", "income"]}, "reasons repeat"),
        ({"name": "Tiny"}, "name"),
        ({"name": "../tiny"}, "name"),
        ({"name": ""}, "name"),
        ({"version": "0"}, "version"),
        ({"version": "01"}, "version"),
        ({"version": "1.0"}, "version"),
        ({"version": "1" * 10}, "version"),
        ({"inputs": []}, "tensors"),
        ({"inputs": [TENSOR, TENSOR]}, "tensors"),
        ({"inputs": [{**TENSOR, "datatype": "BF16"}]}, "datatype"),
        ({"inputs": [{**TENSOR, "shape": []}]}, "shape"),
        ({"inputs": [{**TENSOR, "shape": [1]}]}, "shape"),
        ({"inputs": [{**TENSOR, "shape": [-1, 0]}]}, "shape"),
        ({"inputs": [{**TENSOR, "shape": [-1, -1]}]}, "shape"),
        ({"inputs": [{**TENSOR, "shape": [-1, *[1] * 8]}]}, "shape"),
        ({"inputs": [{**TENSOR, "shape": [-1, 1 << 13, (1 << 11) + 1]}]}, "too large"),
        ({"inputs": [{**TENSOR, "low": 1.0, "high": 0.0}]}, "range"),
        ({"class_names": ["a", "a"]}, "class names"),
        ({"roles": {"latent": ["nowhere"]}}, "role"),
        ({"graphs": {}}, "graphs"),
        ({"graphs": {"dense": "weights.safetensors"}}, "graphs"),
        ({"graphs": {"dense": "other.onnx"}}, "not listed"),
        ({"weights": "model.onnx"}, "safetensors"),
        ({"calibration": "other.safetensors"}, "not listed"),
    ],
)
def test_each_rule(change, said):
    assert said in problem(**change)


def test_tensors_and_row_size_at_their_limits():
    outputs = [{**TENSOR, "name": f"t{index}"} for index in range(TENSORS_MAX)]
    outputs[0] = {**outputs[0], "shape": [-1, 1 << 12, 1 << 12]}
    outputs[1] = {**outputs[1], "shape": [-1, *[1] * 7]}
    assert len(parsed(outputs=outputs, roles={})[0].outputs) == TENSORS_MAX
    assert "tensors" in problem(outputs=[*outputs, {**TENSOR, "name": "last"}], roles={})


def test_size_at_the_limit_and_one_past_it():
    text = json.dumps(GOOD).encode()
    assert parse_manifest(text.ljust(MANIFEST_BYTES_MAX))[0].name == "tiny"
    with pytest.raises(BundleRejected) as caught:
        parse_manifest(text.ljust(MANIFEST_BYTES_MAX + 1))
    assert caught.value.reason is Rejection.SIZE


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_rejected(data):
    with pytest.raises(BundleRejected):
        parse_manifest(data)


@given(st.data())
def test_a_changed_manifest_is_a_manifest_or_rejected(data):
    content = bytearray(json.dumps(GOOD).encode())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(content)) in (None, Rejection.MANIFEST)

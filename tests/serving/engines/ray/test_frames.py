"""The frames between worker, bridge and replica: a round trip, and any bytes give a value or BadFrame."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundles.manifest import DATATYPES
from serving.engines.ray.frames import (
    BODY_BYTES_MAX,
    HEADER_BYTES,
    BadFrame,
    Kind,
    Verdict,
    pack_arrays,
    pack_frame,
    pack_reply,
    pack_request,
    parse_header,
    parse_reply,
    parse_request,
    parse_status,
    unpack_arrays,
)

DIGEST = bytes(range(32))
arrays = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=8),
    st.builds(
        lambda dtype, shape, seed: (np.random.default_rng(seed).random(shape) * 100).astype(dtype),
        # Replicas run models in-process, which takes no BYTES.
        st.sampled_from([*(set(DATATYPES.values()) - {np.object_})]),
        st.lists(st.integers(0, 4), min_size=1, max_size=3),
        st.integers(0, 9),
    ),
    max_size=4,
)


@given(st.sampled_from(Kind), st.integers(0, 2**64 - 1), st.binary(max_size=64), st.text("az|-", max_size=255))
def test_a_frame_comes_back(kind, call, body, target):
    frame = pack_frame(kind, call, body, target)
    header = parse_header(frame[:HEADER_BYTES])
    assert (header.kind, header.call) == (kind, call)
    rest = frame[HEADER_BYTES:]
    assert rest[: header.target_bytes].decode() == target
    assert rest[header.target_bytes :] == body
    assert len(rest) == header.target_bytes + header.body_bytes


@given(arrays)
def test_arrays_come_back_writable(given_arrays):
    digest, found = parse_request(pack_request(DIGEST, given_arrays))
    assert digest == DIGEST
    assert found.keys() == given_arrays.keys()
    for name, array in found.items():
        assert array.dtype == given_arrays[name].dtype
        assert array.shape == given_arrays[name].shape
        np.testing.assert_array_equal(array, given_arrays[name])
        assert array.flags.writeable


@given(st.sampled_from(Verdict), st.binary(max_size=16))
def test_a_reply_comes_back(verdict, rest):
    assert parse_reply(pack_reply(DIGEST, verdict, rest)) == (DIGEST, verdict, rest)


@pytest.mark.parametrize("parse", [parse_header, parse_reply, parse_request, parse_status, unpack_arrays])
@given(data=st.binary(max_size=80))
def test_any_bytes_give_a_value_or_the_named_error(parse, data):
    with contextlib.suppress(BadFrame):
        parse(data)


def test_a_frame_at_its_limits_and_one_past():
    head = pack_frame(Kind.ANSWER, 1, b"")[: HEADER_BYTES - 4]
    assert parse_header(head + BODY_BYTES_MAX.to_bytes(4)).body_bytes == BODY_BYTES_MAX
    with pytest.raises(BadFrame):
        parse_header(head + (BODY_BYTES_MAX + 1).to_bytes(4))
    pack_frame(Kind.INFER, 1, b"", "x" * 255)
    with pytest.raises(ValueError, match="256"):
        pack_frame(Kind.INFER, 1, b"", "x" * 256)


def test_half_an_array_is_a_bad_frame():
    packed = pack_arrays({"a": np.arange(8)})
    with pytest.raises(BadFrame):
        unpack_arrays(packed[:-1])

"""The framing between worker and recorder, cut anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.audit.errors import ProtocolError
from ops.audit.log.tiles import split_bundle, split_pack
from ops.audit.store import protocol

payloads = st.lists(st.binary(max_size=50), max_size=4)


@given(st.lists(st.tuples(payloads, payloads), max_size=5), st.data())
def test_appends_round_trip_however_the_stream_is_cut(calls, data):
    stream = b"".join(protocol.append_message(*call) for call in calls)
    cut = data.draw(st.integers(0, len(stream)))
    first, taken = protocol.split_messages(stream[:cut], 1 << 20)
    rest, end = protocol.split_messages(stream[taken:], 1 << 20)
    found = [(split_bundle(records), split_pack(pack)) for records, pack in first + rest]
    assert found == calls
    assert taken + end == len(stream)


@given(st.binary(max_size=100))
def test_any_bytes_are_appends_or_refused(data):
    try:
        appends, taken = protocol.split_messages(data, 64)
    except ProtocolError:
        return
    assert taken <= len(data)
    assert sum(8 + len(records) + len(pack) for records, pack in appends) == taken


def test_the_length_of_an_append_at_its_limit_and_one_past_it():
    message = protocol.append_message([b"x" * 50], [])
    assert protocol.split_messages(message, len(message) - 4)[1] == len(message)
    with pytest.raises(ProtocolError):
        protocol.split_messages(message, len(message) - 5)


replies = st.tuples(
    st.sampled_from([protocol.ACK, protocol.REFUSED]), st.integers(1, 2**32 - 1), st.integers(0, 2**64 - 1)
)


@given(st.lists(replies, max_size=6), st.integers(0, 15))
def test_replies_round_trip(sent, extra):
    stream = b"".join(protocol.reply(*each) for each in sent)
    assert protocol.split_replies(stream + bytes(extra)) == (sent, len(stream))


@given(st.binary(max_size=80))
def test_any_bytes_are_replies_and_a_hello_or_refused(data):
    for split in (protocol.split_replies, protocol.split_hello):
        try:
            split(data)
        except ProtocolError:
            continue


@given(st.text(min_size=1, max_size=40), st.integers(0, 2**63), st.integers(1, 2**31), st.integers(0, 200))
def test_the_hello_round_trips_once_it_is_whole(origin, size, limit, cut):
    greeting = protocol.hello(origin, 3, size, limit)
    assert protocol.split_hello(greeting + b"rest") == (origin, 3, limit, len(greeting))
    assert protocol.split_hello(greeting[: min(cut, len(greeting) - 1)]) is None

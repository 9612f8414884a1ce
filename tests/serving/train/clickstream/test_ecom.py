from __future__ import annotations

import gzip
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.train.clickstream.ecom import (
    EVENTS,
    FIRST_EVENT,
    IDS,
    LENGTH,
    NO_TARGET,
    PADDING,
    SESSION,
    load_ecom,
    parse_ecom,
    sessions_of,
    split_ecom,
    windows_of,
)
from serving.train.errors import DatasetMalformed, DatasetMissing
from tests.serving.train.clicks import HEADER, compressed

GOOD = (
    "b,s2,cart,2024-01-02 10:00:00,x",
    "a,s3,search,2024-01-03 10:00:05,x",
    "a,s3,home,2024-01-03 10:00:00,x",
    "a,s1,home,2024-01-01 10:00:00,x",
    "a,s1,catalog,2024-01-01 10:00:01,x",
    "a,s1,cart,2024-01-01 10:00:01,x",
)


def packed(*lines, header=HEADER, encoding="utf-8"):
    return gzip.compress("\n".join([header, *lines, ""]).encode(encoding))


def problem(data):
    with pytest.raises(DatasetMalformed) as caught:
        parse_ecom(data, "ecom.csv.gz")
    return caught.value.problem


def test_events_are_put_in_the_order_of_user_and_time_and_sessions_in_that_of_their_begin():
    data = parse_ecom(packed(*GOOD), "f")
    assert [EVENTS[i - FIRST_EVENT] for i in data.ids] == ["home", "catalog", "cart", "home", "search", "cart"]
    assert data.users.tolist() == [0, 0, 0, 0, 0, 1]
    assert data.sessions.tolist() == [0, 0, 0, 2, 2, 1]
    assert data.seconds[4] - data.seconds[3] == 5


def test_a_window_ends_before_its_label_and_begins_no_earlier_than_its_user():
    clicks = windows_of(parse_ecom(packed(*GOOD), "f"))
    home, catalog, cart, search = (FIRST_EVENT + EVENTS.index(name) for name in ("home", "catalog", "cart", "search"))
    left = [PADDING] * LENGTH
    first, second, third = ([SESSION, home], [SESSION, home, catalog], [SESSION, home, catalog, cart, SESSION, home])
    assert clicks.ids.tolist() == [(left + seen)[-LENGTH:] for seen in (first, second, third)]
    assert (clicks.labels + FIRST_EVENT).tolist() == [catalog, cart, search]
    assert (clicks.places.tolist(), clicks.sessions.tolist()) == ([2, 3, 2], [0, 0, 2])


def test_every_label_becomes_a_target_once_behind_the_ids_that_came_before_it():
    data = parse_ecom(compressed(), "f")
    clicks = windows_of(data)
    sequences = sessions_of(clicks)
    wanted = sequences.targets != NO_TARGET
    assert wanted.sum() == len(clicks)
    np.testing.assert_array_equal(sequences.targets[wanted], clicks.labels)  # both in the order of the sessions
    rows, places = np.nonzero(wanted)
    np.testing.assert_array_equal(sequences.ids[rows, places], clicks.ids[:, -1])
    np.testing.assert_array_equal(sequences.ids[rows, places - 1], clicks.ids[:, -2])


def test_splits_hold_every_session_once_the_last_by_time_in_test_and_the_same_for_a_seed():
    data = parse_ecom(compressed(), "f")
    parts = split_ecom(data, 3)
    sessions = [set(part.sessions.tolist()) for part in (parts.train, parts.fit, parts.calibrate, parts.test)]
    assert sum(map(len, sessions)) == len(set.union(*sessions)) == data.session_count
    assert sessions[3] == set(range(720, 900))
    assert [len(part) for part in sessions] == [450, 90, 180, 180]
    again, other = split_ecom(data, 3), split_ecom(data, 4)
    np.testing.assert_array_equal(again.calibrate.ids, parts.calibrate.ids)
    assert set(other.calibrate.sessions.tolist()) != sessions[2]
    assert set(other.test.sessions.tolist()) == sessions[3]
    assert parts.train.ids.min() == PADDING
    assert parts.train.ids.max() < IDS


def test_what_is_wrong_with_a_file_is_said():
    assert "no column session_id, event" in problem(packed(header="user_id,timestamp,x"))
    assert "no column user_id" in problem(gzip.compress(b""))
    assert "holds no events" in problem(packed())
    assert "not UTF-8" in problem(packed(*GOOD, encoding="utf-16"))
    assert "not UTF-8 (byte 44)" in problem(packed("ä,s,home,2024-01-01,x", encoding="latin-1"))
    assert "line 2 has 2 fields" in problem(packed("a,b"))
    assert "line 7: 'teleport'" in problem(packed(*GOOD[:5], "a,s1,teleport,2024-01-01 10:00:01,x"))
    assert "line 2: 'noon'" in problem(packed("a,s,home,noon,x"))
    assert "of two users" in problem(packed(*GOOD, "b,s1,home,2024-01-01 10:00:01,x"))
    assert "line" in problem(packed('"a,s,home'))
    assert "not gzip" in problem(b"user_id,session_id")
    assert "cut off" in problem(packed(*GOOD)[:-4])
    assert "cut off" in problem(packed(*GOOD) + b"more")


def test_a_byte_order_mark_is_no_part_of_a_name():
    assert parse_ecom(packed(*GOOD, encoding="utf-8-sig"), "f").session_count == 3


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: packed(*GOOD, t))))
def test_any_bytes_are_events_or_the_named_error(data):
    with suppress(DatasetMalformed):
        assert len(parse_ecom(data, "f").ids) > 0


def test_an_absent_path_names_the_package(tmp_path):
    with pytest.raises(DatasetMissing, match=r"retentioneering==5\.2\.4"):
        load_ecom(tmp_path / "absent.csv.gz")

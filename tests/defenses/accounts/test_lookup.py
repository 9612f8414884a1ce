"""Look-ups: they find what lies in a ball and nothing else, for many queries what they find for one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.accounts.lookup import ROWS_MAX, Lookup, lookups
from defenses.accounts.similarity import Fingerprint
from defenses.accounts.window import ANCHORS_MAX, CANDIDATES, Window
from tests.watching import KEY, READER, anchor_of, around, codes, filled, images, watch_arrays

NOTHING = np.zeros(0, np.uint8)


def plain(window, units, reader):
    """The anchors in whose balls a query lies, as one would write it down."""
    views, held = reader.views(units).astype(int), window.codes[:, : window.size].astype(int)
    apart = (np.abs(held - views[0][:, None]) > reader.tolerances[0]).sum(axis=0).astype(np.uint8)
    if (apart <= reader.allowed[0]).any():
        return np.flatnonzero(apart <= reader.allowed[0]).tolist()
    near = apart.argpartition(CANDIDATES)[:CANDIDATES] if apart.size > CANDIDATES else np.arange(apart.size)
    gaps = np.abs(held[None] - reader.others(views)[:, :, None]) > reader.tolerances[1]
    met = (gaps.sum(axis=1) <= reader.allowed[1]).any(axis=0)
    return sorted(set(near.tolist()) & set(np.flatnonzero(met).tolist()))


def hold_against_plain(window, rows, reader):
    """Ask all rows in a batch, remember those that meet nothing; returns how many met something."""
    found = []
    for turn, units in zip(lookups(window, rows, range(len(rows)), reader), rows, strict=True):
        window.queries += 1
        expected = plain(window, units, reader)
        assert turn.inside() == expected
        found.append(bool(expected))
        if not expected:
            turn.became(window.remember(turn.code, "alice", NOTHING, 1))
    return sum(found)


@pytest.mark.parametrize("number", [0, 150, 299])
def test_a_query_finds_its_anchor_among_others(number):
    rows = images(1, 300)
    window = filled(rows)
    for units in codes(around(rows[number], 2, 20)):
        assert anchor_of(window, units) == number
    for units in codes(images(3, 20)):
        assert anchor_of(window, units) is None


@pytest.mark.parametrize("move", [(1, 0), (-2, 1), (2, 2)])
def test_a_moved_query_finds_its_anchor(move):
    rows = images(1, 100)
    window = filled(rows)
    searched = around(rows[42], 2, 20)
    found = [anchor_of(window, units) for units in codes(np.roll(searched, move, (1, 2)))]
    assert found.count(42) >= 10  # those whose unmoved codes are among the nearest
    assert set(found) <= {42, None}


ALIKE = np.random.default_rng(8).integers(0, 256, (7, 7))


@given(
    st.sampled_from([(52, 52), (30, 60), (90, 40), (255, 0)]),
    st.sampled_from([(0, 0), (1, 0), (2, 0), (0, 20), (8, 8)]),
    st.integers(1, 40),
    st.integers(0, 2**32),
)
def test_what_is_passed_over_was_in_no_ball(tolerances, allowed, size, seed):
    reader = Fingerprint.from_calibration(
        watch_arrays(similarity_tolerances=np.array(tolerances), similarity_allowed=np.array(allowed)), KEY
    )
    rng, window = np.random.default_rng(seed), Window.new(reader.cells, 0, 7)
    spread = int(rng.choice([8, 25, 60, 120]))  # from all alike to all different
    noise = rng.integers(-spread, spread + 1, (size + 6, 7, 7))
    pixels = np.kron(np.clip(ALIKE + noise, 0, 255), np.ones((4, 4), int)).astype(np.uint8)
    pixels = np.stack([np.roll(one, rng.integers(-2, 3, 2), (0, 1)) for one in pixels]).reshape(size + 6, -1)
    for units in pixels[:size]:
        window.remember(units.take(reader.chosen[0]), "alice", NOTHING, 1)
    hold_against_plain(window, np.concatenate([pixels[size:], pixels[:1]]), reader)


@pytest.mark.parametrize("before", [1, 3, ANCHORS_MAX])
def test_rows_of_a_batch_meet_each_other_and_not_what_has_given_way_to_them(before):
    rng, rows = np.random.default_rng(before), images(1, ANCHORS_MAX + 60)
    window = filled(rows[:before], 0)
    things: list[int] = []
    for number in range(60):  # new ones, those asked about just before, those held for long
        recent = things[-int(rng.integers(1, 7)) :] or [0]
        things.append((ANCHORS_MAX + number, recent[0], int(rng.integers(ANCHORS_MAX)))[number % 3])
    moves = rng.integers(-1, 2, (60, 2)) * (rng.random((60, 1)) < 0.3)
    asked = [np.roll(around(rows[at], at, 1)[0], move, (0, 1)) for at, move in zip(things, moves, strict=True)]
    assert hold_against_plain(window, codes(np.array(asked)), READER) >= 15
    assert len(asked) > ROWS_MAX


def test_what_has_given_way_within_a_batch_is_met_no_more():
    rows = images(1, ANCHORS_MAX + 1)
    window = filled(rows[:ANCHORS_MAX], 0)
    lookup = Lookup(window, codes(np.stack([rows[ANCHORS_MAX], rows[7], rows[ANCHORS_MAX]])), READER)
    assert lookup.inside(1) == [7]
    lookup.became(0, 7)
    assert lookup.inside(1) == []
    assert lookup.inside(2) == [7]


@pytest.mark.parametrize("elements", [3, 64, 100])
def test_rows_of_numbers_are_found_as_one_would_write_it_down(elements):
    reader = Fingerprint.from_calibration(
        {
            "similarity.low": np.zeros(elements, np.float32),
            "similarity.step": np.full(elements, 1, np.float32),
            "similarity.weight": np.ones(elements, np.float32),
            "similarity.picture": np.zeros(0, np.int64),
            "similarity.tolerances": np.array([1, 20]),
            "similarity.allowed": np.array([2, 0]),
        },
        KEY,
    )
    rng, window = np.random.default_rng(elements), Window.new(reader.cells, 0, 7)
    rows = [
        np.clip(128 + rng.integers(-12, 13, elements) * (rng.random(elements) < rng.random()), 0, 255)
        for _ in range(120)
    ]
    assert 0 < hold_against_plain(window, np.array(rows, np.uint8), reader) < 120


def test_an_empty_window_finds_nothing():
    assert anchor_of(Window.new(READER.cells, 4, 7), codes(images(1, 1))[0]) is None

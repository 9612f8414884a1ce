"""Windows: they stay small, count repeats, and give up what chance names."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from defenses.accounts.window import (
    AGAIN_MAX,
    ANCHORS_FIRST,
    ANCHORS_MAX,
    EXACT_BITS,
    FADE,
    LOYALTY,
    VISITS_MAX,
    WHO_BITS,
    Asked,
    Window,
    differing,
    mixed,
    query_of,
)
from tests.watching import READER, anchor_of, codes, filled, images


@given(st.integers(0, 255), st.integers(0, 2**32))
def test_differing_cells_are_counted(tolerance, seed):
    rng = np.random.default_rng(seed)
    held, code = rng.integers(0, 256, (192, 5), np.uint8), rng.integers(0, 256, 192, np.uint8)
    expected = (np.abs(held.astype(int) - code.astype(int)[:, None]) > tolerance).sum(axis=0)
    assert (differing(held, code[:, None], tolerance) == expected).all()


def test_a_full_window_stays_below_128_kib_and_a_new_one_near_3():
    assert Window.new(READER.cells, 40, 7).nbytes <= 3_100
    window = filled(images(1, ANCHORS_MAX + 20))
    assert window.size == len(window.visits) == ANCHORS_MAX
    assert window.nbytes <= 128 * 1024
    assert window.codes.shape[1] == ANCHORS_MAX


def test_growing_loses_nothing():
    rows = images(1, 40)
    window = filled(rows)
    assert len(window.visits) > ANCHORS_FIRST
    for number, units in enumerate(codes(rows)):
        assert anchor_of(window, units) == number
        assert window.answers[number, 0] == number + 1
        assert window.asked(query_of(number + 1, 1)) is Asked.BEFORE
    assert window.asked(query_of(41, 1)) is Asked.NEW


def test_an_anchor_is_exact_as_long_as_it_stays_and_others_among_the_last():
    window = filled(images(1, 3))
    passed = [query_of(exact, 1) for exact in range(10_000, 10_000 + AGAIN_MAX + 1)]
    for query in passed:
        assert window.asked(query) is Asked.NEW
        window.pass_by(query)
    assert window.asked(passed[0]) is Asked.NEW  # one past the limit
    assert {window.asked(query) for query in passed[1:]} == {Asked.BEFORE}
    assert window.asked(query_of(1, 1)) is Asked.BEFORE
    window.remember(np.zeros(READER.cells, np.uint8), "bob", np.zeros(40, np.uint8), passed[0])
    assert window.asked(passed[0]) is Asked.BEFORE


@given(st.integers(1, 2**EXACT_BITS - 1), st.integers(0, 2**WHO_BITS - 1), st.integers(0, 2**WHO_BITS - 1))
def test_what_was_asked_before_is_told_apart_by_who_asked(exact, one, other):
    window = Window.new(READER.cells, 0, 7)
    assert window.asked(query_of(exact, one)) is Asked.NEW
    window.pass_by(query_of(exact, one))
    assert window.asked(query_of(exact, other)) is (Asked.BEFORE if one == other else Asked.BY_OTHERS)
    assert window.asked(query_of(exact % (2**EXACT_BITS - 1) + 1, one)) is Asked.NEW


def test_what_was_repeated_stays_while_the_others_give_way_by_chance():
    rows = images(1, ANCHORS_MAX + LOYALTY)
    window = filled(rows[:ANCHORS_MAX])
    window.repeat(0)
    for number, one in enumerate(codes(rows[ANCHORS_MAX:])):
        window.queries += 1
        window.remember(one.take(READER.chosen[0]), "bob", np.zeros(40, np.uint8), 10**6 + number)
        if number == ANCHORS_MAX:
            held = [anchor_of(window, units) is not None for units in codes(rows[1:ANCHORS_MAX])]
            assert 0.25 < np.mean(held) < 0.5  # 1 / e of them
    assert anchor_of(window, codes(rows[:1])[0]) == 0
    window.queries += 1
    assert 0 in {window._given_up() for window.queries in range(window.queries, window.queries + 9 * ANCHORS_MAX)}


def test_where_all_were_repeated_of_late_the_one_met_longest_ago_gives_way():
    window = filled(images(1, ANCHORS_MAX))
    for at in [*range(1, ANCHORS_MAX), 0]:
        window.queries += 1
        window.repeat(at)
    window.remember(np.zeros(READER.cells, np.uint8), "bob", np.zeros(40, np.uint8), 10**6)
    assert window.askers[1] == "bob"
    assert window.askers.count("bob") == 1


def test_chance_is_even_and_follows_from_the_seed():
    draws = np.bincount([mixed(5 + number) % 10 for number in range(10_000)])
    assert abs(draws - 1_000).max() < 120
    assert [mixed(number) for number in range(3)] != [mixed(number + 2**32) for number in range(3)]
    assert all(0 <= mixed(2**64 - 1 + number) < 2**64 for number in range(3))


def test_repeats_are_counted_fade_and_end():
    window = filled(images(1, 3))
    assert [window.repeat(1) for _ in range(3)] == [0, 1, 2]
    window.queries += FADE
    assert window.repeat(1) == 1  # 3, halved
    window.queries += 100 * FADE
    assert window.repeat(1) == 0
    for _ in range(300):
        visits = window.repeat(1)
    assert visits == VISITS_MAX

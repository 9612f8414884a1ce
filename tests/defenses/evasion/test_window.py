"""Windows: they find what lies in a ball and nothing else, stay small, and give up what chance names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.evasion.similarity import Fingerprint, flatten
from defenses.evasion.window import (
    ANCHORS_FIRST,
    ANCHORS_MAX,
    CANDIDATES,
    FADE,
    LOYALTY,
    VISITS_MAX,
    Window,
    differing,
    mixed,
)
from tests.watching import KEY, around, images, watch_arrays

READER = Fingerprint.from_calibration(watch_arrays(), KEY)


def nearest(window, units):
    """The one anchor in whose ball the query lies, None without."""
    found = window.inside(units, READER).tolist()
    assert len(found) <= 1
    return found[0] if found else None


def codes(rows):
    """What is compared of each row; one call says it of all, since the next one may overwrite it."""
    return READER.units(flatten({"image": rows})).copy()


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


def filled(rows, answer_bytes=40):
    window = Window.new(READER.cells, answer_bytes, 7)
    for units in codes(rows):
        window.note(window.queries + 1)
        window.remember(units.take(READER.chosen[0]), "alice", np.full(answer_bytes, window.queries % 256, np.uint8))
    return window


@given(st.integers(0, 255), st.integers(0, 2**32))
def test_differing_cells_are_counted(tolerance, seed):
    rng = np.random.default_rng(seed)
    held, code = rng.integers(0, 256, (192, 5), np.uint8), rng.integers(0, 256, 192, np.uint8)
    expected = (np.abs(held.astype(int) - code.astype(int)[:, None]) > tolerance).sum(axis=0)
    assert (differing(held, code[:, None], tolerance) == expected).all()


@pytest.mark.parametrize("number", [0, 150, 299])
def test_a_query_finds_its_anchor_among_others(number):
    rows = images(1, 300)
    window = filled(rows)
    for units in codes(around(rows[number], 2, 20)):
        assert nearest(window, units) == number
    for units in codes(images(3, 20)):
        assert nearest(window, units) is None


@pytest.mark.parametrize("move", [(1, 0), (-2, 1), (2, 2)])
def test_a_moved_query_finds_its_anchor(move):
    rows = images(1, 100)
    window = filled(rows)
    searched = around(rows[42], 2, 20)
    found = [nearest(window, units) for units in codes(np.roll(searched, move, (1, 2)))]
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
        window.remember(units.take(reader.chosen[0]), "alice", np.zeros(0, np.uint8))
    for units in (*pixels[size:], pixels[0]):
        assert window.inside(units, reader).tolist() == plain(window, units, reader)


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
    rng, window, found = np.random.default_rng(elements), Window.new(reader.cells, 0, 7), 0
    for _ in range(120):
        row = np.clip(128 + rng.integers(-12, 13, elements) * (rng.random(elements) < rng.random()), 0, 255)
        units = row.astype(np.uint8)
        inside = window.inside(units, reader).tolist()
        assert inside == plain(window, units, reader)
        found += bool(inside)
        if not inside:
            window.remember(units.take(reader.chosen[0]), "alice", np.zeros(0, np.uint8))
    assert 0 < found < 120


def test_an_empty_window_finds_nothing():
    assert nearest(Window.new(READER.cells, 4, 7), codes(images(1, 1))[0]) is None


def test_a_full_window_stays_below_128_kib_and_a_new_one_below_2():
    assert Window.new(READER.cells, 40, 7).nbytes <= 2_100
    window = filled(images(1, ANCHORS_MAX + 20))
    assert window.size == len(window.visits) == ANCHORS_MAX
    assert window.nbytes <= 128 * 1024
    assert window.codes.shape[1] == ANCHORS_MAX


def test_growing_loses_nothing():
    rows = images(1, 40)
    window = filled(rows)
    assert len(window.visits) > ANCHORS_FIRST
    for number, units in enumerate(codes(rows)):
        assert nearest(window, units) == number
        assert window.answers[number, 0] == number + 1
    assert [window.note(exact) for exact in range(6, 41)].count(False) <= 4  # one may go each time it grows
    assert not window.note(41)


def test_exact_hashes_are_remembered_for_as_many_queries_as_anchors():
    window = filled(images(1, ANCHORS_MAX))
    for exact in range(10_000, 10_000 + ANCHORS_MAX - 1):
        assert not window.note(exact)
    assert window.note(ANCHORS_MAX)  # the last of the first
    assert not window.note(ANCHORS_MAX - 1)


def test_what_was_repeated_stays_while_the_others_give_way_by_chance():
    rows = images(1, ANCHORS_MAX + LOYALTY)
    window = filled(rows[:ANCHORS_MAX])
    window.repeat(0)
    for number, one in enumerate(codes(rows[ANCHORS_MAX:])):
        window.note(10**6 + number)
        window.remember(one.take(READER.chosen[0]), "bob", np.zeros(40, np.uint8))
        if number == ANCHORS_MAX:
            held = [nearest(window, units) is not None for units in codes(rows[1:ANCHORS_MAX])]
            assert 0.25 < np.mean(held) < 0.5  # 1 / e of them
    assert nearest(window, codes(rows[:1])[0]) == 0
    window.queries += 1
    assert 0 in {window._given_up() for window.queries in range(window.queries, window.queries + 9 * ANCHORS_MAX)}


def test_where_all_were_repeated_of_late_the_one_met_longest_ago_gives_way():
    window = filled(images(1, ANCHORS_MAX))
    for at in [*range(1, ANCHORS_MAX), 0]:
        window.queries += 1
        window.repeat(at)
    window.remember(np.zeros(READER.cells, np.uint8), "bob", np.zeros(40, np.uint8))
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

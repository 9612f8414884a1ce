"""Who is answered by which version: always the same, in the shares asked for, and nobody moves who need not."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.models.split import draw, framed, split_of

PEOPLE = [f"principal-{number}" for number in range(4_000)]
SIGMAS = 5  # of a binomial: one run in a million would err

names = st.text(min_size=1, max_size=40)
weights = st.dictionaries(
    st.sampled_from("12345"), st.floats(0.001, 1.0, allow_subnormal=False), min_size=2, max_size=5
)


def chosen(shares: dict[str, float], salt: str = "", model: str = "kiosk") -> dict[str, str]:
    split = split_of(model, shares, salt)
    return {name: split.version_for(name) for name in PEOPLE}


@given(names, weights, st.text(max_size=8))
def test_a_principal_keeps_its_version(name, shares, salt):
    ordered = dict(sorted(shares.items(), reverse=True))
    assert split_of("m", shares, salt).version_for(name) == split_of("m", ordered, salt).version_for(name)


@pytest.mark.parametrize(
    "shares", [{"1": 0.9, "2": 0.1}, {"1": 0.99, "2": 0.01}, {"1": 0.5, "2": 0.3, "3": 0.2}, {"1": 1.0, "2": 0.0}]
)
def test_weights_are_honoured_within_what_chance_allows(shares):
    counts = Counter(chosen(shares).values())
    for version, share in shares.items():
        expected = share * len(PEOPLE)
        assert abs(counts[version] - expected) <= SIGMAS * math.sqrt(expected * (1 - share)), counts


@given(names, weights, weights)
def test_nobody_goes_to_a_version_whose_weight_did_not_grow_beside_the_one_left(name, before, after):
    old, new = split_of("m", before, "").version_for(name), split_of("m", after, "").version_for(name)
    if old != new and old in after and new in before:
        assert after[new] / after[old] > before[new] / before[old]


def test_between_two_versions_only_the_needed_share_moves_and_in_one_direction():
    steps = [chosen({"1": 1 - share, "2": share}) for share in (0.0, 0.01, 0.1, 0.5, 1.0)]
    for before, after in pairwise(steps):
        assert {(before[name], after[name]) for name in PEOPLE} <= {("1", "1"), ("1", "2"), ("2", "2")}
    assert set(steps[-1].values()) == {"2"}


def test_a_salt_and_a_model_draw_anew():
    half = {"1": 0.5, "2": 0.5}
    plain = chosen(half)
    for other in (chosen(half, salt="again"), chosen(half, model="tiny")):
        same = sum(plain[name] == other[name] for name in PEOPLE)
        assert abs(same - len(PEOPLE) / 2) < SIGMAS * math.sqrt(len(PEOPLE)) / 2


def test_a_version_without_weight_answers_nobody_and_somebody_must():
    assert split_of("m", {"1": 0.0, "2": 1.0}, "").version_for("x") == "2"
    with pytest.raises(ValueError, match="no version of m has a weight"):
        split_of("m", {"1": 0.0}, "")


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_different_parts_are_different_bytes(one, other):
    assert (framed(*one) == framed(*other)) == (one == other)


@given(st.binary(max_size=64))
def test_a_draw_is_above_zero_and_at_most_one(data):
    assert 0 < draw(data) <= 1

"""Groups: who shares a hot anchor is one, groups stay bounded, and everybody can be taken out."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from defenses.accounts.groups import HOT_ANCHORS_MAX, MEMBERS_MAX, Groups, HotAnchors

NAMES = [f"a{number}" for number in range(8)]


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=30), st.lists(st.sampled_from(NAMES))
)
def test_groups_are_the_connected_components(pairs, leavers):
    groups = Groups(3)
    expected = {name: {name} for name in NAMES}
    for one, other in pairs:
        groups.unite(one, other)
        both = expected[one] | expected[other]
        for name in both:
            expected[name] = both
    for name in leavers:
        groups.leave(name)
        expected = {key: {name} if key == name else members - {name} for key, members in expected.items()}
    for name in NAMES:
        group = groups.of(name)
        assert (set(group.members) if group else {name}) == expected[name]
    assert sorted(name for group in groups.all() for name in group.members) == sorted(
        name for name in NAMES if len(expected[name]) > 1
    )


def test_two_groups_keep_the_greater_evidence():
    groups = Groups(1)
    groups.unite("a", "b")
    groups.unite("c", "d")
    groups.unite("c", "e")
    groups.of("a").evidence.logs, groups.of("a").since_repeat = [9.0], 4
    groups.of("c").evidence.logs = [2.0]
    groups.unite("b", "d")
    merged = groups.of("e")
    assert sorted(merged.members) == ["a", "b", "c", "d", "e"]
    assert merged.evidence.logs == [9.0]
    assert merged.since_repeat == 1


def test_a_group_stays_within_its_bound():
    groups = Groups(1)
    for number in range(1, MEMBERS_MAX):
        groups.unite("a0", f"a{number}")
    assert len(groups.of("a0").members) == MEMBERS_MAX
    groups.unite("a0", "one too many")
    assert groups.of("one too many") is None
    groups.unite("x", "y")
    groups.unite("y", "a0")
    assert len(groups.of("x").members) == 2


def test_hot_anchors_of_other_tenants_are_found_in_the_same_ball_and_the_oldest_go():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (HOT_ANCHORS_MAX + 1, 192), np.uint8)
    hot = HotAnchors.new(192)
    assert hot.met(codes[0], "acme", "mallory", 10, 1) == []
    near = codes[0].copy()
    near[0] ^= 128
    near[1:] = np.clip(near[1:].astype(int) + 10, 0, 255)
    assert hot.met(near, "acme", "bob", 10, 1) == []  # within a tenant its own window tells
    assert hot.met(near, "umbrella", "eve", 10, 1) == ["mallory", "bob"]
    for code in codes[1:]:
        hot.met(code, "elsewhere", "carol", 10, 1)
    assert len(hot.askers) == HOT_ANCHORS_MAX
    assert hot.met(codes[0], "initech", "dan", 10, 1) == []
    assert hot.met(codes[-1], "initech", "dan", 10, 1) == ["carol"]

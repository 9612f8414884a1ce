"""What may leave: a denied class never does, an unsure answer is none, a denied word is not spelled around."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from defenses.budget.hardening import HardeningRule, harden
from defenses.budget.output import (
    CHARACTERS_MAX,
    PATTERN_CHARACTERS_MAX,
    PATTERNS_MAX,
    ClassRule,
    TextRule,
    abstain,
    allowed_classes,
    restrict,
    screen_texts,
)
from defenses.errors import EvidenceInvalid, RuleInvalid

WEIGHT = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 1e-30]), st.floats(0, 1, width=32))


@st.composite
def restricted_rows(draw):
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rows, classes = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    weights = draw(arrays(np.float64, (rows, classes), elements=WEIGHT))
    weights[weights.sum(axis=1) == 0, 0] = 1.0
    allowed = draw(arrays(np.bool_, classes))
    allowed[draw(st.integers(0, classes - 1))] = True
    rule = ClassRule(allowed, draw(st.sampled_from([0.0, 0.3, 1.0])))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(dtype), rule


@given(restricted_rows())
def test_a_denied_class_gets_nothing_and_the_best_of_the_others_wins_also_when_hardened(drawn):
    rows, rule = drawn
    before = rows.copy()
    found = restrict(rows, rule)
    hardened = abstain(harden(found.probabilities, HardeningRule(3, 1.0, 3)), found.abstained)
    np.testing.assert_array_equal(rows, before)
    assert found.probabilities.dtype == rows.dtype
    assert (found.probabilities[:, ~rule.allowed] == 0).all()
    for row, given_, final, gone, moved in zip(
        rows, found.probabilities, hardened, found.abstained, found.moved, strict=True
    ):
        best = row[rule.allowed].max()
        assert gone == (best <= 0 or float(best) < rule.confidence_min)
        assert moved == (not gone and not rule.allowed[row.argmax()])
        if gone:
            assert not final.any()
        else:
            assert given_.sum() == pytest.approx(1, abs=1e-5)
            assert row[given_.argmax()] == pytest.approx(best, rel=1e-6)
            assert rule.allowed[final.argmax()]
            assert final.argmax() == given_.argmax()


@given(restricted_rows())
def test_a_row_is_restricted_alone_as_it_is_among_others(drawn):
    rows, rule = drawn
    together = restrict(rows, rule)
    for place in range(len(rows)):
        alone = restrict(rows[place : place + 1], rule)
        np.testing.assert_array_equal(alone.probabilities[0], together.probabilities[place])
        assert (alone.abstained[0], alone.moved[0]) == (together.abstained[place], together.moved[place])


def test_a_list_of_classes_makes_no_model_surer_than_it_was():
    rows = np.array([[0.98, 0.015, 0.005]], np.float32)
    rule = ClassRule(np.array([False, True, True]), 0.5)
    assert restrict(rows, rule).abstained.tolist() == [True]  # what is left would be shared out as 0.75
    assert restrict(rows, ClassRule(rule.allowed)).probabilities[0] == pytest.approx([0, 0.75, 0.25], abs=1e-6)


def test_confidence_at_the_minimum_is_enough_and_just_below_it_is_not():
    rows = np.array([[0.5, 0.5], [np.nextafter(0.5, 1), 0.5]])
    assert restrict(rows, ClassRule(None, 0.5)).abstained.tolist() == [False, False]
    assert restrict(rows, ClassRule(None, np.nextafter(0.5, 1))).abstained.tolist() == [True, False]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5])
def test_a_row_that_is_no_distribution_stays_a_fault_of_the_model_also_in_a_denied_class(bad):
    rows = np.array([[0.5, 0.5, bad], [0.2, 0.3, 0.5]], np.float32)
    found = restrict(rows, ClassRule(np.array([True, True, False]), 0.9))
    assert np.isnan(found.probabilities[0]).all()
    assert found.abstained.tolist() == [False, True]
    assert not found.moved.any()


def test_where_all_of_it_may_leave_nothing_is_touched():
    rows = np.array([[0.1, 0.9], [0.3, 0.7]], np.float32)
    np.testing.assert_array_equal(restrict(rows, ClassRule(np.ones(2, np.bool_))).probabilities, rows)
    nothing = np.zeros(2, np.bool_)
    assert abstain(rows, nothing) is rows


@pytest.mark.parametrize(
    "values", [np.zeros(3), np.zeros((2, 0)), np.zeros((2, 3), np.int64), np.zeros((2, 4))], ids=str
)
def test_an_array_of_another_kind_is_no_prediction(values):
    with pytest.raises(EvidenceInvalid):
        restrict(values, ClassRule(np.ones(3, np.bool_)))


def test_classes_are_allowed_or_denied_by_name():
    names = ("coat", "bag", "boot")
    assert allowed_classes(names, allow=("bag",)).tolist() == [False, True, False]
    assert allowed_classes(names, deny=("bag",)).tolist() == [True, False, True]
    for change, problem in (
        ({"deny": ("shoe",)}, "no class 'shoe'"),
        ({"allow": ("",)}, "no class ''"),
        ({"deny": names}, "none is left"),
    ):
        with pytest.raises(RuleInvalid, match=problem):
            allowed_classes(names, **change)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClassRule(None, -0.1),
        lambda: ClassRule(None, 1.1),
        lambda: ClassRule(np.zeros(3, np.bool_)),
        lambda: TextRule(0),
        lambda: TextRule(CHARACTERS_MAX + 1),
        lambda: TextRule(10, ("x",) * (PATTERNS_MAX + 1)),
        lambda: TextRule(10, ("x" * (PATTERN_CHARACTERS_MAX + 1),)),
        lambda: TextRule(10, ("\u200b ",)),
    ],
)
def test_a_rule_out_of_its_limits_is_refused(make):
    with pytest.raises(RuleInvalid):
        make()


def test_rules_at_their_limits():
    TextRule(CHARACTERS_MAX, ("x" * PATTERN_CHARACTERS_MAX,) * PATTERNS_MAX)
    assert TextRule(3).clean("äöü".encode()) == "äöü".encode()
    assert TextRule(3).clean("äöüß".encode()) is None


@pytest.mark.parametrize(
    "text",
    [
        "the secret",
        "the SeCrEt",
        "the se\u200bcret",  # a zero-width space
        "the sec\x00ret",
        "the \uff53\uff45\uff43\uff52\uff45\uff54",  # full-width letters
        "the \N{LATIN SMALL LETTER LONG S}ecret",
        "the se\u202ecret",  # right to left
        "the s\U000e0065ecret",  # an invisible letter
        "the s\u0337ecret",  # struck through
        "pay 4111-1111-1111-1111 now",
        "pay \uff14\uff11\uff11\uff11-1111-1111-1111 now",
        "no  way",
        "no\n way",
    ],
)
def test_a_denied_word_is_not_spelled_around(text):
    rule = TextRule(100, ("SECRET", "####-####-####-####", "no way"))
    assert rule.clean(text.encode()) is None


@pytest.mark.parametrize(
    "text",
    ["sec ret", "4111-1111-1111-111", "noway", "", "zeile\n\ttab", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"],
)
def test_what_is_not_denied_leaves_as_it_is(text):
    assert TextRule(100, ("SECRET", "####-####-####-####", "no way")).clean(text.encode()) == text.encode()


def test_what_steers_a_terminal_or_the_eye_is_taken_out():
    assert TextRule(100).clean(b"\x1b[31mred\x07\x7f") == b"[31mred"
    assert TextRule(100).clean("a\u202eb\u2066c\U000e0041d\x9b".encode()) == b"abcd"


def test_texts_are_emptied_not_cut_and_their_row_abstains():
    values = np.array([[b"fine", b"a secret"], [b"fine", b"\xff"], [b"fine", b"also"]], object)
    found = screen_texts(values, TextRule(10, ("secret",)))
    assert found.values.tolist() == [[b"fine", b""], [b"fine", b""], [b"fine", b"also"]]
    assert found.abstained.tolist() == [True, True, False]
    assert values[0, 1] == b"a secret"
    with pytest.raises(EvidenceInvalid):
        screen_texts(np.zeros(3), TextRule(10))


@given(st.binary(max_size=80), st.lists(st.text(min_size=1, max_size=8), max_size=3))
def test_any_bytes_are_a_text_without_denied_words_or_nothing(element, words):
    denied = tuple(word for word in words if word.strip() and word.isascii() and word.isprintable())
    rule = TextRule(20, denied)
    left = rule.clean(element)
    if left is not None:
        text = left.decode()
        assert len(text) <= 20
        assert rule.clean(left) == left  # cleaning again finds nothing more
        assert not any("#" not in word and word.casefold() in text.casefold() for word in denied if " " not in word)


def test_a_search_has_nothing_to_backtrack_into():
    rule = TextRule(CHARACTERS_MAX, ("a" * 63 + "b",) * PATTERNS_MAX)
    assert rule.clean(b"a" * CHARACTERS_MAX) == b"a" * CHARACTERS_MAX

"""Pooling seeds, and holding targets against what was measured."""

from __future__ import annotations

import json

import pytest

from defenses.budget.intervals import clopper_pearson
from defenses.lab.attack import Trial
from defenses.lab.scorecard import Target, Verdict, as_json, judge, rows_of, targets


def trial(successes, seed=0, *, attack="a", knowledge="k", defended=True, samples=100, **metrics):
    return Trial(attack, "evasion", "AML.T0015", knowledge, defended, seed, samples, successes, metrics)


def target(sense="at most", aim=0.1, floor=0.2, **others):
    return Target("what", "a", sense, aim, floor, **others)


def verdict_of(wanted, *trials):
    (found,) = judge([wanted], rows_of(trials))
    return found.verdict


def test_seeds_are_pooled_and_their_spread_is_kept():
    row, other = rows_of([trial(9, 2, auc=0.7), trial(1, 0, auc=0.5), trial(5, 1), trial(1, attack="b")])
    assert (row.seeds, row.samples, row.successes, row.rate) == ((0, 1, 2), 300, 15, 0.05)
    assert row.interval == clopper_pearson(15, 300)
    assert (row.rate_by_seed.median, row.rate_by_seed.least, row.rate_by_seed.most) == (0.05, 0.01, 0.09)
    assert (row.metrics["auc"].median, row.metrics["auc"].least, row.metrics["auc"].most) == (0.6, 0.5, 0.7)
    assert other.attack == "b"


def test_a_control_is_no_defended_row():
    assert len(rows_of([trial(1), trial(99, defended=False)])) == 2
    assert verdict_of(target(), trial(99, defended=False)) is Verdict.ABSENT
    assert verdict_of(target("at least", 0.9, None, defended=False), trial(99, defended=False)) is Verdict.MET


@pytest.mark.parametrize(
    ("successes", "verdict"),
    [(10, Verdict.MET), (11, Verdict.FLOOR), (20, Verdict.FLOOR), (21, Verdict.MISSED)],
)
def test_verdicts_at_the_bounds_and_one_past_them(successes, verdict):
    assert verdict_of(target(), trial(successes)) is verdict
    assert verdict_of(target("at least", 0.9, 0.8), trial(100 - successes)) is verdict


def test_sure_is_the_whole_interval():
    assert [judge([target()], rows_of([trial(n)]))[0].sure for n in (0, 8)] == [True, False]


def test_of_several_attackers_the_worst_counts():
    rows = [trial(5, knowledge="static"), trial(50, knowledge="adaptive")]
    assert verdict_of(target(), *rows) is Verdict.MISSED
    assert verdict_of(target(knowledge="static"), *rows) is Verdict.MET


def test_a_metric_can_be_aimed_at_and_one_that_is_not_there_is_absent():
    assert verdict_of(target(measure="auc", aim=0.53, floor=0.56), trial(0, auc=0.55)) is Verdict.FLOOR
    assert verdict_of(target(measure="auc"), trial(0)) is Verdict.ABSENT
    assert verdict_of(target(), trial(0, samples=0)) is Verdict.ABSENT


def test_what_falls_short_stands_first():
    rows = rows_of([trial(5), trial(15, attack="b"), trial(50, attack="c")])
    wanted = [Target(name, name, "at most", 0.1, 0.2) for name in "adbc"]
    assert [one.target.what for one in judge(wanted, rows)] == ["c", "b", "d", "a"]
    assert "NaN" not in json.dumps(as_json(rows, judge(wanted, rows)), allow_nan=False)


def test_floors_are_never_harder_than_goals():
    for one in targets():
        if one.floor is not None:
            assert one.floor >= one.aim if one.sense == "at most" else one.floor <= one.aim, one.what
    assert len({(one.attack, one.measure, one.knowledge, one.defended) for one in targets()}) == len(targets())

"""Running experiments: every seed once, whatever was interrupted; and trials as lines."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.lab.attack import Experiment, Finding, Size, Trial
from defenses.lab.runner import ExperimentUnknown, Watcher, chosen, run_all
from defenses.lab.trial import TRIALS_FILE, Line, TrialsUnreadable, append_lines, read_lines

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
TRIALS = st.builds(
    lambda samples, share, **others: Trial(samples=samples, successes=int(samples * share), **others),
    st.integers(0, 1000),
    st.floats(0, 1),
    attack=WORDS,
    family=WORDS,
    technique=WORDS,
    knowledge=WORDS,
    defended=st.booleans(),
    seed=st.integers(0, 99),
    metrics=st.dictionaries(WORDS, FINITE, max_size=3),
    settings=st.dictionaries(WORDS, st.one_of(WORDS, FINITE, st.integers(-(2**53), 2**53)), max_size=3),
    curves=st.dictionaries(WORDS, st.lists(st.tuples(FINITE, FINITE), max_size=3), max_size=2),
)


def trial(attack="a", seed=0, **others):
    return Trial(attack, "evasion", "AML.T0015", "black box", True, seed, 10, 1, **others)


def experiment(name, method=None, seeds=3, family="evasion"):
    return Experiment(name, family, "what it does", method or (lambda run: [Finding(10, 1)]), seeds=seeds)


def lab(size=Size.FULL):
    return SimpleNamespace(size=size)


class Heard:
    def __init__(self) -> None:
        self.began, self.failures = [], []
        self.watcher = Watcher(
            lambda name, seed, number, total: self.began.append((name, seed)),
            lambda name, seed, trace: self.failures.append((name, seed, trace)),
        )


def run(tmp_path, experiments, size=Size.FULL, *, seeds=None, seconds_max=1e9):
    heard = Heard()
    ticks = iter(range(10**6)).__next__
    outcome = run_all(
        experiments, lab(size), tmp_path, seeds=seeds, clock=ticks, seconds_max=seconds_max, watcher=heard.watcher
    )
    return outcome, heard


def test_a_method_is_given_its_run_and_parameters_and_trials_are_made_of_what_it_finds():
    def method(run, *, radius):
        assert (run.lab.size, run.smoke, run.model, run.version, run.attack) == (Size.SMOKE, True, "kiosk", "2", "b")
        return [
            Finding(5, 2, settings={"radius": radius}, part="right"),
            Finding(5, 5, defended=False, knowledge="all"),
        ]

    row = Experiment("a", "evasion", "", method, {"radius": 0.1}, "AML.T0015", "static", version="2", attack="b")
    assert row.run(lab(Size.SMOKE), 7) == [
        Trial("b/right", "evasion", "AML.T0015", "static", True, 7, 5, 2, settings={"radius": 0.1}),
        Trial("b", "evasion", "AML.T0015", "all", False, 7, 5, 5),
    ]


def test_seed_by_seed_and_never_twice(tmp_path):
    both = [experiment("a"), experiment("b", seeds=2)]
    outcome, heard = run(tmp_path, both)
    assert heard.began == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)]
    assert len(outcome.ran) == 5
    again, heard = run(tmp_path, both, seeds=4)
    assert heard.began == [("b", 2), ("a", 3), ("b", 3)]
    assert len(again.skipped) == 5
    assert len(read_lines(tmp_path / TRIALS_FILE)) == 8


def test_a_smoke_run_takes_one_seed_and_is_no_full_one(tmp_path):
    assert len(run(tmp_path, [experiment("a")], Size.SMOKE)[0].ran) == 1
    assert len(run(tmp_path, [experiment("a")])[0].ran) == 3


def test_what_fails_is_told_passed_over_and_run_again(tmp_path):
    broken = experiment("broken", lambda run: 1 / 0)
    outcome, heard = run(tmp_path, [broken, experiment("a")], seeds=1)
    assert outcome.failed == (("broken", 0),)
    assert outcome.ran == (("a", 0),)
    assert "ZeroDivisionError" in heard.failures[0][2]
    assert run(tmp_path, [experiment("broken")], seeds=1)[0].ran == (("broken", 0),)


@pytest.mark.parametrize("wrong", [[], [Finding(10, 1, {"share": float("nan")})]])
def test_trials_that_are_none_are_a_failure(tmp_path, wrong):
    outcome, _ = run(tmp_path, [experiment("a", lambda run: wrong)], seeds=1)
    assert outcome.failed
    assert read_lines(tmp_path / TRIALS_FILE) == []


def test_nothing_begins_after_its_time(tmp_path):
    outcome, _ = run(tmp_path, [experiment("a"), experiment("b")], seeds=2, seconds_max=5)
    assert outcome.ran == (("a", 0), ("b", 0))
    assert outcome.left == (("a", 1), ("b", 1))


def test_an_interrupt_ends_the_run(tmp_path):
    def stopped(run):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [experiment("a"), experiment("b", stopped)], seeds=1)
    assert [line.experiment for line in read_lines(tmp_path / TRIALS_FILE)] == ["a"]


def test_names_families_and_beginnings_are_chosen():
    catalogue = {name: experiment(name, family=family) for name, family in [("x/a", "f"), ("x/b", "g"), ("xy", "g")]}
    assert [one.name for one in chosen(catalogue, [])] == ["x/a", "x/b", "xy"]
    assert [one.name for one in chosen(catalogue, ["x"])] == ["x/a", "x/b"]
    assert [one.name for one in chosen(catalogue, ["xy", "f"])] == ["x/a", "xy"]
    assert [one.name for one in chosen({**catalogue, "x/a/b": experiment("x/a/b")}, ["x/a"])] == ["x/a"]
    with pytest.raises(ExperimentUnknown, match="near it: x/b; `stockade lab list` shows all 3"):
        chosen(catalogue, ["x-b"])


def lines_of(*trials, experiment="a"):
    return [Line(experiment, Size.FULL, 1.5, one, place == len(trials) - 1) for place, one in enumerate(trials)]


@given(st.lists(TRIALS, min_size=1, max_size=4))
def test_lines_come_back_as_they_went(tmp_path_factory, trials):
    path = tmp_path_factory.mktemp("lines") / "t"
    same = [Trial(**{**{name: getattr(one, name) for name in one.__slots__}, "seed": 3}) for one in trials]
    append_lines(path, lines_of(*same))
    assert read_lines(path) == lines_of(*same)


@given(st.binary(max_size=300))
def test_any_bytes_are_lines_or_the_named_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "t"
    path.write_bytes(data)
    with contextlib.suppress(TrialsUnreadable):
        assert all(line.trial.samples >= line.trial.successes for line in read_lines(path))


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_write_that_was_cut_short_is_gone_and_no_harm_to_the_next(tmp_path, cut):
    path = tmp_path / "t"
    append_lines(path, lines_of(trial(), trial("b")))
    append_lines(path, lines_of(trial(seed=1), trial("b", seed=1)))
    path.write_bytes(path.read_bytes()[:-cut])
    assert {line.trial.seed for line in read_lines(path)} == {0}
    append_lines(path, lines_of(trial(seed=2)))
    assert [line.trial.seed for line in read_lines(path)] == [0, 0, 2]
    append_lines(path, lines_of(trial(seed=1), trial("b", seed=1)))
    assert [line.trial.seed for line in read_lines(path)] == [0, 0, 2, 1, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 0},
        {"successes": -1},
        {"seed": "0"},
        {"defended": 1},
        {"more": 1},
        {"metrics": {"auc": "1"}},
        {"settings": []},
    ],
)
def test_a_line_that_makes_no_sense_is_refused(tmp_path, change):
    path = tmp_path / "t"
    append_lines(path, lines_of(trial()))
    path.write_text(json.dumps(json.loads(path.read_text()) | change) + "\n")
    with pytest.raises(TrialsUnreadable, match="line 1"):
        read_lines(path)

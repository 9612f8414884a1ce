"""Conformal p-values: what they are, what they promise, and that the promise is kept."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.budget import calibration as module
from defenses.budget.calibration import Calibrated, ConformalCalibration, digest_arrays, tie_breaks
from defenses.budget.screen import Evidence
from defenses.errors import CalibrationInvalid, CalibrationTooSmall, ScreenFailed

FEW_VALUES = st.integers(-3, 3).map(float)
ANY_SCORE = st.one_of(FEW_VALUES, st.floats(allow_nan=False, width=32))
DRAWS = st.floats(0, 1, exclude_max=True)


@given(st.lists(ANY_SCORE.filter(np.isfinite), min_size=1), st.lists(ANY_SCORE, min_size=1))
def test_p_is_the_share_at_least_as_high(held_out, scores):
    p = ConformalCalibration.from_scores(held_out).p_values(scores)
    assert p.dtype == np.float64
    assert p.tolist() == [(1 + sum(c >= s for c in held_out)) / (len(held_out) + 1) for s in scores]


@given(st.lists(FEW_VALUES, min_size=1), st.lists(FEW_VALUES, min_size=2))
def test_p_falls_as_the_score_grows(held_out, scores):
    p = ConformalCalibration.from_scores(held_out).p_values(sorted(scores))
    assert (np.diff(p) <= 0).all()


@given(st.lists(FEW_VALUES, min_size=1), st.lists(st.tuples(FEW_VALUES, DRAWS), min_size=1))
def test_a_broken_tie_lies_between_all_above_and_all_below(held_out, rows):
    scores, draws = np.array(rows).T
    p = ConformalCalibration.from_scores(held_out).p_values(scores, draws)
    n = len(held_out)
    for s, got in zip(scores, p, strict=True):
        above, at_least = sum(c > s for c in held_out), sum(c >= s for c in held_out)
        assert (1 + above) / (n + 1) <= got <= (1 + at_least) / (n + 1)


def test_nan_is_as_suspicious_as_can_be():
    p = ConformalCalibration.from_scores([1.0, 2.0, 3.0]).p_values([np.nan, np.inf, -np.inf])
    assert p.tolist() == [0.25, 0.25, 1.0]


def exchangeable_p(draw, rng, *, rows, trials, ties=False):
    """One p-value from each of `trials` independent calibration sets."""
    p = []
    for _ in range(trials):
        scores = draw(rng, rows + 1)
        breaks = rng.random(1) if ties else None
        p.append(ConformalCalibration.from_scores(scores[:-1]).p_values(scores[-1:], breaks)[0])
    return np.array(p)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(
    "draw", [lambda g, n: g.normal(size=n), lambda g, n: g.poisson(1.0, n)], ids=["real", "counts"]
)
def test_p_is_super_uniform_for_exchangeable_rows(draw, alpha):
    trials = 20_000
    reached = (exchangeable_p(draw, np.random.default_rng(7), rows=59, trials=trials) <= alpha).mean()
    assert reached <= alpha + 4 * np.sqrt(alpha * (1 - alpha) / trials)


def test_broken_ties_make_counts_exactly_uniform():
    trials, rows = 20_000, 9
    p = exchangeable_p(lambda g, n: g.poisson(1.0, n), np.random.default_rng(3), rows=rows, trials=trials, ties=True)
    ranks = np.bincount(np.rint(p * (rows + 1)).astype(int), minlength=rows + 2)[1:]
    expected = trials / (rows + 1)
    assert np.abs(ranks - expected).max() <= 4.5 * np.sqrt(expected)


@pytest.mark.parametrize(("rows", "fpr_max"), [(1_000, 0.01), (400, 0.05)])
def test_the_rank_keeps_the_rate_for_the_set_in_use_where_the_plain_level_does_not(rows, fpr_max):
    rng, sets = np.random.default_rng(11), 4_000
    kept = plain = 0
    for _ in range(sets):
        held_out = ConformalCalibration.from_scores(rng.random(rows))  # uniform: the rate is 1 - threshold
        kept += 1 - held_out.threshold(fpr_max) <= fpr_max
        plain += 1 - held_out.scores[rows - int(fpr_max * (rows + 1))] <= fpr_max
    assert kept / sets >= 0.95 - 4 * np.sqrt(0.05 * 0.95 / sets)
    assert plain / sets < 0.7


@given(
    st.lists(FEW_VALUES, min_size=60, max_size=200), st.sampled_from([0.05, 0.1, 0.3]), st.lists(ANY_SCORE, min_size=1)
)
def test_level_and_threshold_name_the_same_rows(held_out, fpr_max, scores):
    held_out = ConformalCalibration.from_scores(held_out)
    by_p = held_out.p_values(scores) <= held_out.level(fpr_max)
    assert (by_p == (np.array(scores) > held_out.threshold(fpr_max))).all()


def test_a_promise_that_cannot_be_kept_is_an_error_and_one_row_more_keeps_it():
    with pytest.raises(CalibrationTooSmall) as error:
        ConformalCalibration.from_scores(np.arange(298)).level(0.01)
    assert (error.value.rows, error.value.rows_min) == (298, 299)
    assert ConformalCalibration.from_scores(np.arange(299)).level(0.01) == 1 / 300


def test_the_interval_of_the_rate_holds_the_rate():
    rng, rows, sets = np.random.default_rng(5), 1_000, 2_000
    low, high = ConformalCalibration.from_scores(np.arange(rows)).fpr_interval(0.05)
    rates = np.array([1 - ConformalCalibration.from_scores(rng.random(rows)).threshold(0.05) for _ in range(sets)])
    assert ((low <= rates) & (rates <= high)).mean() == pytest.approx(0.95, abs=0.02)
    assert high <= 0.06


def test_arrays_round_trip_and_the_digest_follows_the_numbers():
    one = ConformalCalibration.from_scores([3.0, 1.0, 2.0])
    same = ConformalCalibration.from_arrays(one.to_arrays("screen"), "screen")
    other = ConformalCalibration.from_scores([3.0, 1.0, np.nextafter(2.0, 3.0)])
    assert same.scores.tolist() == [1.0, 2.0, 3.0]
    assert one.digest == same.digest != other.digest


def test_a_calibration_cannot_be_written_to():
    source = np.array([2.0, 1.0])
    held_out = ConformalCalibration.from_scores(source)
    with pytest.raises(ValueError, match="read-only"):
        held_out.scores[0] = 9.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        held_out.scores = source
    assert source.tolist() == [2.0, 1.0]


def test_the_digest_frames_names_shapes_and_types():
    a, b = np.array([1.0]), np.array([2.0])
    digests = {
        digest_arrays("l", {"a": a, "b": b}),
        digest_arrays("m", {"a": a, "b": b}),
        digest_arrays("l", {"a": b, "b": a}),
        digest_arrays("l", {"ab": np.array([1.0, 2.0])}),
        digest_arrays("l", {"a": a[None], "b": b}),
        digest_arrays("l", {"a": a.view(np.int64), "b": b}),
    }
    assert len(digests) == 6
    assert digest_arrays("l", {"b": b, "a": a}) in digests
    assert digest_arrays("l", {"a": a.astype(">f8"), "b": b}) in digests


def test_a_digest_is_pinned():
    held_out = ConformalCalibration.from_scores([1.0, 2.0])
    assert held_out.digest == "93a32ffc16eb803adebcc5912dd2fe27d0e358f31a449639da1b299c3c2aeb31"


@pytest.mark.parametrize("scores", [[], [[1.0]], [np.nan], [np.inf]])
def test_unusable_scores_are_refused(scores):
    with pytest.raises(CalibrationInvalid):
        ConformalCalibration.from_scores(scores)


def test_rows_at_the_limit_and_one_past_it(monkeypatch):
    monkeypatch.setattr(module, "CALIBRATION_ROWS_MAX", 5)
    assert ConformalCalibration.from_scores(np.arange(5)).rows == 5
    with pytest.raises(CalibrationInvalid):
        ConformalCalibration.from_scores(np.arange(6))


@pytest.mark.parametrize("arrays", [{}, {"x.calibration": np.array([1.0], np.float32)}], ids=["absent", "float32"])
def test_malformed_arrays_are_refused(arrays):
    with pytest.raises(CalibrationInvalid, match=r"x\.calibration"):
        ConformalCalibration.from_arrays(arrays, "x")


def test_tie_breaks_repeat_and_depend_on_key_context_and_row():
    hashes = [b"a" * 32, b"b" * 32]
    draws = tie_breaks(b"key", hashes, context=b"evidence")
    assert draws.shape == (2,)
    assert draws.tolist() == tie_breaks(b"key", hashes, context=b"evidence").tolist()
    others = [
        tie_breaks(b"other", hashes),
        tie_breaks(b"key", hashes),
        tie_breaks(b"key", hashes[::-1], context=b"evidence"),
    ]
    assert all((draws != other).all() for other in others)
    # What is context and what is hash cannot be shifted into each other.
    assert tie_breaks(b"key", [b"bc"], context=b"a") != tie_breaks(b"key", [b"c"], context=b"ab")


def test_tie_breaks_are_even_over_the_unit_interval():
    draws = tie_breaks(b"key", [number.to_bytes(4, "big") for number in range(20_000)])
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, 20, (0, 1))[0]
    assert np.abs(counts - 1_000).max() <= 4.5 * np.sqrt(1_000)


@pytest.mark.parametrize(("size", "fine"), [(0, False), (1, True), (64, True), (65, False)])
def test_the_key_has_a_size(size, fine):
    if fine:
        tie_breaks(bytes(size), [b"row"])
    else:
        with pytest.raises(CalibrationInvalid):
            tie_breaks(bytes(size), [b"row"])


class Scripted:
    """A screen that does what it is told."""

    name, technique, digest = "scripted", "AML.T0015", "0" * 64

    def __init__(self, answer):
        self.answer = answer

    def score(self, evidence):
        return self.answer()


@pytest.mark.parametrize(
    "answer",
    [
        lambda: 1 / 0,
        lambda: np.zeros(3),
        lambda: np.zeros((2, 1)),
        lambda: np.zeros(2, np.float32),
        lambda: np.array([0.0, np.nan]),
    ],
    ids=["raises", "rows", "shape", "dtype", "nan"],
)
def test_whatever_goes_wrong_in_a_screen_is_screen_failed(answer):
    calibrated = Calibrated(Scripted(answer), ConformalCalibration.from_scores([0.0]))
    with pytest.raises(ScreenFailed) as error:
        calibrated.judge(Evidence({}, {}), rows=2)
    assert error.value.screen == "scripted"


@settings(deadline=None)
@given(st.lists(FEW_VALUES, min_size=1, max_size=8))
def test_judge_returns_scores_with_their_p_values(scores):
    calibrated = Calibrated(Scripted(lambda: np.array(scores)), ConformalCalibration.from_scores([0.0, 1.0]))
    judged = calibrated.judge(Evidence({}, {}), rows=len(scores))
    assert judged.scores.tolist() == scores
    assert judged.p_values.tolist() == calibrated.calibration.p_values(scores).tolist()
    broken = calibrated.judge(Evidence({}, {}), rows=len(scores), ties=np.zeros(len(scores)))
    assert (broken.p_values <= judged.p_values).all()

"""S1: fitted, calibrated and measured on three splits of benign rows, and what it makes of foreign ones."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.budget.calibration import ConformalCalibration
from defenses.budget.policy import Action, Mode, calibrated_rule, decide
from defenses.budget.screen import Evidence
from defenses.errors import CalibrationInvalid, CalibrationTooSmall, EvidenceInvalid
from defenses.screens.evidence import (
    COMPONENTS,
    FIT_ROWS_MIN,
    FPR_POINTS,
    KNOTS_MAX,
    EvidenceScreen,
    Tail,
    fit_evidence,
    load_evidence,
    measure_evidence,
)

FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.fixture(scope="module")
def splits(benign):
    rng = np.random.default_rng(20)
    return benign(rng, 4_000), benign(rng, 10_000), benign(rng, 20_000)


@pytest.fixture(scope="module")
def fitted(splits):
    return fit_evidence(*splits)


@pytest.fixture(scope="module")
def screen(fitted):
    return EvidenceScreen.from_calibration(fitted[0])


def score(screen, **outputs):
    return screen.score(Evidence({}, outputs))


def typical(splits, rows):
    """Rows that are alike in everything and remarkable in nothing."""
    return {name: np.full(rows, np.median(splits[0][name]), np.float32) for name in COMPONENTS}


def test_the_report_states_ranks_thresholds_and_measured_rates(fitted, splits):
    arrays, report = fitted
    assert json.loads(json.dumps(report)) == report
    assert report["rows"] == {"fit": 4_000, "calibrate": 10_000, "measure": 20_000}
    assert report["digest"] == load_evidence(arrays).screen.digest
    points = report["operating_points"]
    assert [(point["fpr_max"], point["rank"]) for point in points] == [(0.05, 464), (0.01, 84), (0.001, 5)]
    scores = load_evidence(arrays).screen.score(Evidence({}, splits[2]))
    for point in points:
        measured = point["measured"]
        assert point["level"] == point["rank"] / 10_001
        assert measured["flagged"] == (scores > point["threshold"]).sum()
        assert measured["rate"] == measured["flagged"] / 20_000
        assert measured["interval"][0] <= measured["rate"] <= measured["interval"][1]
        assert measured["interval"][0] <= point["fpr_max"]  # what was measured does not contradict the promise
        assert point["fpr_interval"][0] <= measured["interval"][1]


def test_the_promise_holds_for_almost_every_calibration_set(screen, benign):
    rng, sets, kept = np.random.default_rng(9), 200, 0
    fresh = screen.score(Evidence({}, benign(rng, 100_000)))
    pool = screen.score(Evidence({}, benign(rng, 200_000)))
    for _ in range(sets):
        held_out = ConformalCalibration.from_scores(rng.choice(pool, 1_000, replace=False))
        kept += (fresh > held_out.threshold(0.01)).mean() <= 0.01
    assert kept / sets >= 0.95 - 4 * np.sqrt(0.05 * 0.95 / sets)


@pytest.mark.parametrize("component", COMPONENTS)
def test_one_certain_witness_is_enough(fitted, splits, component):
    foreign = typical(splits, 100)
    foreign[component] = np.full(100, 2 * float(splits[0][component].max()) + 10, np.float32)
    assert measure_evidence(fitted[0], typical(splits, 100))[0]["rate"] == 0
    assert [point["rate"] for point in measure_evidence(fitted[0], foreign)] == [1.0] * len(FPR_POINTS)


def test_foreign_rows_are_found_far_above_the_false_positive_rate(fitted, benign):
    foreign = benign(np.random.default_rng(4), 2_000)
    foreign["mahalanobis"] += 25  # about two standard deviations
    foreign["residual"] *= 2
    rates = {point["fpr_max"]: point["rate"] for point in measure_evidence(fitted[0], foreign)}
    assert rates[0.05] >= 0.5
    assert rates[0.01] >= 0.2


def test_from_evidence_to_action(fitted, splits):
    judged = load_evidence(fitted[0])
    rule = calibrated_rule(Mode.ENFORCE, judged.calibration, flag_fpr_max=0.01, refuse_fpr_max=0.001)
    outputs = typical(splits, 2)
    outputs["residual"][1] = 1e6
    p = judged.judge(Evidence({}, outputs), rows=2).p_values
    assert decide({"evidence": p}, {"evidence": rule}, rows=2).action.tolist() == [Action.ALLOW, Action.REFUSE]


def test_the_score_is_the_formula(fitted, screen, benign):
    arrays = fitted[0]
    outputs = benign(np.random.default_rng(8), 60)
    outputs["residual"][:20] *= 10  # beyond the fitted range
    outputs["mahalanobis"][10:30] = 0  # and below it
    for row, got in enumerate(score(screen, **outputs)):
        wanted = 0.0
        for name, weight in (("energy", 1), ("mahalanobis", 2), ("residual", 1)):
            knots, surprise = arrays[f"evidence.{name}.values"], arrays[f"evidence.{name}.surprise"]
            value = float(outputs[name][row])
            beyond = max(0.0, value - knots[-1]) / arrays[f"evidence.{name}.scale"][0]
            wanted -= weight * math.log(math.exp(-np.interp(value, knots, surprise)) * (1 + beyond / 10) ** -10)
        assert got == pytest.approx(wanted, rel=1e-9)


def test_three_witnesses_in_agreement_outweigh_one(fitted, splits):
    """Each at its own 2.5 % is flagged at 1 %; one alone at 1 % is not."""
    descending = {name: np.sort(splits[0][name])[::-1] for name in COMPONENTS}
    together = {name: values[99:100] for name, values in descending.items()}
    alone = typical(splits, 1) | {"residual": descending["residual"][39:40]}
    assert [measure_evidence(fitted[0], rows)[1]["rate"] for rows in (together, alone)] == [1, 0]


@given(st.sampled_from(COMPONENTS), st.lists(FLOAT32, min_size=2, max_size=20))
@settings(deadline=None)
def test_more_of_a_component_never_scores_less(screen, splits, component, values):
    outputs = typical(splits, len(values))
    outputs[component] = np.sort(np.array(values, np.float32))
    assert (np.diff(score(screen, **outputs)) >= 0).all()


@pytest.mark.parametrize("component", COMPONENTS)
def test_far_out_rows_keep_their_order_up_to_the_largest_float(screen, splits, component):
    edge = float(splits[0][component].max())
    far = np.geomspace(1.01 * abs(edge) + 1, np.finfo(np.float32).max, 300).astype(np.float32)
    scores = score(screen, **typical(splits, 300) | {component: far})
    assert (np.diff(scores) > 0).all()
    assert scores.max() < 5_000  # far inside the record's integers, in micro-units


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("component", COMPONENTS)
def test_what_is_no_number_is_as_suspicious_as_can_be(fitted, screen, splits, component, value):
    outputs = typical(splits, 3)
    outputs[component][1] = value
    scores = score(screen, **outputs)
    assert np.isfinite(scores).all()
    assert scores[0] == scores[2]
    assert load_evidence(fitted[0]).calibration.p_values(scores)[1] == 1 / 10_001


@given(st.integers(1, 70), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_a_row_scores_alike_alone_and_in_a_batch_to_the_bit(screen, benign, rows, seed):
    outputs = benign(np.random.default_rng(seed), rows)
    together = score(screen, **outputs)
    alone = [score(screen, **{name: array[i : i + 1] for name, array in outputs.items()})[0] for i in range(rows)]
    assert together.tobytes() == np.array(alone).tobytes()


def test_a_tail_counts_the_rows_at_or_above_each_knot():
    sample = np.random.default_rng(1).integers(0, 40, 2_000).astype(np.float64)  # with ties
    tail = Tail.fit("x", sample)
    assert tail.values.size <= KNOTS_MAX
    assert tail.values[[0, -1]].tolist() == [sample.min(), sample.max()]
    for value, surprise in zip(tail.values, tail.surprise, strict=True):
        assert surprise == pytest.approx(-np.log((1 + (sample >= value).sum()) / 2_001))


def test_every_rank_of_the_tail_has_its_knot():
    sample = np.random.default_rng(1).normal(size=50_000)
    assert set(np.sort(sample)[-128:]) <= set(Tail.fit("x", sample).values)


def test_the_slope_does_not_break_where_the_fitted_range_ends(screen, splits):
    edge = float(splits[0]["residual"].max())
    outputs = typical(splits, 2) | {"residual": np.array([edge, np.nextafter(np.float32(edge), np.float32(9))])}
    below, above = score(screen, **outputs)
    assert 0 < above - below < 1e-3


def test_arrays_are_the_whole_of_the_screen(fitted, splits):
    arrays = {"other.array": np.zeros(3)} | {name: array.copy() for name, array in fitted[0].items()}
    copy, original = load_evidence(arrays), load_evidence(fitted[0])
    assert copy.screen.digest == original.screen.digest
    evidence = Evidence({}, {name: array[:50] for name, array in splits[2].items()})
    assert copy.screen.score(evidence).tobytes() == original.screen.score(evidence).tobytes()


def test_the_digest_follows_every_array(fitted):
    digests = {EvidenceScreen.from_calibration(fitted[0]).digest}
    for name in fitted[0]:
        changed = {other: array.copy() for other, array in fitted[0].items()}
        changed[name][-1] = np.nextafter(changed[name][-1], np.inf)
        digests.add(EvidenceScreen.from_calibration(changed).digest)
    assert len(digests) == 1 + 3 * len(COMPONENTS) + 1


@pytest.mark.parametrize("part", ["values", "surprise", "scale"])
@pytest.mark.parametrize(
    "spoil",
    [
        None,
        lambda a: a.astype(np.float32),
        lambda a: a[None],
        lambda a: a[:0],
        lambda a: a * np.nan,
        lambda a: np.zeros(2),
        lambda a: np.arange(KNOTS_MAX + 1.0),
    ],
    ids=["absent", "dtype", "shape", "empty", "nan", "flat", "long"],
)
def test_malformed_arrays_are_refused(fitted, part, spoil):
    arrays = dict(fitted[0])
    name = f"evidence.residual.{part}"
    if spoil is None:
        del arrays[name]
    else:
        arrays[name] = spoil(arrays[name])
    with pytest.raises(CalibrationInvalid, match=r"evidence\.residual"):
        EvidenceScreen.from_calibration(arrays)


def test_what_another_version_fitted_is_refused(fitted):
    arrays = fitted[0] | {"evidence.margin.values": np.arange(2.0)}
    with pytest.raises(CalibrationInvalid, match=r"evidence\.margin\.values: unknown"):
        load_evidence(arrays)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("scale", lambda a: -a),
        ("surprise", lambda a: a[1:]),
        ("surprise", lambda a: a - 1.0),
    ],
)
def test_arrays_that_disagree_are_refused(fitted, name, spoil):
    arrays = dict(fitted[0])
    arrays[f"evidence.energy.{name}"] = spoil(arrays[f"evidence.energy.{name}"])
    with pytest.raises(CalibrationInvalid, match=r"evidence\.energy: parts disagree"):
        EvidenceScreen.from_calibration(arrays)


def test_a_split_used_twice_is_refused(splits):
    fit, calibrate, measure = splits
    for wrong in ((fit, fit, measure), (fit, calibrate, calibrate), (fit, calibrate, fit)):
        with pytest.raises(CalibrationInvalid, match="the same rows"):
            fit_evidence(*wrong)


def first(split, rows):
    return {name: array[:rows] for name, array in split.items()}


def test_rows_at_the_least_and_one_fewer(splits):
    fit, calibrate, measure = splits
    fit_evidence(first(fit, FIT_ROWS_MIN), first(calibrate, 2_995), first(measure, 1))
    with pytest.raises(CalibrationInvalid, match="fit: 999 rows"):
        fit_evidence(first(fit, FIT_ROWS_MIN - 1), calibrate, measure)
    with pytest.raises(CalibrationTooSmall) as error:
        fit_evidence(fit, first(calibrate, 2_994), measure)
    assert error.value.rows_min == 2_995
    with pytest.raises(CalibrationInvalid, match="measure: 0 rows"):
        fit_evidence(fit, calibrate, first(measure, 0))


def test_benign_rows_are_finite_and_not_constant(splits):
    fit, calibrate, measure = splits
    broken = calibrate | {"energy": calibrate["energy"].copy()}
    broken["energy"][5] = np.nan
    with pytest.raises(CalibrationInvalid, match="calibrate: a benign row that is not finite"):
        fit_evidence(fit, broken, measure)
    with pytest.raises(CalibrationInvalid, match="residual: constant"):
        fit_evidence(fit | {"residual": np.ones_like(fit["residual"])}, calibrate, measure)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("energy", np.zeros((2, 1), np.float32)),
        ("energy", np.float32(0).reshape(())),
        ("energy", np.zeros(2, np.int64)),
        ("residual", np.zeros((2, 1), np.float32)),
        ("residual", np.zeros(3, np.float32)),
        ("mahalanobis", np.zeros(1, np.float32)),
        ("mahalanobis", np.zeros(2, np.int64)),
    ],
)
def test_misshapen_evidence_is_refused_by_name(screen, splits, name, array):
    with pytest.raises(EvidenceInvalid) as error:
        score(screen, **typical(splits, 2) | {name: array})
    assert error.value.name == name

"""Decisions: each rule of the policy by itself, and that nothing but an enforcing screen moves an action."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.budget.calibration import ConformalCalibration
from defenses.budget.policy import Action, Mode, ScreenRule, Verdict, by_request, calibrated_rule, decide, micro
from defenses.errors import CalibrationTooSmall, EvidenceInvalid, RuleInvalid, ScreenMissing

ENFORCE, SHADOW = Mode.ENFORCE, Mode.SHADOW
RULE = ScreenRule(ENFORCE, 0.01, 0.001)
ALPHA = st.floats(0, 1)
P = st.one_of(st.sampled_from([0.0005, 0.001, 0.005, 0.01, 0.5, 1.0]), st.floats(0, 1, exclude_min=True))


ENFORCING = st.builds(lambda pair: ScreenRule(ENFORCE, max(pair), min(pair)), st.tuples(ALPHA, ALPHA))
RULES = st.builds(
    lambda mode, pair: ScreenRule(mode, max(pair), min(pair)), st.sampled_from(Mode), st.tuples(ALPHA, ALPHA)
)


def test_levels_are_reached_at_the_level_and_not_past_it():
    past = np.nextafter
    p = np.array([0.001, past(0.001, 1), 0.01, past(0.01, 1), 1.0])
    decided = decide({"s": p}, {"s": RULE}, rows=5)
    assert decided.action.dtype == np.uint8
    assert decided.action.tolist() == [Action.REFUSE, Action.FLAG, Action.FLAG, Action.ALLOW, Action.ALLOW]
    assert decided.screens[0].verdicts.dtype == np.uint8
    assert decided.screens[0].verdicts.tolist() == [2, 1, 1, 0, 0]


def test_flagged_rows_are_hardened_where_the_policy_says_so():
    p = {"s": np.array([0.0001, 0.005, 0.5])}
    assert decide(p, {"s": RULE}, rows=3, harden_flagged=True).action.tolist() == [
        Action.REFUSE,
        Action.HARDEN,
        Action.ALLOW,
    ]


def test_shadow_records_its_verdict_and_moves_nothing():
    decided = decide({"s": np.array([0.0001, 0.005])}, {"s": ScreenRule(SHADOW, 0.01, 0.001)}, rows=2)
    assert decided.action.tolist() == [Action.ALLOW, Action.ALLOW]
    assert decided.screens[0].mode == SHADOW
    assert decided.screens[0].verdicts.tolist() == [Verdict.REFUSE, Verdict.FLAG]


@given(st.data(), st.booleans())
def test_an_action_is_the_strongest_of_the_enforcing_verdicts(data, harden_flagged):
    policy = data.draw(st.dictionaries(st.sampled_from("abc"), RULES, min_size=1))
    rows = data.draw(st.integers(0, 6))
    p = {name: np.array(data.draw(st.lists(P, min_size=rows, max_size=rows))) for name in "abc"}
    decided = decide(p, policy, rows=rows, harden_flagged=harden_flagged)
    assert [screen.name for screen in decided.screens] == list(policy)
    flag = Action.HARDEN if harden_flagged else Action.FLAG
    for row in range(rows):
        wanted = Action.ALLOW
        for name, rule in policy.items():
            if rule.mode == ENFORCE:
                value = p[name][row]
                if value <= rule.refuse_alpha:
                    wanted = max(wanted, Action.REFUSE)
                elif value <= rule.flag_alpha:
                    wanted = max(wanted, flag)
        assert decided.action[row] == wanted
    # Shadows may as well not be there.
    enforcing = {name: rule for name, rule in policy.items() if rule.mode == ENFORCE}
    assert (decide(p, enforcing, rows=rows, harden_flagged=harden_flagged).action == decided.action).all()


@given(st.lists(P, min_size=1), ENFORCING)
def test_a_smaller_p_never_weakens_the_action(p, rule):
    actions = decide({"s": np.array(sorted(p))}, {"s": rule}, rows=len(p)).action
    assert (np.diff(actions.astype(int)) <= 0).all()


@given(st.lists(st.integers(1, 10_001), min_size=1), st.integers(0, 10_001), st.integers(0, 10_001))
def test_a_reader_of_the_record_comes_to_the_same_verdict(ranks, one, other):
    refuse, flag = sorted([one, other])
    rule = ScreenRule(ENFORCE, flag / 10_001, refuse / 10_001)
    screen = decide({"s": np.array(ranks) / 10_001}, {"s": rule}, rows=len(ranks)).screens[0]
    assert ((screen.p_micro <= screen.threshold_micro) == (screen.verdicts != Verdict.PASS)).all()
    wanted = np.where(screen.verdicts == Verdict.REFUSE, rule.refuse_alpha, rule.flag_alpha)
    assert screen.threshold_micro.tolist() == micro(wanted).tolist()


@pytest.mark.parametrize("rule", [RULE, ScreenRule(ENFORCE, 0.01, 0.0), ScreenRule(ENFORCE, 0.0, 0.0)])
def test_a_p_that_is_no_number_is_refused(rule):
    decided = decide({"s": np.array([np.nan, 1.0])}, {"s": rule}, rows=2)
    assert decided.action.tolist() == [Action.REFUSE, Action.ALLOW]
    assert decided.screens[0].p_micro.tolist() == [0, 1_000_000]


def test_alpha_zero_never_acts_on_a_real_p():
    decided = decide({"s": np.array([1e-300])}, {"s": ScreenRule(ENFORCE, 0.0, 0.0)}, rows=1)
    assert decided.action.tolist() == [Action.ALLOW]


def test_without_rules_everything_is_allowed():
    decided = decide({"unjudged": np.array([0.0001, 0.5])}, {}, rows=2)
    assert decided.action.tolist() == [Action.ALLOW, Action.ALLOW]
    assert decided.screens == ()


def test_a_rule_without_p_values_is_an_error():
    with pytest.raises(ScreenMissing) as error:
        decide({}, {"s": RULE}, rows=1)
    assert error.value.screen == "s"


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), ()])
def test_p_values_for_other_rows_are_an_error(shape):
    with pytest.raises(EvidenceInvalid):
        decide({"s": np.ones(shape)}, {"s": RULE}, rows=2)


@pytest.mark.parametrize(
    ("mode", "flag", "refuse", "field"),
    [
        ("Enforce", 0.1, 0.1, "mode"),
        (ENFORCE, 1.001, 0.0, "flag_alpha"),
        (ENFORCE, -0.001, 0.0, "flag_alpha"),
        (ENFORCE, np.nan, 0.0, "flag_alpha"),
        (ENFORCE, 0.1, 0.101, "refuse_alpha"),
        (ENFORCE, 0.1, -0.001, "refuse_alpha"),
        (ENFORCE, 0.1, np.nan, "refuse_alpha"),
    ],
)
def test_rules_past_their_limits_are_refused(mode, flag, refuse, field):
    with pytest.raises(RuleInvalid) as error:
        ScreenRule(mode, flag, refuse)
    assert error.value.field == field


@pytest.mark.parametrize(("flag", "refuse"), [(1.0, 1.0), (1.0, 0.0), (0.0, 0.0), (0.1, 0.1)])
def test_rules_at_their_limits_are_fine(flag, refuse):
    ScreenRule(SHADOW, flag, refuse)


def test_a_calibrated_rule_takes_the_ranks_of_the_specification():
    held_out = ConformalCalibration.from_scores(np.arange(10_000))
    rule = calibrated_rule(ENFORCE, held_out, flag_fpr_max=0.01, refuse_fpr_max=0.001)
    assert (rule.flag_alpha, rule.refuse_alpha) == (84 / 10_001, 5 / 10_001)
    scores = np.array([9_916.0, 9_915.0, 9_995.0, 9_994.0])  # just above, and at, the 84th and the 5th largest
    scores[[0, 2]] += 0.5
    decided = decide({"s": held_out.p_values(scores)}, {"s": rule}, rows=4)
    assert decided.action.tolist() == [Action.FLAG, Action.ALLOW, Action.REFUSE, Action.FLAG]


def test_a_calibrated_rule_with_rate_zero_never_acts_and_needs_no_rows():
    held_out = ConformalCalibration.from_scores(np.arange(300))
    assert calibrated_rule(ENFORCE, held_out, flag_fpr_max=0.01, refuse_fpr_max=0).refuse_alpha == 0
    with pytest.raises(CalibrationTooSmall):
        calibrated_rule(ENFORCE, held_out, flag_fpr_max=0.01, refuse_fpr_max=0.001)


@pytest.mark.parametrize(("flag", "refuse"), [(1.0, 0.0), (-0.1, 0.0), (0.1, 1.0), (0.1, -0.1), (np.nan, 0.0)])
def test_rates_past_their_limits_are_refused(flag, refuse):
    held_out = ConformalCalibration.from_scores(np.arange(300))
    with pytest.raises(RuleInvalid):
        calibrated_rule(ENFORCE, held_out, flag_fpr_max=flag, refuse_fpr_max=refuse)


def test_micro_units_round_to_nearest_and_stay_within_the_record():
    huge = 2**53 - 1
    got = micro(np.array([0.0, 1.0, 84 / 10_001, -2.5, 1e300, -1e300, np.inf, -np.inf, np.nan]))
    assert got.dtype == np.int64
    assert got.tolist() == [0, 1_000_000, 8_399, -2_500_000, huge, -huge, huge, -huge, -huge]


@given(st.lists(st.lists(P, min_size=1, max_size=4), min_size=1, max_size=6), RULES, RULES)
def test_a_request_is_judged_by_its_worst_row(requests, one, other):
    p = np.array([value for request in requests for value in request])
    starts = np.cumsum([0] + [len(request) for request in requests[:-1]])
    scores = -np.log(p)
    decided = decide({"one": p, "other": p}, {"one": one, "other": other}, rows=p.size)
    action, screens = by_request(decided, {"one": scores, "other": scores}, starts)
    ends = [*starts[1:], p.size]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        assert action[number] == decided.action[start:end].max()
        for folded, whole in zip(screens, decided.screens, strict=True):
            worst = start + int(np.argmin(p[start:end]))
            assert (folded.name, folded.mode) == (whole.name, whole.mode)
            assert folded.verdicts[number] == whole.verdicts[worst]
            assert folded.p_micro[number] == whole.p_micro[worst]
            assert folded.score_micro[number] == micro(scores)[worst]
            assert folded.threshold_micro[number] == whole.threshold_micro[worst]

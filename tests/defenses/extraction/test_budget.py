"""The query budget: what answers cost, what an account may have, and that benign streams stay within it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from defenses.errors import BudgetStateInvalid, CalibrationInvalid, CalibrationTooSmall, EvidenceInvalid, RuleInvalid
from defenses.extraction.allowance import fit_budget, measure_budget
from defenses.extraction.budget import (
    DAY_NS,
    FRESH,
    MILLI,
    PRICE_MILLI_MAX,
    Account,
    Budget,
    BudgetStep,
    Prices,
    e_value,
    margins_of,
)

NOW_NS = 1_700_000_000 * 10**9
CLASSES = 5


def benign(seed, rows=2_000):
    """Probabilities and p-values of rows drawn from one distribution: exchangeable by construction."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, CLASSES)) * np.array([4.0, 1.0, 2.0, 3.0, 2.0])
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), rng.uniform(1e-4, 1.0, rows)


@pytest.fixture(scope="module")
def fitted():
    told: list[tuple[int, int]] = []

    def progress(done, total):
        told.append((done, total))

    made = fit_budget(*benign(1), seed=0, rates=(100, 1_000), streams=3_000, progress=progress)
    assert told == [(100, 1_100), (1_100, 1_100)]
    return made


@pytest.fixture(scope="module")
def prices(fitted):
    return Prices.from_calibration(fitted[0])


def answer(margin, winner=0):
    row = np.full((1, CLASSES), (1 - margin) / (CLASSES * 2), np.float32)
    row[0, winner], row[0, (winner + 1) % CLASSES] = 0.5 + margin / 2, 0.5 - margin / 2
    return row


# ----------------------------------------------------------------------------------------------------------- prices


def test_benign_answers_cost_one_unit_on_average_whatever_their_class(prices):
    prediction, p_values = benign(2, 20_000)
    cost = prices.cost(prediction, p_values) / MILLI
    assert 0.93 < cost.mean() < 1.07
    for winner in range(CLASSES):
        assert 0.87 < cost[prediction.argmax(axis=1) == winner].mean() < 1.13


def test_how_near_a_boundary_is_is_judged_among_rows_of_the_same_class(prices):
    """Some classes are told apart with less margin than others; that is no reason to charge all of their rows more."""
    prediction, _ = benign(2, 20_000)
    near = 2 * prices.unscaled(prediction, np.ones(20_000)) - 0.5
    dear = near >= 0.5 / np.sqrt(0.05)
    for winner in range(CLASSES):
        assert 0.02 < dear[prediction.argmax(axis=1) == winner].mean() < 0.09


def test_foreign_and_boundary_answers_cost_more(prices):
    usual = prices.cost(answer(0.5), np.array([0.5]))[0]
    assert prices.cost(answer(0.5), np.array([0.0001]))[0] > 15 * usual
    assert prices.cost(answer(0.0), np.array([0.5]))[0] > 5 * usual
    assert prices.cost(answer(0.0), np.array([0.5]))[0] < prices.cost(answer(0.0), np.array([0.001]))[0]


def test_the_same_again_costs_less(prices):
    prediction, p_values = answer(0.3), np.array([0.2])
    full = prices.cost(prediction, p_values)[0]
    again, alike, new = (prices.cost(prediction, p_values, novelty=np.array([n]))[0] for n in (0.0, 0.5, 1.0))
    assert again == pytest.approx(full / 4, abs=1)
    assert again < alike < new == full


def test_what_is_no_number_costs_the_most(prices):
    dear = prices.cost(answer(0.3), np.array([np.nan]))[0]
    assert dear >= prices.cost(answer(0.3), np.array([1e-6]))[0]
    no_number = answer(0.3)
    no_number[0, 3] = np.nan
    assert prices.cost(no_number, np.array([0.5]))[0] > prices.cost(answer(0.3), np.array([0.5]))[0]
    assert prices.cost(answer(0.3), np.array([0.5]), novelty=np.array([np.nan]))[0] == prices.cost(
        answer(0.3), np.array([0.5])
    )


@given(
    prediction=arrays(np.float32, st.tuples(st.integers(0, 7), st.just(CLASSES))),
    data=st.data(),
)
@settings(deadline=None, max_examples=150)
def test_any_floats_cost_a_price_and_each_row_its_own(prices, prediction, data):
    p_values = data.draw(arrays(np.float64, len(prediction)))
    novelty = data.draw(arrays(np.float64, len(prediction)))
    with np.errstate(invalid="ignore"):
        cost = prices.cost(prediction, p_values, novelty=novelty)
        assert cost.dtype == np.int64
        assert ((cost >= 1) & (cost <= PRICE_MILLI_MAX)).all()
        for row in range(len(prediction)):
            one = slice(row, row + 1)
            assert prices.cost(prediction[one], p_values[one], novelty=novelty[one])[0] == cost[row]


def test_arrays_of_another_shape_are_named(prices):
    with pytest.raises(EvidenceInvalid, match="prediction"):
        prices.cost(np.ones((2, CLASSES + 1), np.float32), np.ones(2))
    with pytest.raises(EvidenceInvalid, match="p_values"):
        prices.cost(np.ones((2, CLASSES), np.float32), np.ones(3))
    with pytest.raises(EvidenceInvalid, match="novelty"):
        prices.cost(np.ones((2, CLASSES), np.float32), np.ones(2), novelty=np.ones(1))


def test_the_price_of_a_p_value_is_an_e_value():
    """Its mean over evenly spread p is at most 1, also for the ranks of a finite calibration set."""
    for rows in (100, 1_000, 10_000):
        ranks = np.arange(1, rows + 2) / (rows + 1)
        assert 0.9 < e_value(ranks).mean() <= 1.0


def test_margins():
    found = margins_of(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.5, 0.5, 0.0], [np.nan, 0.5, 0.5]], np.float64))
    assert found.tolist() == pytest.approx([0.5, 0.7, 0.0, 0.0])


# ---------------------------------------------------------------------------------------------------------- accounts


BUDGET = Budget(units=100.0, proof_after=2.0, refuse_after=4.0)
UNIT = MILLI


def spend(budget, account, units, now_ns, **more):
    return budget.charge(account, units * UNIT, now_ns, **more)


def test_steps_come_one_after_the_other():
    account, seen = FRESH, []
    for _ in range(10_000):
        account, step = spend(BUDGET, account, 1, NOW_NS, proven=True)
        seen.append(step)
        if step == BudgetStep.REFUSE:
            break
    counts = [seen.count(step) for step in BudgetStep]
    assert counts == [100, 200, 400, 1]  # a day in full, then answers at half the price: one day's worth, then two
    assert seen == sorted(seen)


def test_what_is_not_proven_and_what_is_refused_costs_nothing():
    account = Account(NOW_NS + 3 * DAY_NS)
    assert spend(BUDGET, account, 5, NOW_NS) == (account, BudgetStep.PROOF_OF_WORK)
    assert spend(BUDGET, account, 5, NOW_NS, proven=True)[0] != account
    account = Account(NOW_NS + 4 * DAY_NS)
    assert spend(BUDGET, account, 5, NOW_NS, proven=True) == (account, BudgetStep.REFUSE)


def test_one_class_costs_half_from_the_beginning():
    full, _ = spend(BUDGET, FRESH, 10, NOW_NS)
    top1, step = spend(BUDGET, FRESH, 10, NOW_NS, top1=True)
    assert step == BudgetStep.FULL
    assert BUDGET.debt_days(full, NOW_NS) == 2 * BUDGET.debt_days(top1, NOW_NS) == pytest.approx(0.1)


def test_each_step_begins_at_its_day():
    for days, below, at in ((1, "FULL", "TOP1"), (2, "TOP1", "PROOF_OF_WORK"), (4, "PROOF_OF_WORK", "REFUSE")):
        debt_ns = days * DAY_NS
        assert BUDGET.step(Account(NOW_NS + debt_ns - 10**6), NOW_NS).name == below
        assert BUDGET.step(Account(NOW_NS + debt_ns), NOW_NS).name == at


def test_a_day_pays_a_days_debt_and_no_more():
    account, _ = spend(BUDGET, FRESH, 100, NOW_NS)
    assert BUDGET.debt_days(account, NOW_NS) == pytest.approx(1.0)
    assert BUDGET.debt_days(account, NOW_NS + DAY_NS // 4) == pytest.approx(0.75)
    assert BUDGET.debt_days(account, NOW_NS + 9 * DAY_NS) == 0.0
    rested, _ = spend(BUDGET, account, 1, NOW_NS + 9 * DAY_NS)
    assert BUDGET.debt_days(rested, NOW_NS + 9 * DAY_NS) == pytest.approx(0.01), "rest is not saved up"


@given(
    parts=st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 3 * DAY_NS // 10)), min_size=1, max_size=60),
)
@settings(deadline=None)
def test_who_spends_a_days_units_in_any_day_stays_in_the_first_step(parts):
    """The promise in defenses.extraction.allowance: however the queries are spread over time."""
    now_ns, account, spent = NOW_NS, FRESH, []
    for cost, later_ns in parts:
        now_ns += later_ns
        window = sum(price for at_ns, price in spent if now_ns - at_ns < DAY_NS)
        price = min(cost, int(BUDGET.units * MILLI) - window)
        account, step = BUDGET.charge(account, price, now_ns)
        assert step == BudgetStep.FULL or (price == 0 and window == BUDGET.units * MILLI)
        spent.append((now_ns, price))


@given(jumps=st.lists(st.integers(-40 * DAY_NS, 5 * DAY_NS), min_size=1, max_size=30))
@settings(deadline=None)
def test_a_clock_that_jumps_back_gives_nothing_away_and_locks_nobody_out(jumps):
    now_ns, account = NOW_NS, FRESH
    for jump in jumps:
        before = BUDGET.debt_days(account, now_ns)
        now_ns = max(0, now_ns + jump)
        if jump < 0:
            assert BUDGET.debt_days(account, now_ns) >= before
        assert BUDGET.debt_days(account, now_ns) <= BUDGET.refuse_after + 1.0
        account, _ = spend(BUDGET, account, 3, now_ns)


def test_accounts_that_turn_out_to_be_one_owe_together():
    one, _ = spend(BUDGET, FRESH, 60, NOW_NS)
    other, _ = spend(BUDGET, FRESH, 70, NOW_NS)
    together = BUDGET.merge(one, other, NOW_NS)
    assert BUDGET.debt_days(together, NOW_NS) == pytest.approx(1.3)
    assert BUDGET.step(together, NOW_NS) == BudgetStep.TOP1


def test_when_to_come_back():
    assert BUDGET.retry_after_ms(Account(NOW_NS + 4 * DAY_NS + 1_500_000), NOW_NS) == 2
    assert BUDGET.retry_after_ms(FRESH, NOW_NS) == 0


@given(data=st.binary(max_size=12))
@settings(deadline=None)
def test_any_bytes_are_an_account_or_the_named_error(data):
    try:
        account = Account.unpack(data)
    except BudgetStateInvalid:
        return
    assert account.pack() == data
    assert len(data) == 8


def test_an_account_is_small_and_round_trips():
    account, _ = spend(BUDGET, FRESH, 7, NOW_NS)
    assert Account.unpack(account.pack()) == account
    assert len(account.pack()) <= 2048


@pytest.mark.parametrize(
    "fields",
    [
        {"units": 0.5},
        {"units": 2e9},
        {"units": float("nan")},
        {"units": 10.0, "top1_after": 0.0},
        {"units": 10.0, "top1_after": 1.3},
        {"units": 10.0, "proof_after": 1.6},
        {"units": 10.0, "refuse_after": 31.0},
    ],
)
def test_a_budget_out_of_its_limits_is_refused(fields):
    with pytest.raises(RuleInvalid):
        Budget(**fields)


# ------------------------------------------------------------------------------------------------------- calibration


def test_the_allowance_holds_on_rows_it_has_not_seen(fitted):
    arrays_, report = fitted
    measured = measure_budget(arrays_, *benign(3, 5_000), queries=1_000, streams=1_000, seed=5)
    assert measured["interval"][0] <= 0.001
    assert report["units_per_day"]["1000"] < 1_250, "no more than the spread of a thousand prices asks for"
    assert measured["price_mean"] == pytest.approx(1.0, abs=0.06)


def test_the_allowance_has_room_for_what_a_set_does_not_know_of_its_mean():
    """The rate among all benign streams is above the promise for about one set in twenty, not for every other one."""
    prediction, p_values = benign(77, 60_000)
    above = 0
    for seed in range(40):
        few = np.random.default_rng(seed).choice(60_000, 1_000, replace=False)
        found, _ = fit_budget(prediction[few], p_values[few], seed=seed, rates=(3_000,), beyond_max=0.05, streams=300)
        measured = measure_budget(found, prediction, p_values, queries=3_000, streams=200, seed=seed)
        above += measured["interval"][0] > 0.05
    assert above <= 4


def test_a_small_set_prices_new_rows_at_one_unit_too():
    """Among the rows that it is ranked with, the dearest is not as dear as a new one may be."""
    prediction, p_values = benign(78, 20_000)
    means = []
    for seed in range(60):
        few = np.random.default_rng(seed).choice(20_000, 150, replace=False)
        found, _ = fit_budget(prediction[few], p_values[few], seed=seed, rates=(10,), beyond_max=0.05, streams=100)
        means.append(Prices.from_calibration(found).cost(prediction, p_values).mean() / MILLI)
    assert np.mean(means) == pytest.approx(1.0, abs=0.025)


def test_an_allowance_has_room_for_rows_that_are_strange_and_near_a_boundary_at_once():
    """In these rows the one says nothing of the other. Streams of them alone would ask for 1,125 units."""
    found, _ = fit_budget(*benign(79), seed=0, rates=(1_000,), streams=3_000)
    assert 1_140 < found["budget.units"][0] < 1_165


def test_a_stream_of_foreign_rows_does_leave_the_first_step(fitted):
    prediction, p_values = benign(4)
    measured = measure_budget(fitted[0], prediction, p_values / 30, queries=1_000, streams=50, seed=5)
    assert measured["beyond"] == 50


def test_streams_longer_than_there_are_rows_cannot_be_measured(fitted):
    prediction, p_values = benign(4, 500)
    with pytest.raises(CalibrationInvalid, match="500 rows"):
        measure_budget(fitted[0], prediction, p_values, queries=501, streams=5, seed=5)
    assert measure_budget(fitted[0], prediction, p_values, queries=500, streams=5, seed=5)["rows"] == 500


def test_the_smallest_calibrated_rate_that_is_enough_is_taken(fitted):
    units = fitted[0]["budget.units"]
    assert [Budget.from_calibration(fitted[0], q).units for q in (1, 100, 101, 1_000)] == units[[0, 0, 1, 1]].tolist()
    for queries in (0, 1_001):
        with pytest.raises(RuleInvalid):
            Budget.from_calibration(fitted[0], queries)


def test_calibrating_is_reproducible_and_its_digest_says_what_it_was_made_of(fitted):
    again, _ = fit_budget(*benign(1), seed=0, rates=(100, 1_000), streams=3_000)
    other, _ = fit_budget(*benign(9), seed=0, rates=(100, 1_000), streams=3_000)
    digests = [Prices.from_calibration(each).digest for each in (fitted[0], again, other)]
    assert digests[0] == digests[1] != digests[2]


def test_too_little_to_calibrate_on_is_said():
    prediction, p_values = benign(1)
    with pytest.raises(CalibrationTooSmall):
        fit_budget(prediction, p_values, seed=0, rates=(100,), streams=2_000)
    with pytest.raises(CalibrationInvalid):
        fit_budget(prediction[:99], p_values[:99], seed=0)
    with pytest.raises(CalibrationInvalid):
        fit_budget(np.full_like(prediction, np.nan), p_values, seed=0)


@pytest.mark.parametrize(
    ("name", "spoiled"),
    [
        ("margins", np.array([0.5, np.nan])),
        ("margins", np.array([0.5, 1.5])),
        ("margins", np.array([])),
        ("owners", np.array([99])),
        ("owners", np.array([0.5])),
        ("scale", np.array([1.0, 0.0, 1.0, 1.0, 1.0])),
        ("scale", np.array([1.0])),
        ("scale", None),
        ("surplus", np.ones(1)),
    ],
)
def test_malformed_prices_are_refused(fitted, name, spoiled):
    mixed = {key: value for key, value in fitted[0].items() if key != f"budget.{name}" or spoiled is not None}
    if spoiled is not None:
        mixed[f"budget.{name}"] = spoiled
    with pytest.raises(CalibrationInvalid):
        Prices.from_calibration(mixed)


@pytest.mark.parametrize(
    ("rates", "units"), [([100, 50], [1.0, 1.0]), ([100], [1.0, 2.0]), ([], []), ([100], [0.1]), ([100], [np.inf])]
)
def test_malformed_allowances_are_refused(fitted, rates, units):
    spoiled = fitted[0] | {"budget.rates": np.array(rates, np.int64), "budget.units": np.array(units)}
    with pytest.raises(CalibrationInvalid):
        Budget.from_calibration(spoiled, 10)

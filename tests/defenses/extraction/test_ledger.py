"""The accounts of a budget: bounded, restored after a restart, and not to be emptied by a flood of names."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.errors import BudgetStateInvalid
from defenses.extraction.budget import DAY_NS, MILLI, Budget, BudgetStep
from defenses.extraction.ledger import Ledger

BUDGET = Budget(units=100.0, proof_after=2.0, refuse_after=4.0)
NOW_NS = 1_700_000_000 * 10**9


def spent(**accounts):
    ledger = Ledger()
    for name, units in accounts.items():
        ledger.charge(name, BUDGET, units * MILLI, NOW_NS)
    return ledger


def test_each_name_has_its_own_account():
    ledger = spent(ann=100, bob=5)
    assert ledger.charge("ann", BUDGET, MILLI, NOW_NS) == BudgetStep.TOP1
    assert ledger.charge("bob", BUDGET, MILLI, NOW_NS) == BudgetStep.FULL
    assert ledger.debts(BUDGET, NOW_NS) == pytest.approx({"ann": 1.005, "bob": 0.06})


def test_who_is_out_of_debt_is_forgotten():
    ledger = spent(ann=100)
    assert ledger.debts(BUDGET, NOW_NS + DAY_NS) == {}
    ledger.charge("ann", BUDGET, 0, NOW_NS + DAY_NS)
    assert len(ledger) == 0


def test_a_flood_of_names_is_bounded_and_does_not_pay_the_flooders_debt():
    ledger = Ledger(accounts_max=50)
    for _ in range(150):
        ledger.charge("mallory", BUDGET, MILLI, NOW_NS)
    assert BUDGET.step(ledger.of("mallory"), NOW_NS) == BudgetStep.TOP1
    for number in range(10_000):
        ledger.charge(f"sybil-{number}", BUDGET, MILLI, NOW_NS)
        assert len(ledger) <= 50
    assert BUDGET.step(ledger.of("mallory"), NOW_NS) == BudgetStep.TOP1


def test_at_the_bound_and_one_past_it():
    ledger = Ledger(accounts_max=10)
    for number in range(10):
        ledger.charge(str(number), BUDGET, MILLI * (number + 1), NOW_NS)
    assert len(ledger) == 10
    ledger.charge("one more", BUDGET, MILLI * 50, NOW_NS)
    assert sorted(ledger.debts(BUDGET, NOW_NS)) == ["2", "3", "4", "5", "6", "7", "8", "9", "one more"]


def test_those_that_are_one_owe_together():
    ledger = spent(ann=60, bob=70)
    ledger.join("ann", "bob", BUDGET, NOW_NS)
    ledger.join("ann", "ann", BUDGET, NOW_NS)
    ledger.join("ann", "nobody", BUDGET, NOW_NS)
    assert ledger.debts(BUDGET, NOW_NS) == pytest.approx({"ann": 1.3})


def test_an_operator_lets_off():
    ledger = spent(ann=60)
    assert ledger.forgive("ann")
    assert not ledger.forgive("ann")
    assert ledger.debts(BUDGET, NOW_NS) == {}


@given(names=st.dictionaries(st.text(max_size=20), st.integers(1, 90)))
@settings(deadline=None)
def test_a_snapshot_round_trips(names):
    ledger, again = Ledger(), Ledger()
    for name, units in names.items():
        ledger.charge(name, BUDGET, units * MILLI, NOW_NS)
    again.restore(ledger.snapshot(), NOW_NS)
    assert again.debts(BUDGET, NOW_NS) == ledger.debts(BUDGET, NOW_NS)


@given(
    data=st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.one_of(st.integers(), st.text(max_size=5), st.none(), st.floats()),
            lambda inner: st.dictionaries(st.sampled_from(["format", "free_at_ns", "ann"]), inner),
        ).map(lambda value: json.dumps(value).encode()),
        st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.booleans(), st.floats()), min_size=1).map(
            lambda held: json.dumps({"format": "stockade.budget-accounts/1", "free_at_ns": held}).encode()
        ),
        st.just(b"[" * 200_000),
    )
)
@settings(deadline=None)
def test_any_bytes_are_restored_or_the_named_error(data):
    ledger = spent(ann=60)
    try:
        ledger.restore(data, NOW_NS)
    except BudgetStateInvalid:
        assert ledger.debts(BUDGET, NOW_NS) == {"ann": pytest.approx(0.6)}
    else:
        assert ledger.debts(BUDGET, NOW_NS)["ann"] >= 0.59


def test_a_restart_forgives_nobody_and_an_old_snapshot_takes_nothing_back():
    ledger = spent(ann=60)
    old = ledger.snapshot()
    ledger.charge("ann", BUDGET, 30 * MILLI, NOW_NS)
    ledger.restore(old, NOW_NS)
    assert ledger.debts(BUDGET, NOW_NS) == {"ann": pytest.approx(0.9)}


def test_a_snapshot_that_is_too_large_is_not_read(monkeypatch):
    monkeypatch.setattr("defenses.extraction.ledger.SNAPSHOT_BYTES_MAX", len(spent(ann=60).snapshot()) - 1)
    with pytest.raises(BudgetStateInvalid):
        Ledger().restore(spent(ann=60).snapshot(), NOW_NS)

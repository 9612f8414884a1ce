"""Query attacks counted: what an attacker was told, and what a clean account is told afterwards."""

from __future__ import annotations

import json
from itertools import chain

import numpy as np
import pytest

from defenses.lab.attack import Sample, Size
from defenses.lab.evasion import query_trials
from defenses.lab.evasion.query import Searching
from defenses.lab.evasion.query_plans import IN_TURN, PLANS
from defenses.lab.evasion.query_scores import square
from defenses.lab.evasion.query_trials import VARIANTS, InTurn, Plan, apart, own_accounts, plan_of, rotation_of
from tests.defenses.lab.evasion.linear import LinearLab


def plan(**changed):
    settings = {"name": "square", "make": lambda _classes, _others: Searching("square", square), "budget": 5_000}
    return Plan(**settings | changed)


def run(lab, **changed):
    (trial,) = plan_of(plan(**changed), "kiosk", "2")(lab, 0)
    return trial


def test_success_is_what_a_clean_account_is_told():
    trial = run(LinearLab(reach=0.01))
    assert (trial.samples, trial.successes) == (query_trials.SAMPLES[Size.SMOKE], trial.samples)
    assert trial.metrics["claimed_share"] == 1
    assert trial.metrics["claimed_wrongly_share"] == 0
    assert trial.curves["success_by_answered"][-1][1] == 1


def test_what_only_looked_like_success_is_none():
    trial = run(LinearLab(reach=5.0, lies=True))
    assert trial.metrics["claimed_share"] == 1
    assert trial.metrics["claimed_wrongly_share"] == 1
    assert trial.successes == 0
    assert trial.curves == {}


def test_attackers_share_no_tenant_and_the_clean_account_is_new():
    lab = LinearLab()
    run(lab, accounts=10, tenants=2)
    attacked, *verified = lab.opened
    assert (attacked["accounts"], attacked["tenants"]) == (40, 8)
    assert [one["accounts"] for one in verified] == [1]


@pytest.mark.parametrize(("accounts", "tenants"), [(1, 1), (10, 1), (10, 10), (10, 2)])
def test_accounts_are_split_by_tenant(accounts, tenants):
    count = 4
    of = [own_accounts(place, count, plan(accounts=accounts, tenants=tenants)) for place in range(count)]
    assert sorted(chain.from_iterable(of)) == list(range(count * accounts))
    held = [{account % (count * tenants) for account in some} for some in of]
    assert [len(some) for some in held] == [tenants] * count
    assert len(set.union(*held)) == count * tenants


@pytest.mark.parametrize("name", PLANS)
def test_every_attack_of_the_catalogue_runs(name, monkeypatch):
    monkeypatch.setattr(query_trials, "SMOKE_BUDGET_MAX", 12)
    if name in {"hop-skip-jump", "boundary", "sign-opt", "zoo"}:
        pytest.importorskip("art")
    (trial,) = plan_of(PLANS[name], "kiosk", "2")(LinearLab(), 0)
    assert trial.attack == f"query/kiosk-2/{name}"
    assert trial.samples == query_trials.SAMPLES[Size.SMOKE]
    assert trial.metrics["queries_median"] <= 12
    assert trial.metrics["before_action_median"] <= 12
    assert all(np.isfinite(value) for value in trial.metrics.values())


def test_in_turn_all_go_through_one_account():
    lab = LinearLab(reach=0.01)
    (trial,) = rotation_of(InTurn("in-turn", square, 100, 20), "kiosk", "2")(lab, 0)
    assert lab.opened[0]["accounts"] == 1
    assert trial.samples == 1  # the lab's images are all alike
    assert trial.successes > 0


def test_images_far_apart_are_chosen():
    rows = np.zeros((4, 10, 10), np.float32)
    rows[1] += 0.1
    rows[2, :5] += 0.9
    rows[3, :5] += 0.8
    labels = np.arange(4)
    assert apart(Sample(rows, labels), 4).labels.tolist() == [0, 2]
    assert apart(Sample(rows, labels), 1).labels.tolist() == [0]


def test_variants_are_parts_of_a_policy():
    from gateway.policy.watch import Watch

    for changes in VARIANTS.values():
        Watch.model_validate_json(json.dumps(changes["watch"]))


@pytest.mark.parametrize("name", IN_TURN)
def test_every_attack_in_turn_runs(name):
    (trial,) = rotation_of(IN_TURN[name], "kiosk", "2")(LinearLab(reach=0.01), 0)
    assert trial.attack == f"query/kiosk-2/{name}"
    assert trial.samples == 1
    assert trial.settings["innocent_share"] == IN_TURN[name].innocent

"""Query attacks counted: what an attacker was told, and what a clean account is told afterwards."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from defenses.lab.attack import Run, Sample, Size
from defenses.lab.evasion import query_trials
from defenses.lab.evasion.query_trials import SEARCHES, apart, by_asking, in_turn, own_accounts
from tests.defenses.lab.evasion.linear import LinearLab


def run(lab, method=by_asking, **parameters):
    (found,) = method(Run(lab, 0, "kiosk", "2", "query"), **{"search": "square", "budget": 5_000} | parameters)
    return found


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
    of = [own_accounts(place, count, accounts, tenants) for place in range(count)]
    assert sorted(chain.from_iterable(of)) == list(range(count * accounts))
    held = [{account % (count * tenants) for account in some} for some in of]
    assert [len(some) for some in held] == [tenants] * count
    assert len(set.union(*held)) == count * tenants


@pytest.mark.parametrize("search", [*SEARCHES, "hop-skip-jump", "boundary", "sign-opt", "zoo"])
def test_every_search_runs(search, monkeypatch):
    monkeypatch.setattr(query_trials, "SMOKE_BUDGET_MAX", 12)
    if search not in SEARCHES:
        pytest.importorskip("art")
    found = run(LinearLab(), search=search, sees_actions=search.startswith("oars"))
    assert found.samples == query_trials.SAMPLES[Size.SMOKE]
    assert found.metrics["queries_median"] <= 12
    assert found.metrics["before_action_median"] <= 12
    assert all(np.isfinite(value) for value in found.metrics.values())


@pytest.mark.parametrize("disguise", [{"innocent": 0.9}, {"accounts": 10, "tenants": 10}])
def test_every_disguise_runs(disguise):
    found = run(LinearLab(), **disguise)
    assert found.settings["innocent_share"] == disguise.get("innocent", 0.0)
    assert found.metrics["queries_median"] <= query_trials.SMOKE_BUDGET_MAX


@pytest.mark.parametrize("parameters", [{}, {"groups": 3, "innocent": 0.985}])
def test_in_turn_all_go_through_one_account(parameters):
    lab = LinearLab(reach=0.01)
    trial = run(lab, in_turn, images=100, **parameters)
    assert lab.opened[0]["accounts"] == 1
    assert trial.samples == 1  # the lab's images are all alike
    assert trial.successes > 0
    assert trial.settings["innocent_share"] == parameters.get("innocent", 0.0)


def test_images_far_apart_are_chosen():
    rows = np.zeros((4, 10, 10), np.float32)
    rows[1] += 0.1
    rows[2, :5] += 0.9
    rows[3, :5] += 0.8
    labels = np.arange(4)
    assert apart(Sample(rows, labels), 4).labels.tolist() == [0, 2]
    assert apart(Sample(rows, labels), 1).labels.tolist() == [0]

from dataclasses import replace

import pytest

from gateway.admission.budget import compile_budget, refusal_of
from gateway.admission.gcra import NEVER
from gateway.admission.limiter import Decision, Limits
from gateway.admission.memory import MemoryLimiter
from gateway.errors import QuotaExceeded, RateLimited, RequestTooLarge

MS = 1_000_000
T0 = 10**12
OWN = Limits(request_interval_ns=200 * MS, request_burst=10, cost_interval_ns=10 * MS, cost_burst=100, in_flight_max=4)
SHARED = replace(OWN, request_burst=15, cost_burst=120, in_flight_max=6)


def test_a_budget_draws_on_the_principal_and_on_the_tenant():
    budget = compile_budget("kiosk-7", "store-7", 1, OWN, SHARED)
    assert (budget.lane, budget.in_flight_max, budget.tenant_in_flight_max) == (1, 4, 6)
    assert [(bucket.rule.name, bucket.rule.burst, cost) for bucket, cost in budget.request_charges] == [
        ("principal-requests", 10, 1),
        ("tenant-requests", 15, 1),
    ]
    assert [(bucket.rule.name, bucket.rule.burst, cost) for bucket, cost in budget.cost_charges(7, 1)] == [
        ("principal-cost", 100, 7),
        ("tenant-cost", 120, 7),
    ]


def test_principals_of_a_tenant_share_its_buckets_and_nothing_else():
    limiter = MemoryLimiter()
    first, second = (compile_budget(name, "store-7", 0, OWN, SHARED) for name in ("a", "b"))
    assert sum(limiter.spend(first.request_charges, T0).admitted for _ in range(20)) == 10
    assert sum(limiter.spend(second.request_charges, T0).admitted for _ in range(20)) == 5
    assert limiter.spend(second.request_charges, T0).rule == "tenant-requests"


def test_requests_and_cost_can_be_spent_together_or_not_at_all():
    limiter, budget = MemoryLimiter(), compile_budget("a", "t", 0, OWN, SHARED)
    assert limiter.spend((*budget.request_charges, *budget.cost_charges(100, 1)), T0).admitted
    assert not limiter.spend((*budget.request_charges, *budget.cost_charges(1, 1)), T0).admitted
    assert limiter.spend(((budget.request_charges[0][0], 0),), T0).remaining == 9


def test_no_name_hits_the_bucket_of_another():
    odd = ["a", "a/b", "tenant-cost/a", "cost/a", "/a", ""]
    keys = [
        bucket.key
        for name in odd
        for bucket in [
            *[bucket for bucket, _ in compile_budget(name, f"t{name}", 0, OWN, SHARED).request_charges],
            *compile_budget(name, f"t{name}", 0, OWN, SHARED).cost_buckets,
        ]
    ]
    assert len(set(keys)) == len(keys) == 4 * len(odd)


def test_a_reload_finds_every_bucket_as_it_was():
    limiter = MemoryLimiter()
    limiter.spend(compile_budget("a", "t", 0, OWN, SHARED).cost_charges(100, 1), T0)
    assert not limiter.spend(compile_budget("a", "t", 0, OWN, SHARED).cost_charges(1, 1), T0).admitted


@pytest.mark.parametrize(
    "changes",
    [
        {"in_flight_max": 0},
        {"request_burst": 0},
        {"request_interval_ns": 0},
        {"cost_burst": 0},
        {"cost_interval_ns": 31 * 24 * 3600 * 10**9},
    ],
)
def test_limits_out_of_range_are_refused_by_name(changes):
    with pytest.raises(ValueError, match="principal"):
        compile_budget("a", "t", 0, replace(OWN, **changes), SHARED)
    with pytest.raises(ValueError, match="tenant"):
        compile_budget("a", "t", 0, OWN, replace(SHARED, **changes))


def test_what_can_be_waited_for_is_a_rate_limit_and_what_cannot_is_too_large():
    limited = refusal_of(Decision(False, "tenant-cost", 100, 3, 900, 120))
    assert isinstance(limited, RateLimited)
    assert (limited.rule, limited.retry_after_ms) == ("tenant-cost", 120)
    too_large = refusal_of(Decision(False, "tenant-cost", 100, 3, 900, NEVER))
    assert isinstance(too_large, RequestTooLarge)
    assert (too_large.what, too_large.limit) == ("cost", 100)


def test_a_budget_of_queries_counts_rows_whatever_they_cost():
    daily = replace(OWN, queries_per_day=24)
    budget = compile_budget("a", "t", 0, daily, replace(SHARED, queries_per_day=100))
    assert [(bucket.rule.name, cost) for bucket, cost in budget.cost_charges(30, 3)] == [
        ("principal-cost", 30),
        ("tenant-cost", 30),
        ("principal-queries-per-day", 3),
        ("tenant-queries-per-day", 3),
    ]
    limiter = MemoryLimiter()
    assert limiter.spend(budget.cost_charges(1, 24), T0).admitted
    refused = limiter.spend(budget.cost_charges(1, 1), T0)
    assert (refused.admitted, refused.rule, refused.limit) == (False, "principal-queries-per-day", 24)
    assert refused.retry_after_ms == 3_600_000
    assert limiter.spend(budget.cost_charges(1, 1), T0 + 3_600_000 * MS).admitted


def test_only_whoever_has_a_budget_of_queries_is_charged_for_them():
    assert len(compile_budget("a", "t", 0, replace(OWN, queries_per_day=1), SHARED).cost_charges(1, 1)) == 3
    assert len(compile_budget("a", "t", 0, OWN, SHARED).cost_charges(1, 1)) == 2


@pytest.mark.parametrize("rule", ["principal-queries-per-day", "tenant-queries-per-day/local-share"])
def test_a_spent_budget_of_queries_is_no_rate(rule):
    refusal = refusal_of(Decision(False, rule, 10, 0, 5, 250))
    assert isinstance(refusal, QuotaExceeded)
    assert (refusal.rule, refusal.retry_after_ms) == (rule, 250)
    too_large = refusal_of(Decision(False, rule, 10, 0, 5, NEVER))
    assert isinstance(too_large, RequestTooLarge)
    assert (too_large.what, too_large.limit) == ("rows", 10)

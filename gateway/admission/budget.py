"""What one principal may draw on, compiled once from the policy: its own limits and its tenant's.

Bucket keys hold the kind, the rule and the name, so that no principal's name can be spelled to hit another's bucket,
and so that a reload of the policy finds every bucket as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.admission.gcra import NEVER
from gateway.admission.limiter import Bucket, Decision, Limits, Rule
from gateway.errors import QuotaExceeded, RateLimited, RequestTooLarge

PRINCIPAL_IN_FLIGHT = "principal-in-flight"
TENANT_IN_FLIGHT = "tenant-in-flight"
QUERIES_PER_DAY = "queries-per-day"  # ends the name of a rule that is a budget, not a rate
DAY_NS = 86_400 * 1_000_000_000

Charges = tuple[tuple[Bucket, int], ...]


@dataclass(frozen=True, slots=True)
class Budget:
    """The buckets and bounds of one principal."""

    principal: str
    tenant: str
    lane: int
    in_flight_max: int
    tenant_in_flight_max: int
    request_charges: Charges  # one request, on the principal's and on the tenant's bucket
    cost_buckets: tuple[Bucket, ...]
    query_buckets: tuple[Bucket, ...] = ()  # where there is a budget of queries: the principal's, the tenant's

    def cost_charges(self, cost: int, rows: int) -> Charges:
        """`cost` units on the principal's and on the tenant's bucket, and `rows` queries on their budgets."""
        charges = [(bucket, cost) for bucket in self.cost_buckets]
        if self.query_buckets:
            charges += [(bucket, rows) for bucket in self.query_buckets]
        return tuple(charges)


def compile_budget(principal: str, tenant: str, lane: int, limits: Limits, tenant_limits: Limits) -> Budget:
    """Raise ValueError, naming the rule, when a limit is out of its range."""
    owners = (("principal", principal, limits), ("tenant", tenant, tenant_limits))
    for kind, name, own in owners:
        if own.in_flight_max < 1:
            raise ValueError(f"{kind} {name}: in_flight is at least 1")
    requests = [
        _bucket(f"{kind}-requests", name, own.request_interval_ns, own.request_burst) for kind, name, own in owners
    ]
    costs = [_bucket(f"{kind}-cost", name, own.cost_interval_ns, own.cost_burst) for kind, name, own in owners]
    return Budget(
        principal=principal,
        tenant=tenant,
        lane=lane,
        in_flight_max=limits.in_flight_max,
        tenant_in_flight_max=tenant_limits.in_flight_max,
        request_charges=tuple([(bucket, 1) for bucket in requests]),
        cost_buckets=tuple(costs),
        query_buckets=tuple(
            _bucket(f"{kind}-{QUERIES_PER_DAY}", name, -(-DAY_NS // own.queries_per_day), own.queries_per_day)
            for kind, name, own in owners
            if own.queries_per_day is not None
        ),
    )


def refusal_of(decision: Decision) -> RateLimited | RequestTooLarge:
    """Why a spend was refused. What costs more than a whole burst fits no budget, however long one waits."""
    quota = decision.rule.partition("/")[0].endswith(QUERIES_PER_DAY)
    if decision.retry_after_ms == NEVER:
        return RequestTooLarge("rows" if quota else "cost", decision.limit)
    if quota:
        return QuotaExceeded(decision.rule, decision.retry_after_ms)
    return RateLimited(decision.rule, decision.retry_after_ms)


def _bucket(rule: str, name: str, interval_ns: int, burst: int) -> Bucket:
    return Bucket(key=f"{rule}/{name}", rule=Rule(rule, interval_ns, burst))

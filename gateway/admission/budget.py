"""What one principal may draw on, compiled once from the policy: its own limits and its tenant's.

Bucket keys hold the kind, the rule and the name, so that no principal's name can be spelled to hit another's bucket,
and so that a reload of the policy finds every bucket as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.admission.gcra import NEVER
from gateway.admission.limiter import Bucket, Decision, Limits, Rule
from gateway.errors import RateLimited, RequestTooLarge

PRINCIPAL_IN_FLIGHT = "principal-in-flight"
TENANT_IN_FLIGHT = "tenant-in-flight"

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

    def cost_charges(self, cost: int) -> Charges:
        """`cost` units on the principal's and on the tenant's bucket."""
        return tuple([(bucket, cost) for bucket in self.cost_buckets])


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
    )


def refusal_of(decision: Decision) -> RateLimited | RequestTooLarge:
    """Why a spend was refused. What costs more than a whole burst fits no budget, however long one waits."""
    if decision.retry_after_ms == NEVER:
        return RequestTooLarge("cost", decision.limit)
    return RateLimited(decision.rule, decision.retry_after_ms)


def _bucket(rule: str, name: str, interval_ns: int, burst: int) -> Bucket:
    return Bucket(key=f"{rule}/{name}", rule=Rule(rule, interval_ns, burst))

"""How many calls may be in flight: of a principal, of a tenant, and in all, with fair shedding near the bound.

The gateway's bound is shared by dynamic thresholds (Choudhury and Hahne, "Dynamic queue length thresholds for
shared-memory packet switches", IEEE/ACM Transactions on Networking 6(2), 1998): a tenant may enter while it has fewer
calls in flight than SHARE_FACTOR times what is free. One tenant alone gets SHARE_FACTOR / (1 + SHARE_FACTOR) of the
bound, N busy ones equal parts of SHARE_FACTOR * N / (1 + SHARE_FACTOR * N), and what stays free lets a newcomer in at
once. "Free" is counted up to the ceiling of the caller's lane, which is lower for the lanes that give way first.

Lanes come from the identity. Counts are exact: a ticket is given back once, however often `leave` is called.
Memory is bounded by what is in flight. Called from one thread; does not queue and does not wait.
"""

from __future__ import annotations

from gateway.admission.budget import PRINCIPAL_IN_FLIGHT, TENANT_IN_FLIGHT, Budget
from gateway.errors import Overloaded, RateLimited

SHARE_FACTOR = 8
LANE_CEILINGS_PERCENT = (100, 95, 90, 85)
LANES = len(LANE_CEILINGS_PERCENT)


class Ticket:
    """One call that is in flight until it is given to `Concurrency.leave`."""

    __slots__ = ("held", "principal", "tenant")

    def __init__(self, principal: str, tenant: str) -> None:
        self.principal = principal
        self.tenant = tenant
        self.held = True


class Concurrency:
    """Counts calls in flight."""

    def __init__(self, in_flight_max: int, *, retry_after_ms: int = 100) -> None:
        if in_flight_max < 1:
            raise ValueError("in_flight_max is at least 1")
        self._ceilings = tuple([max(1, in_flight_max * percent // 100) for percent in LANE_CEILINGS_PERCENT])
        self._retry_after_ms = retry_after_ms
        self._total = 0
        self._principals: dict[str, int] = {}
        self._tenants: dict[str, int] = {}

    @property
    def in_flight(self) -> int:
        return self._total

    def of_principal(self, principal: str) -> int:
        return self._principals.get(principal, 0)

    def of_tenant(self, tenant: str) -> int:
        return self._tenants.get(tenant, 0)

    def enter(self, budget: Budget) -> Ticket:
        """Count the call in. RateLimited: the principal or its tenant has its fill. Overloaded: the gateway has."""
        principal, tenant = budget.principal, budget.tenant
        of_principal = self._principals.get(principal, 0)
        of_tenant = self._tenants.get(tenant, 0)
        if of_principal >= budget.in_flight_max:
            raise RateLimited(PRINCIPAL_IN_FLIGHT, self._retry_after_ms)
        if of_tenant >= budget.tenant_in_flight_max:
            raise RateLimited(TENANT_IN_FLIGHT, self._retry_after_ms)
        if of_tenant >= SHARE_FACTOR * (self._ceilings[budget.lane] - self._total):
            raise Overloaded(self._retry_after_ms)
        self._principals[principal] = of_principal + 1
        self._tenants[tenant] = of_tenant + 1
        self._total += 1
        return Ticket(principal, tenant)

    def leave(self, ticket: Ticket) -> None:
        """Count the call out. Doing it again changes nothing."""
        if not ticket.held:
            return
        ticket.held = False
        self._total -= 1
        _decrement(self._principals, ticket.principal)
        _decrement(self._tenants, ticket.tenant)


def _decrement(counts: dict[str, int], name: str) -> None:
    left = counts[name] - 1
    if left:
        counts[name] = left
    else:
        del counts[name]

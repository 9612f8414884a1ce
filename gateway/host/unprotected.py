"""The gateway with every protection off, to measure what they cost. Switched on by `unsafe_unprotected` alone.

Whoever calls is the first principal of the policy, nothing is limited, no screen judges, nothing is hardened, and no
record is written. The path of a request is the same, and so is what it is compared with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.admission.concurrency import Ticket
from gateway.admission.limiter import Decision
from gateway.auth.principal import Principal
from gateway.models.compile_output import ABSTAINED
from ops.audit.store.client import Receipt

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from gateway.admission.budget import Budget
    from gateway.admission.limiter import Bucket
    from gateway.auth.principal import Presented
    from gateway.models.rules import Active, ModelRules
    from gateway.policy.policy import Policy
    from ops.audit.store.client import Done

ADMITTED = Decision(admitted=True, rule="none", limit=0, remaining=0, reset_ms=0, retry_after_ms=0)


class Anybody:
    """Takes everybody for one principal."""

    def __init__(self, principal: Principal) -> None:
        self._principal = principal

    def authenticate(self, presented: Presented, now_ns: int) -> Principal:  # noqa: ARG002  whoever it is
        return self._principal


class Unlimited:
    """Admits everything: a `Limiter` and a `Concurrency` in one."""

    def __init__(self) -> None:
        self.in_flight = 0

    def spend(self, charges: Sequence[tuple[Bucket, int]], now_ns: int) -> Decision:  # noqa: ARG002  whatever it costs
        return ADMITTED

    def enter(self, budget: Budget) -> Ticket:
        self.in_flight += 1
        return Ticket(budget.principal, budget.tenant)

    def leave(self, ticket: Ticket) -> None:  # noqa: ARG002  whoever leaves
        self.in_flight -= 1


class Forgetful:
    """An audit sink that keeps nothing and acknowledges everything."""

    origin = ""
    available = True
    backlog_records = 0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def append(self, entries: Sequence[bytes], done: Done, *, blobs: Sequence[bytes] = ()) -> None:  # noqa: ARG002  as of every sink
        self._loop.call_soon_threadsafe(done, Receipt(self.origin, 0, len(entries)))

    async def close(self) -> None:
        """Nothing is open."""


def anybody(policy: Policy) -> Principal:
    """Return the first principal of the policy, whom everybody is taken for."""
    name, first = next(iter(policy.principals.items()))
    return Principal(
        name=name,
        tenant=first.tenant,
        priority_class=policy.class_of(name),
        lane=policy.lane_of(name),
        roles=frozenset(first.roles),
        credential="none",
        method="none",
        expires_ns=None,
    )


def without_protection(active: Active, principal: Principal) -> Active:
    """Return the policy with nothing left of it but where the models are; everybody is `principal`."""
    models = {key: bare(rules) for key, rules in active.models.items()}
    return replace(active, models=models, chain=Anybody(principal))


def bare(rules: ModelRules) -> ModelRules:
    """Return what is left of a version's rules when nothing protects it: where it is, and what it gives."""
    return replace(
        rules,
        outputs=tuple(spec for spec in rules.outputs if spec is not ABSTAINED),
        screens={},
        screen_rules={},
        hardening=None,
        harden_flagged=False,
        output=None,
        rotations=None,
        capture="none",
        watch=None,
        budget=None,
        acknowledge="local",
    )

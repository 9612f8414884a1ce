"""The admin port's methods about tenants: who they are, what they asked, keeping them out, letting them in.

What a tenant asked is read from the public log as it stands on disk, the newest entries only. Nothing that a worker
says is in it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.auth.isolation import IsolationRefused
from gateway.control.orders import order_of, told_to
from gateway.errors import ArgumentInvalid
from ops.audit.errors import ReadError
from ops.audit.log.entry import pseudonym
from ops.audit.log.epochs import numbered, split_origin
from ops.audit.reader.read import ENTRIES_MAX
from ops.incidents.timeline import NEWEST_MAX, Scope, Timeline
from stockade.v1 import admin_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from google.protobuf.message import Message

    from gateway.auth.isolation import Isolation, Isolations, Subject
    from gateway.control.desk import Desk
    from gateway.control.tenants.segments import Segments
    from gateway.edge.service import Call
    from gateway.policy.policy import LimitSet, Policy
    from gateway.request.item import Answer
    from ops.incidents.timeline import Affected

SUBJECTS_MAX = 64
LOOKED_AT = 20_000
SECOND_NS = 1_000_000_000
TENANTS_MAX = 10_000  # in one reply: clients take 4 MiB unless they say otherwise


def tenant_methods(desk: Desk, segments: Segments) -> dict[str, Callable[[Call, bytes], Awaitable[Answer]]]:
    """Return the methods by their names."""
    methods = TenantMethods(desk, segments)
    return {
        "ForgiveAccounts": told_to(admin_pb2.ForgiveAccountsRequest, methods.forgive),
        "ListTenants": told_to(admin_pb2.ListTenantsRequest, methods.list_tenants),
        "ShowTenant": told_to(admin_pb2.ShowTenantRequest, methods.show_tenant),
        "Isolate": told_to(admin_pb2.IsolateRequest, methods.isolate),
        "LiftIsolation": told_to(admin_pb2.LiftIsolationRequest, methods.lift),
    }


@dataclass(frozen=True, slots=True)
class TenantMethods:
    """The methods, for one control plane."""

    desk: Desk
    segments: Segments

    async def list_tenants(self, _: admin_pb2.ListTenantsRequest, __: Call) -> Message:
        policy, isolations = self.desk.fleet.policy, self.segments.isolations
        now_ns = self.desk.gw.wall_ns()
        reply = admin_pb2.ListTenantsResponse()
        reply.tenants.extend(summaries(policy, isolations, now_ns))
        reply.isolations.extend(isolation_message(one) for one in isolations.listed if one.holds(now_ns))
        return reply

    async def show_tenant(self, request: admin_pb2.ShowTenantRequest, _: Call) -> Message:
        if request.tenant not in self.desk.fleet.policy.tenants:
            raise ArgumentInvalid("tenant", "is not a tenant of the policy in force")
        return await asyncio.to_thread(
            shown, self.desk, self.segments.isolations, request.tenant, request.entries_max or LOOKED_AT
        )

    async def isolate(self, request: admin_pb2.IsolateRequest, call: Call) -> Message:
        order = order_of(call, request.reason, request.incident)
        until_ns = request.until_unix_ns
        if until_ns and until_ns <= self.desk.gw.wall_ns():
            raise ArgumentInvalid("until_unix_ns", "has passed")
        subjects = await asyncio.to_thread(subjects_of, request.subjects, self.desk)
        segments = self.segments
        try:
            made = await segments.isolate(subjects, order, until_ns)
        except IsolationRefused as problem:
            return admin_pb2.IsolateResponse(problem=str(problem))
        behind = await segments.behind()
        reply = admin_pb2.IsolateResponse(accepted=True, workers_behind=behind)
        reply.isolations.extend(map(isolation_message, made))
        return reply

    async def lift(self, request: admin_pb2.LiftIsolationRequest, call: Call) -> Message:
        order = order_of(call, request.reason, request.incident)
        if not 0 < len(request.ids) <= SUBJECTS_MAX:
            raise ArgumentInvalid("ids", f"must be 1 to {SUBJECTS_MAX}")
        segments = self.segments
        try:
            await segments.lift(request.ids, order)
        except IsolationRefused as problem:
            return admin_pb2.LiftIsolationResponse(problem=str(problem))
        return admin_pb2.LiftIsolationResponse(accepted=True, workers_behind=await segments.behind())

    async def forgive(self, request: admin_pb2.ForgiveAccountsRequest, call: Call) -> Message:
        order = order_of(call, request.reason, request.incident)
        subjects = await asyncio.to_thread(subjects_of, request.subjects, self.desk)
        forgiven = await self.segments.forgive(subjects, order)
        return admin_pb2.ForgiveAccountsResponse(principals=forgiven)


def subjects_of(asked: Iterable[admin_pb2.Subject], desk: Desk) -> list[Subject]:
    """Return who is meant, each once. Raises ArgumentInvalid for nobody, too many, or who is not in the policy."""
    found = dict.fromkeys(subject_of(subject, f"subjects[{number}]", desk) for number, subject in enumerate(asked))
    if not 0 < len(found) <= SUBJECTS_MAX:
        raise ArgumentInvalid("subjects", f"must be 1 to {SUBJECTS_MAX}")
    return list(found)


def subject_of(subject: admin_pb2.Subject, field: str, desk: Desk) -> Subject:
    """Return who is meant. Raises ArgumentInvalid."""
    policy = desk.fleet.policy
    if subject.principal:
        if subject.tenant or subject.pseudonym:
            raise ArgumentInvalid(field, "names somebody twice")
        if (principal := policy.principals.get(subject.principal)) is None:
            raise ArgumentInvalid(f"{field}.principal", "is not a principal of the policy in force")
        return principal.tenant, subject.principal
    if subject.tenant not in policy.tenants:
        raise ArgumentInvalid(f"{field}.tenant", "is not a tenant of the policy in force")
    if not subject.pseudonym:
        return subject.tenant, ""
    key = desk.keys.tenant_key(subject.tenant)
    for name, principal in policy.principals.items():
        if principal.tenant == subject.tenant and pseudonym(key, name) == subject.pseudonym:
            return subject.tenant, name
    raise ArgumentInvalid(f"{field}.pseudonym", "is nobody's in that tenant, by the policy in force")


def isolation_message(one: Isolation) -> admin_pb2.Isolation:
    """Return an isolation as the admin port tells it."""
    return admin_pb2.Isolation(
        id=one.id,
        tenant=one.tenant,
        principal=one.principal,
        administrator=one.administrator,
        reason=one.reason,
        since_unix_ns=one.since_ns,
        until_unix_ns=one.until_ns,
        incident=one.incident,
    )


def summaries(policy: Policy, isolations: Isolations, now_ns: int) -> Iterator[admin_pb2.TenantSummary]:
    """Yield the tenants of a policy by name, those with somebody kept out first."""
    principals: dict[str, int] = {}
    for principal in policy.principals.values():
        principals[principal.tenant] = principals.get(principal.tenant, 0) + 1
    held: dict[str, list[str]] = {}
    for one in isolations.listed:
        if one.holds(now_ns):
            held.setdefault(one.tenant, []).append(one.principal)
    for name in sorted(policy.tenants, key=lambda name: (name not in held, name))[:TENANTS_MAX]:
        count = principals.get(name, 0)
        out = held.get(name, [])
        yield admin_pb2.TenantSummary(
            name=name,
            priority_class=policy.tenants[name].priority_class,
            principals=count,
            isolated=count if "" in out else len(out),
        )


def shown(desk: Desk, isolations: Isolations, tenant: str, entries_max: int) -> admin_pb2.ShowTenantResponse:
    """Return what is known of a tenant. Blocks: it reads the log and the keys of pseudonyms."""
    policy, now_ns = desk.fleet.policy, desk.gw.wall_ns()
    (summary,) = (each for each in summaries(policy, isolations, now_ns) if each.name == tenant)
    reply = admin_pb2.ShowTenantResponse(tenant=summary)
    set_limits(reply.limits, policy.tenants[tenant].limits, policy.limits)
    here = [one for one in isolations.listed if one.tenant == tenant and one.holds(now_ns)]
    reply.isolations.extend(map(isolation_message, here))
    key, out = desk.keys.tenant_key(tenant), {one.principal for one in here}
    for name, principal in policy.principals.items():
        if principal.tenant == tenant:
            isolated = bool(out & {name, ""})
            known = pseudonym(key, name)
            facts = reply.principals.add(name=name, pseudonym=known, roles=principal.roles, isolated=isolated)
            set_limits(facts.limits, principal.limits, policy.limits)
    add_asked(reply, desk, tenant, entries_max)
    return reply


def set_limits(message: admin_pb2.LimitSet, name: str, known: Mapping[str, LimitSet]) -> None:
    """Write a limit set of the policy into a message."""
    limits = known[name]
    message.name = name
    message.requests_per_second = SECOND_NS / limits.request_interval_ns
    message.request_burst = limits.request_burst
    message.cost_per_second = SECOND_NS / limits.cost_interval_ns
    message.cost_burst = limits.cost_burst
    message.in_flight = limits.in_flight_max
    message.queries_per_day = limits.queries_per_day or 0


def add_asked(reply: admin_pb2.ShowTenantResponse, desk: Desk, tenant: str, entries_max: int) -> None:
    """Count what the newest entries of the log say of a tenant."""
    try:
        reader = desk.public_log().reader()
    except ReadError:  # the host has just started, and nothing is public yet
        return
    size = reader.checkpoint.size
    count = min(entries_max, ENTRIES_MAX, size)
    timeline = Timeline(Scope(tenants=frozenset({tenant})))
    newest: list[int] = []
    first = numbered(split_origin(reader.checkpoint.origin)[1], size - count)
    for index, entry in enumerate(reader.entries(size - count, count), first):
        if tenant.encode() in entry:
            timeline.add(index, entry)
    for (_, model, version), affected in sorted(timeline.affected.items()):
        reply.asked.append(asked_message(model, version, affected))
        newest += affected.newest
    reply.newest.extend(sorted(newest, reverse=True)[:NEWEST_MAX])
    reply.first_entry, reply.entries = first, count


def asked_message(model: str, version: str, affected: Affected) -> admin_pb2.Asked:
    """Return what was asked of one version of a model."""
    return admin_pb2.Asked(
        model=model,
        version=version,
        outcomes=affected.outcomes,
        reasons=affected.reasons,
        rows=affected.rows,
        verdicts={" ".join(which): count for which, count in affected.verdicts.items()},
        steps=affected.steps,
        evidence_milli=affected.evidence_milli,
        first_index=affected.first_index,
        last_index=affected.last_index,
    )

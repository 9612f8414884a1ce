"""`stockade incident recover`: says what takes a gateway back, and with --apply does it, each act on the record.

Order: the suspects are kept out, their labels are thrown away, then the policy and the models go back, in the file, for
whoever signs it. What is done is in the log before, under the name of the incident. Where a step fails, those behind it
are not done, and can be asked for again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.markup import escape

from gateway.config.place import place_of
from gateway.policy.file import former_policies
from gateway.tools.incident.labels import reject_labels, suspect_labels
from gateway.tools.incident.recover import Step, model_steps, policy_of_before, restored, suspect_steps
from gateway.tools.incident.view import render_steps
from gateway.tools.operations.tenants import asked
from gateway.tools.operator import OperatorFailed
from gateway.tools.registry.registry import open_registry, parse_version, rewrite, write_policy
from gateway.tools.terminal import EX_NO, err, fail, print_json, terminal
from ops.incidents.timeline import PRINCIPAL
from stockade.v1 import admin_pb2

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.policy.policy import Policy
    from gateway.tools.incident.read import Story
    from gateway.tools.registry.registry import Registry


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done. `policy` is the text that goes into the file, and what it says; `hint` cannot be done yet."""

    suspects: list[Step]
    labels: list[int]
    models: list[Step]
    policy: tuple[str, Policy, Step] | None
    hint: Step | None

    def steps(self) -> list[Step]:
        """Return all of it, in order."""
        labels = [self.label_step()] if self.labels else []
        policy = [self.policy[2]] if self.policy is not None else []
        return [*self.suspects, *labels, *policy, *self.models]

    def label_step(self) -> Step:
        """Return what becomes of labels."""
        return Step("feedback", f"{len(self.labels)} labels", "theirs, or for what is suspected; not learned yet")


def run_recover(story: Story, options: argparse.Namespace) -> int:
    """Propose, or do."""
    registry = open_registry(options.file)
    plan = plan_of(story, registry, options)
    if not options.json:
        render_steps(plan.steps(), terminal)
        if plan.hint is not None:
            err.print(f"the policy was another one: {plan.hint.about}, {escape(plan.hint.why)}")
    code = apply(plan, registry, options) if options.apply else 0
    if options.json:
        hint = asdict(plan.hint) if plan.hint is not None else None
        found = {"steps": [asdict(step) for step in plan.steps()], "policy_before": hint}
        print_json({**found, "applied": options.apply and code == 0})
    return code


def plan_of(story: Story, registry: Registry, options: argparse.Namespace) -> Plan:
    """Return what is to be done. Raises RegistryRefused, FileRejected, OSError."""
    for wanted in options.rollback:
        name, _ = parse_version(wanted)
        registry.model(name)
    policy = restored(story, registry, options.policy) if options.policy is not None else None
    suspects, labels = asked_of_gateway(story, options)
    return Plan(
        suspects=[] if options.no_isolate else suspects,
        labels=labels,
        models=list(model_steps(story, registry, options.rollback)),
        policy=policy,
        hint=policy_of_before(story, registry, former(registry)) if policy is None else None,
    )


def former(registry: Registry) -> dict[str, Path]:
    """Return the earlier policies that the host has kept; none where they cannot be read, as by another user."""
    try:
        return former_policies(place_of(registry.config).policies)
    except OSError:
        return {}


def asked_of_gateway(story: Story, options: argparse.Namespace) -> tuple[list[Step], list[int]]:
    """Return whom to keep out, and which labels to throw away; all suspects and no labels where nobody can be asked."""
    try:
        people = known_principals(story, options)
        suspects = list(suspect_steps(story, kept_out(people, options)))
        names = {(tenant, name) for tenant, name, pseudonym in people if suspected(story, tenant, pseudonym)}
        return suspects, suspect_labels(story, names, options)
    except OperatorFailed as problem:
        if options.apply:
            raise
        err.print(f"[yellow]warning:[/yellow] the gateway cannot be asked: {escape(str(problem))}")
        return list(suspect_steps(story, ())), []


def suspected(story: Story, tenant: str, pseudonym: str) -> bool:
    """Say whether a principal itself is a suspect."""
    assert story.incident is not None, "recovering is about an incident"
    return f"{PRINCIPAL}{tenant}/{pseudonym}" in story.incident.suspects


def known_principals(story: Story, options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Return the principals of the tenants that suspects belong to: tenant, name, pseudonym. Raises OperatorFailed."""
    assert story.incident is not None, "recovering is about an incident"
    tenants = {one.removeprefix(PRINCIPAL).rpartition("/")[0] for one in story.incident.suspects if PRINCIPAL in one}
    found = []
    for tenant in sorted(tenants):
        request = admin_pb2.ShowTenantRequest(tenant=tenant, entries_max=1)
        shown = asked("ShowTenant", request, admin_pb2.ShowTenantResponse, options)
        found += [(tenant, each.name, each.pseudonym) for each in shown.principals]
    return found


def kept_out(people: Sequence[tuple[str, str, str]], options: argparse.Namespace) -> set[tuple[str, str]]:
    """Return who is kept out already, by tenant and pseudonym, which is empty for a whole tenant."""
    listed = asked("ListTenants", admin_pb2.ListTenantsRequest(), admin_pb2.ListTenantsResponse, options)
    out_now = {(one.tenant, one.principal) for one in listed.isolations}
    whole = {(tenant, "") for tenant, principal in out_now if not principal}
    return whole | {(tenant, pseudonym) for tenant, name, pseudonym in people if (tenant, name) in out_now}


def apply(plan: Plan, registry: Registry, options: argparse.Namespace) -> int:
    """Do it, step by step. Raises what a step raises."""
    for step in plan.suspects:
        tenant, _, pseudonym = step.about.partition("/")
        request = admin_pb2.IsolateRequest(
            subjects=[admin_pb2.Subject(tenant=tenant, pseudonym=pseudonym)],
            reason=f"recovering from {options.incident}: {step.why}",
            incident=options.incident,
        )
        reply = asked("Isolate", request, admin_pb2.IsolateResponse, options)
        if not reply.accepted:
            return fail(reply.problem, EX_NO)
    if plan.labels:
        note(plan.label_step(), {}, options)
        reject_labels(plan.labels, options)
    if plan.policy is not None:
        text, policy, step = plan.policy
        note(step, {"revision": str(policy.revision), "digest": policy.digest}, options)
        write_policy(registry, text, options.key)
    for step in plan.models:
        note(step, {}, options)
        name, number = parse_version(step.about)
        rewrite(registry, name, number, None, options.key)
    if (plan.policy is not None or plan.models) and not options.json:
        if options.key is None:
            terminal.print(f"next: stockade policy sign {options.file}", soft_wrap=True)
        terminal.print(f"next: stockade policy reload {options.file}", soft_wrap=True)
    return 0


def note(step: Step, detail: dict[str, str], options: argparse.Namespace) -> None:
    """Have it on the record that this is done now. Raises OperatorFailed."""
    request = admin_pb2.NoteIncidentRequest(
        action="noted",
        incident=options.incident,
        reason=f"recovering: {step.act} to {step.about}: {step.why}",
        detail={"act": step.act, "about": step.about, **detail},
    )
    asked("NoteIncident", request, admin_pb2.NoteIncidentResponse, options)

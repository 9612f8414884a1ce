"""What `stockade tenants list|show|isolate|release|forgive` does: calls over the admin port, and tables.

Exit codes: 0 done; 1 the answer is no; 2 it cannot be asked.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.json_format import MessageToDict

from gateway.tools.operations.tenants_view import render_isolations, render_shown, render_tenants
from gateway.tools.operator import OperatorFailed, ask
from gateway.tools.terminal import EX_NO, err, fail, print_json, terminal
from stockade.v1 import admin_pb2

if TYPE_CHECKING:
    import argparse

    from google.protobuf.message import Message

M = TypeVar("M", bound="Message")


def run_verb(name: str, options: argparse.Namespace) -> int:
    """Run a verb; what is wrong is said in a sentence."""
    try:
        return VERBS[name](options)
    except OperatorFailed as problem:
        return fail(problem)


def asked(method: str, request: Message, reply: type[M], options: argparse.Namespace, *, service: str = "Admin") -> M:
    """Ask the gateway. Raises OperatorFailed."""
    body = ask(
        method,
        request.SerializeToString(),
        options.file,
        identity=options.identity,
        authority=options.ca,
        service=service,
    )
    return reply.FromString(body)


def as_dict(message: Message) -> dict[str, Any]:
    """Return a message for machines: its own field names, defaults included."""
    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found


def print_message(message: Message) -> None:
    """Print a message as JSON."""
    print_json(as_dict(message))


def run_list(options: argparse.Namespace) -> int:
    reply = asked("ListTenants", admin_pb2.ListTenantsRequest(), admin_pb2.ListTenantsResponse, options)
    if options.json:
        print_message(reply)
    else:
        render_tenants(reply, terminal)
    return 0


def run_show(options: argparse.Namespace) -> int:
    request = admin_pb2.ShowTenantRequest(tenant=options.tenant, entries_max=options.entries)
    reply = asked("ShowTenant", request, admin_pb2.ShowTenantResponse, options)
    if options.json:
        print_message(reply)
    else:
        render_shown(reply, terminal)
    return 0


def run_isolate(options: argparse.Namespace) -> int:
    until_ns = 0
    if options.lasting is not None or options.until is not None:
        now_ns = time.time_ns()
        until_ns = options.until.of(now_ns) if options.until is not None else now_ns + options.lasting
    request = admin_pb2.IsolateRequest(
        subjects=subjects(options), reason=options.reason, until_unix_ns=until_ns, incident=options.incident
    )
    if not request.subjects:
        return fail("say whom: --tenant NAME or --principal NAME")
    reply = asked("Isolate", request, admin_pb2.IsolateResponse, options)
    if options.json:
        print_message(reply)
    elif reply.accepted:
        render_isolations(reply.isolations, terminal)
    return told(reply, options)


def run_release(options: argparse.Namespace) -> int:
    meant = [(subject.tenant, subject.principal) for subject in subjects(options)]
    if bool(meant) == bool(options.ids):
        return fail("say whom: --tenant NAME, --principal NAME, or --id ID")
    ids = options.ids
    if meant:
        listed = asked("ListTenants", admin_pb2.ListTenantsRequest(), admin_pb2.ListTenantsResponse, options)
        ids = [one.id for one in listed.isolations if (one.tenant if not one.principal else "", one.principal) in meant]
        if len(ids) < len(set(meant)):
            return fail("not all of them are kept out; see `stockade tenants list`", EX_NO)
    request = admin_pb2.LiftIsolationRequest(ids=ids, reason=options.reason, incident=options.incident)
    reply = asked("LiftIsolation", request, admin_pb2.LiftIsolationResponse, options)
    if options.json:
        print_message(reply)
    elif reply.accepted:
        terminal.print(f"let in again: {len(ids)}")
    return told(reply, options)


def run_forgive(options: argparse.Namespace) -> int:
    request = admin_pb2.ForgiveAccountsRequest(
        subjects=subjects(options), reason=options.reason, incident=options.incident
    )
    if not request.subjects:
        return fail("say whom: --tenant NAME or --principal NAME")
    reply = asked("ForgiveAccounts", request, admin_pb2.ForgiveAccountsResponse, options)
    if options.json:
        print_message(reply)
    else:
        terminal.print(f"forgiven: {reply.principals} principals")
    return 0


def subjects(options: argparse.Namespace) -> list[admin_pb2.Subject]:
    """Return who was named."""
    called = getattr(options, "pseudonym", [])
    return [
        *(admin_pb2.Subject(tenant=name) for name in options.tenant),
        *(admin_pb2.Subject(principal=name) for name in options.principal),
        *(admin_pb2.Subject(tenant=tenant, pseudonym=pseudonym) for tenant, pseudonym in called),
    ]


def told(reply: admin_pb2.IsolateResponse | admin_pb2.LiftIsolationResponse, options: argparse.Namespace) -> int:
    """Say what came of it where it is not what was asked for."""
    if not reply.accepted:
        return fail(reply.problem, EX_NO)
    if reply.workers_behind and not options.json:
        numbers = ", ".join(map(str, reply.workers_behind))
        err.print(f"[yellow]warning:[/yellow] not yet followed by worker {numbers}; look at its log, or end it")
    return EX_NO if reply.workers_behind else 0


VERBS = {"list": run_list, "show": run_show, "isolate": run_isolate, "release": run_release, "forgive": run_forgive}

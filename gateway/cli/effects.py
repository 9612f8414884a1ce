"""What is irregular about an operation of `gateway.cli.operations`: what completes its request, what is done with its
answer, when the answer is no. Light, as the table is: what a function needs is imported when it runs.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import typer

EX_NO, EX_UNUSABLE = 1, 2
WHOM = "say whom: --tenant NAME or --principal NAME"


class Stopped(Exception):
    """It goes no further. The message is for the person at the terminal."""

    def __init__(self, text: object, code: int = EX_UNUSABLE) -> None:
        super().__init__(str(text))
        self.code = code


# What completes a request: the message, what was asked.


def name_subjects(request: Any, options: SimpleNamespace) -> None:
    """Put in who was named."""
    add_subjects(request.subjects, options)
    if not request.subjects:
        raise Stopped(WHOM)


def add_subjects(subjects: Any, options: SimpleNamespace) -> None:
    """Add whole tenants, principals by name, and principals as the log calls them."""
    for name in options.tenant:
        subjects.add(tenant=name)
    for name in options.principal:
        subjects.add(principal=name)
    for tenant, pseudonym in options.pseudonym:
        subjects.add(tenant=tenant, pseudonym=pseudonym)


def isolate(request: Any, options: SimpleNamespace) -> None:
    """Put in who, and until when."""
    if options.until is not None and options.lasting is not None:
        raise typer.BadParameter("--for is not allowed with --until")
    name_subjects(request, options)
    now_ns = time.time_ns()
    if options.until is not None:
        request.until_unix_ns = options.until.of(now_ns)
    elif options.lasting is not None:
        request.until_unix_ns = now_ns + options.lasting


def lift(request: Any, options: SimpleNamespace) -> None:
    """Find the isolations of those who were named."""
    from gateway.tools.operator import asked
    from stockade.v1 import admin_pb2

    meant = {(tenant, "") for tenant in options.tenant} | {("", name) for name in options.principal}
    if bool(meant) == bool(options.ids):
        raise Stopped("say whom: --tenant NAME, --principal NAME, or --id ID")
    if not meant:
        return
    listed = asked("ListTenants", admin_pb2.ListTenantsRequest(), admin_pb2.ListTenantsResponse, options)
    ids = [one.id for one in listed.isolations if ("" if one.principal else one.tenant, one.principal) in meant]
    if len(ids) < len(meant):
        raise Stopped("not all of them are kept out; see `stockade tenants list`", EX_NO)
    options.ids = ids
    request.ids.extend(ids)


def open_incident(request: Any, options: SimpleNamespace) -> None:
    """Put in the range of time, and who is suspected."""
    now_ns = time.time_ns()
    request.from_unix_ns = options.since.of(now_ns)
    if options.until is not None:
        request.until_unix_ns = options.until.of(now_ns)
    add_subjects(request.suspects, options)


def close_incident(request: Any, options: SimpleNamespace) -> None:
    """Look into the log first: a name that nobody opened is a slip of the pen."""
    from gateway.config.document import FileRejected
    from gateway.tools.incident.read import IncidentUnknown, log_of_host
    from ops.audit.errors import AuditError, ProofError

    try:
        log_of_host(options.file).incident(request.incident)
    except ProofError as problem:
        raise Stopped(f"TAMPERED: {problem}", EX_NO) from problem
    except IncidentUnknown as problem:
        raise Stopped(problem, EX_NO) from problem
    except (AuditError, FileRejected) as problem:
        raise Stopped(problem) from problem


def any_state(request: Any, options: SimpleNamespace) -> None:
    """Leave the state out where all are wanted."""
    request.state = "" if options.state == "all" else options.state


def name_payload(request: Any, options: SimpleNamespace) -> None:
    """Count the entry over all epochs. The reading is recorded, so look first whether it can be kept."""
    from ops.audit.log.epochs import numbered

    if options.out.exists():
        raise Stopped(f"{options.out} is there already; name another file")
    if options.epoch is not None:
        request.entry = numbered(options.epoch, options.entry)


# What is done with an answer before it is shown.


def keep_request(reply: Any, options: SimpleNamespace) -> None:
    """Write what was sent to a file, if somebody wants it."""
    if options.payload is not None and reply.request:
        _write_new(options.payload, reply.request)
    reply.request = b""


def keep_payload(reply: Any, options: SimpleNamespace) -> None:
    """Write a payload to its file."""
    options.size = len(reply.payload)
    if not reply.problem:
        _write_new(options.out, reply.payload)
    reply.payload = b""


def _write_new(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def demand_label(reply: Any, options: SimpleNamespace) -> None:
    """Stop where there is no such label."""
    if not reply.items:
        raise Stopped(f"there is no label {options.id}; see `stockade feedback list`", EX_NO)


# Whether the answer is no: the exit code.


def accepted(reply: Any, options: SimpleNamespace) -> int:
    """Stop where the gateway has refused."""
    if not getattr(reply, "accepted", True):
        raise Stopped(reply.problem, EX_NO)
    return 0


def decided(reply: Any, options: SimpleNamespace) -> int:
    """Stop where the gateway has refused, which leaves all as it was."""
    if not reply.accepted:
        raise Stopped(f"{reply.problem}; nothing was changed", EX_NO)
    return 0


def followed(reply: Any, options: SimpleNamespace) -> int:
    """Say also which workers have not followed yet."""
    from gateway.tools.terminal import err

    accepted(reply, options)
    if reply.workers_behind and not options.json:
        numbers = ", ".join(map(str, reply.workers_behind))
        err.print(f"[yellow]warning:[/yellow] not yet followed by worker {numbers}; look at its log, or end it")
    return EX_NO if reply.workers_behind else 0


def reloaded(reply: Any, options: SimpleNamespace) -> int:
    """Say what stays in force."""
    from gateway.tools.terminal import err

    if not reply.accepted and not options.json:
        err.print(f"refused, {reply.digest} stays in force:\n{reply.problem}", markup=False)
    return 0 if reply.accepted else EX_NO


def request_kept(reply: Any, options: SimpleNamespace) -> int:
    """Stop where it was wanted, and was not kept."""
    from gateway.tools.terminal import terminal

    if options.payload is not None and reply.problem:
        raise Stopped(reply.problem, EX_NO)
    if options.payload is not None and not options.json:
        terminal.print(f"written: {options.payload}", markup=False, soft_wrap=True)
    return 0


def payload_kept(reply: Any, options: SimpleNamespace) -> int:
    """Stop where there is nothing to read; machines see why."""
    if reply.problem and not options.json:
        raise Stopped(reply.problem, EX_NO)
    return EX_NO if reply.problem else 0


def all_changed(reply: Any, options: SimpleNamespace) -> int:
    """Answer no where some could not be decided on."""
    return 0 if reply.changed == len(set(options.ids)) else EX_NO

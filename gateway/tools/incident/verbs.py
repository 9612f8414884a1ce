"""What `stockade incident open|list|timeline|recover|close` does.

Exit codes: 0 done; 1 the answer is no, or the log is not the one that is signed; 2 something cannot be used.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from gateway.config.document import FileRejected
from gateway.config.load import load_config
from gateway.tools.audit.verify import bar, find, read_key
from gateway.tools.incident.read import IncidentUnknown, Log, Story
from gateway.tools.incident.recovery import run_recover
from gateway.tools.incident.view import as_json, render_incidents, render_story
from gateway.tools.operations.tenants import asked, print_message
from gateway.tools.operator import OperatorFailed
from gateway.tools.registry.registry import RegistryRefused
from gateway.tools.terminal import EX_NO, EX_UNUSABLE, fail, print_json, terminal
from ops.audit.errors import AuditError, ProofError
from ops.audit.log.checkpoint import parse_vkey
from ops.incidents.report import markdown
from ops.incidents.timeline import FOR_EVER_NS, Scope
from serving.errors import ServingError
from stockade.v1 import admin_pb2

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator


def run_verb(name: str, options: argparse.Namespace) -> int:
    """Run a verb; what is wrong is said in a sentence."""
    try:
        return VERBS[name](options)
    except ProofError as problem:
        return fail(f"TAMPERED: {problem}", EX_NO)
    except (IncidentUnknown, RegistryRefused) as problem:
        return fail(problem, EX_NO)
    except (OperatorFailed, AuditError, FileRejected, ServingError, OSError) as problem:
        return fail(problem)


def run_open(options: argparse.Namespace) -> int:
    now_ns = time.time_ns()
    request = admin_pb2.NoteIncidentRequest(
        action="opened",
        reason=options.reason,
        from_unix_ns=options.since.of(now_ns),
        until_unix_ns=options.until.of(now_ns) if options.until is not None else 0,
        suspects=[
            *(admin_pb2.Subject(tenant=name) for name in options.tenant),
            *(admin_pb2.Subject(principal=name) for name in options.principal),
            *(admin_pb2.Subject(tenant=tenant, pseudonym=pseudonym) for tenant, pseudonym in options.pseudonym),
        ],
        models=options.model,
    )
    reply = asked("NoteIncident", request, admin_pb2.NoteIncidentResponse, options)
    if options.json:
        print_message(reply)
    else:
        name = escape(reply.incident)
        terminal.print(f"opened {name}\nnext: stockade incident timeline LOG --incident {name}", soft_wrap=True)
    return 0


def run_close(options: argparse.Namespace) -> int:
    request = admin_pb2.NoteIncidentRequest(action="closed", incident=options.incident, reason=options.reason)
    log_of_host(options).incident(options.incident)  # a name that nobody opened is a slip of the pen
    reply = asked("NoteIncident", request, admin_pb2.NoteIncidentResponse, options)
    if options.json:
        print_message(reply)
    else:
        terminal.print(f"closed {escape(reply.incident)}")
    return 0


def run_list(options: argparse.Namespace) -> int:
    with reading(options) as log:
        register = log.incidents()
    if options.json:
        print_json([asdict(one) for one in register.incidents.values()])
    else:
        render_incidents(register, terminal)
    return 0


def run_timeline(options: argparse.Namespace) -> int:
    if bool(options.incident) == (options.since is not None):
        return fail("name an incident with --incident, or a range of time with --from", EX_UNUSABLE)
    with reading(options) as log:
        story = log.story_of(options.incident) if options.incident else log.story(scope_of(options))
    if options.out is not None:
        options.out.write_text(markdown(story.timeline, story.head, story.incident), encoding="utf-8")
    if options.json:
        print_json(as_json(story))
    elif options.out is None:
        render_story(story, terminal)
    else:
        terminal.print(f"written: {escape(str(options.out))}", soft_wrap=True)
    return 0


def scope_of(options: argparse.Namespace) -> Scope:
    """Return the range and the suspects that were named."""
    now_ns = time.time_ns()
    return Scope(
        options.since.of(now_ns),
        options.until.of(now_ns) if options.until is not None else FOR_EVER_NS,
        tenants=frozenset(options.tenant),
        principals=frozenset(pseudonym for _, pseudonym in options.pseudonym),
        models=frozenset(options.model),
    )


@contextmanager
def reading(options: argparse.Namespace) -> Iterator[Log]:
    """Give the log that was named, with a progress bar while it is read. Raises AuditError, OSError."""
    directory, keys = find(options.log, [options.vkey] if options.vkey else [])
    if not keys:
        raise IncidentUnknown("say which key the log has: --vkey FILE")
    with bar(Console(stderr=True), "reading") as advance:
        yield Log(directory, parse_vkey(read_key(keys[0])), advance)


def log_of_host(options: argparse.Namespace) -> Log:
    """Return the log of a host, by its configuration."""
    audit = load_config(options.file).audit
    return Log(audit.directory, parse_vkey(audit.vkey.read_text().strip()))


def run_recovery(options: argparse.Namespace) -> int:
    story: Story = log_of_host(options).story_of(options.incident)
    return run_recover(story, options)


VERBS: dict[str, Callable[[Any], int]] = {
    "open": run_open,
    "list": run_list,
    "timeline": run_timeline,
    "recover": run_recovery,
    "close": run_close,
}

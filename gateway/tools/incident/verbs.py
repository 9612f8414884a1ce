"""What `stockade incident list|timeline|recover` does.

Exit codes: 0 done; 1 the answer is no, or the log is not the one that is signed; 2 something cannot be used.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict
from types import SimpleNamespace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from gateway.config.document import FileRejected
from gateway.tools.audit.verify import bar, find, read_key
from gateway.tools.incident.read import IncidentUnknown, Log, Story, log_of_host
from gateway.tools.incident.recovery import run_recover
from gateway.tools.incident.view import as_json, render_incidents, render_story
from gateway.tools.operator import OperatorFailed
from gateway.tools.registry.registry import RegistryRefused
from gateway.tools.terminal import EX_NO, EX_UNUSABLE, fail, print_json, terminal
from ops.audit.errors import AuditError, ProofError
from ops.audit.log.checkpoint import parse_vkey
from ops.incidents.report import markdown
from ops.incidents.timeline import FOR_EVER_NS, Scope
from serving.errors import ServingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def guarded(run: Callable[[SimpleNamespace], int]) -> Callable[[SimpleNamespace], int]:
    """Say in a sentence what is wrong."""

    def call(options: SimpleNamespace) -> int:
        try:
            return run(options)
        except ProofError as problem:
            return fail(f"TAMPERED: {problem}", EX_NO)
        except (IncidentUnknown, RegistryRefused) as problem:
            return fail(problem, EX_NO)
        except (OperatorFailed, AuditError, FileRejected, ServingError, OSError) as problem:
            return fail(problem)

    return call


@guarded
def run_list(options: SimpleNamespace) -> int:
    with reading(options) as log:
        register = log.incidents()
    if options.json:
        print_json([asdict(one) for one in register.incidents.values()])
    else:
        render_incidents(register, terminal)
    return 0


@guarded
def run_timeline(options: SimpleNamespace) -> int:
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


def scope_of(options: SimpleNamespace) -> Scope:
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
def reading(options: SimpleNamespace) -> Iterator[Log]:
    """Give the log that was named, with a progress bar while it is read. Raises AuditError, OSError."""
    directory, keys = find(options.log, [options.vkey] if options.vkey else [])
    if not keys:
        raise IncidentUnknown("say which key the log has: --vkey FILE")
    with bar(Console(stderr=True), "reading") as advance:
        yield Log(directory, parse_vkey(read_key(keys[0])), advance)


@guarded
def run_recovery(options: SimpleNamespace) -> int:
    story: Story = log_of_host(options.file).story_of(options.incident)
    return run_recover(story, options)

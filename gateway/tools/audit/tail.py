"""`stockade audit tail` for people: the newest entries of a log, a line each, and those that come."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from gateway.tools.audit.verify import fail, find, read_key
from gateway.tools.terminal import out
from ops.audit.errors import AuditError, ProofError
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.log.epochs import home_of
from ops.audit.reader.scan import Follower
from ops.audit.verify.report import OK, TAMPERED

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from gateway.tools.log_arguments import Match

LOOK_EVERY_S = 1.0
COLOURS = {"served": "green", "refused": "yellow", "failed": "red", "outcome-unknown": "red"}


def run(options: argparse.Namespace) -> int:
    """Print until there is nothing more, or with --follow until the process is told to end."""
    directory, keys = find(options.log, [options.vkey] if options.vkey else [])
    if not keys:
        return fail("say which key the log has: --vkey FILE")
    try:
        follower = Follower(home_of(directory), parse_vkey(read_key(keys[0])), last=options.lines)
        tell(follower.new(), options)
        while options.follow:
            time.sleep(LOOK_EVERY_S)
            tell(follower.new(), options)
    except ProofError as problem:
        return fail(f"TAMPERED: {problem}", TAMPERED)
    except (AuditError, OSError) as problem:
        return fail(str(problem))
    except KeyboardInterrupt:
        return OK
    return OK


def tell(entries: Iterable[tuple[int, int, bytes]], options: argparse.Namespace) -> None:
    """Print the entries that match."""
    for epoch, index, data in entries:
        entry = json.loads(data)
        if not all(matches(entry, wanted) for wanted in options.where):
            continue
        if options.json:
            sys.stdout.write(json.dumps({"epoch": epoch, "index": index, "entry": entry}) + "\n")
        else:
            out.print(line_of(index, entry))
    sys.stdout.flush()


def matches(entry: dict[str, Any], wanted: Match) -> bool:
    """Say whether the value at a path is the wanted one, as text."""
    path, value = wanted
    found: Any = entry
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found is not None and str(found) == value


def line_of(index: int, entry: dict[str, Any]) -> str:
    """Return what a person reads of an entry: number, time, kind, and what matters for that kind."""
    at = datetime.fromtimestamp(int(entry["time_ns"]) / 1e9, UTC).isoformat(" ", "milliseconds")[5:23]
    kind = str(entry["kind"])
    colour = COLOURS.get(kind, "cyan")
    return f"{index:>9,}  {at}Z  [{colour}]{kind:<10}[/]  {escape('  '.join(facts(entry)))}"


def facts(entry: dict[str, Any]) -> list[str]:
    """Return why, for whom, and about which model or file; not what goes without saying of an answer."""
    auth, model = entry.get("auth", {}), entry.get("model", {})
    reason, method = entry.get("reason"), str(entry.get("method", "")).rpartition("/")[2]
    told = [str(reason or entry.get("outcome") or entry.get("action") or "")] if reason != "OK" else []
    if "reasons" in entry:
        told.append(", ".join(f"{count} x {reason}" for reason, count in entry["reasons"].items()))
    if isinstance(model, dict) and model:
        told.append(f"{model['name']}/{model['version']}")
    elif "name" in entry:
        told.append(f"{entry['name']}/{entry.get('version', '')}")
    if auth:
        told.append(f"{auth['tenant']} ({auth['credential']})")
    if method != "ModelInfer":
        told.append(method)
    told += [f"{each['name']}: {each['verdict']}" for each in entry.get("screens", []) if each["verdict"] != "pass"]
    return [each for each in told if each]

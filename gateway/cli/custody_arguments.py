"""The arguments of `stockade audit erase`, `hold` and `payload`.

Importing this loads neither gRPC nor the files' parsers: `stockade --help` stays fast.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gateway.cli.verbs import named, reaching, reason, verb
from gateway.tools.arguments import whole
from gateway.tools.log_arguments import which_epoch

COUNT_MAX = 1_000
INDEX_MAX = 2**63 - 2
CODES = "Exit codes: 0 done; 1 the answer is no; 2 it cannot be asked."
HERE = "gateway.tools.operations.custody"


def add_verbs(audit: Any) -> None:
    """Add the verbs to `stockade audit`."""
    add_erase(group(audit, "erase", "destroy the keys of a subject's payloads; it takes two administrators"))
    add_hold(group(audit, "hold", "legal holds: what may not be erased"))
    payload = verb(audit, "payload", named(HERE, "payload"), "open a payload that was kept; who reads it is recorded")
    payload.epilog = CODES.replace("cannot be asked", "cannot be asked, or written") + " 4: wrong usage."
    reaching(payload)
    payload.add_argument("entry", type=whole(0, INDEX_MAX), metavar="INDEX", help="its entry's number in the log")
    which_epoch(payload, "INDEX counts over all")
    payload.add_argument("--field", choices=("request", "response"), default="request", help="default: request")
    payload.add_argument("--out", type=Path, required=True, metavar="FILE", help="where it goes; made, mode 0600")
    reason(payload)


def group(verbs: Any, name: str, text: str) -> Any:
    """Add a verb that has verbs of its own, which end with 2 when they are used wrongly."""
    added = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    return added.add_subparsers(metavar="VERB", required=True, parser_class=argparse.ArgumentParser)


def add_erase(erase: Any) -> None:
    request = verb(erase, "request", named(HERE, "request"), "ask that a subject's keys be destroyed")
    approve = verb(erase, "approve", named(HERE, "approve"), "agree to what another asked for: the keys are destroyed")
    listed = verb(erase, "list", named(HERE, "list"), "show what was asked for and what was destroyed")
    show = verb(erase, "show", named(HERE, "show"), "show one, with the references of its keys")
    for each in (request, approve, listed, show):
        reaching(each)
        each.epilog = CODES
    request.add_argument("--tenant", required=True, metavar="NAME")
    request.add_argument("--subject", required=True, metavar="NAME", help="the principal whose payloads they are")
    request.add_argument(
        "--month", action="append", default=[], metavar="YYYY-MM", help="only of this month; repeat it (default: all)"
    )
    reason(request)
    listed.add_argument("-n", "--count", type=whole(1, COUNT_MAX), default=50, metavar="N", help="default: 50")
    for each in (approve, show):
        each.add_argument("id", metavar="ID", help="as `list` shows it")


def add_hold(hold: Any) -> None:
    setting = verb(hold, "set", named(HERE, "set"), "let nothing of a subject, or of a tenant, be erased")
    release = verb(hold, "release", named(HERE, "release"), "lift a hold")
    listed = verb(hold, "list", named(HERE, "holds"), "show the holds in force")
    for each in (setting, release, listed):
        reaching(each)
        each.epilog = CODES
    setting.add_argument("--tenant", required=True, metavar="NAME")
    setting.add_argument("--subject", default="", metavar="NAME", help="default: the whole tenant")
    setting.add_argument("--matter", required=True, metavar="TEXT", help="what for; it stands in the audit log")
    release.add_argument("id", metavar="ID", help="as `list` shows it")
    reason(release)

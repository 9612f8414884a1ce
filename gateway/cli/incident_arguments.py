"""The arguments of `stockade incident`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.verbs import named, reaching, reason, verb
from gateway.tools.log_arguments import log_and_key
from gateway.tools.tenant_arguments import ago, called

if TYPE_CHECKING:
    import argparse


def add_verbs(incident: Any) -> None:
    """Add the verbs to `stockade incident`."""
    here = "gateway.tools.incident.verbs"
    opening = verb(incident, "open", named(here, "open"), "name an incident: who and what is suspected, and since when")
    listed = verb(incident, "list", named(here, "list"), "show the incidents that the log knows")
    timeline = verb(incident, "timeline", named(here, "timeline"), "show what happened, from the verified log")
    recover = verb(incident, "recover", named(here, "recover"), "say, or do, what takes things back to before it")
    closing = verb(incident, "close", named(here, "close"), "say that it is over")
    timeline.epilog = "Exit codes: 0 done; 1 the log is not the one that is signed; 2 it cannot be read."
    for each in (opening, recover, closing):
        reaching(each)
    for each in (recover, closing):
        each.add_argument("incident", metavar="ID")
    for each in (opening, closing):
        reason(each)
    suspects(opening, required=True)
    for each in (listed, timeline):
        log_and_key(each)
        each.add_argument("--json", action="store_true", help="print JSON")
    timeline.add_argument("--incident", default="", metavar="ID", help="the range and the suspects it was opened with")
    suspects(timeline, required=False)
    timeline.add_argument("--out", type=Path, metavar="FILE", help="write it as Markdown, for the post-mortem")
    add_recover(recover)


def suspects(verb: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the range of time, and who and what is suspected."""
    when = "2027-11-24T08:00:00Z, or how long ago: 2h"
    verb.add_argument("--from", dest="since", type=ago, required=required, metavar="WHEN", help=when)
    verb.add_argument("--until", type=ago, metavar="WHEN", help="default: it is going on")
    verb.add_argument("--tenant", action="append", default=[], metavar="NAME")
    if required:  # who asks the gateway may use names; the log knows pseudonyms only
        verb.add_argument("--principal", action="append", default=[], metavar="NAME")
    verb.add_argument("--pseudonym", action="append", default=[], type=called, metavar="TENANT/HEX")
    verb.add_argument("--model", action="append", default=[], metavar="NAME[/VERSION]")


def add_recover(recover: argparse.ArgumentParser) -> None:
    """Add what can be taken back."""
    recover.add_argument("--apply", action="store_true", help="do it (default: only say what would be done)")
    recover.add_argument("--rollback", action="append", default=[], metavar="NAME/VERSION", help="serve this again")
    recover.add_argument(
        "--policy", type=Path, metavar="FILE", help="an earlier policy.yaml: its content, under the next revision"
    )
    recover.add_argument(
        "--key", type=Path, metavar="FILE", help="sign the policy with this key (default: sign it yourself)"
    )
    recover.add_argument("--no-isolate", action="store_true", help="leave the suspects alone")

"""`stockade incident`: what is read from the verified log, and the way back. `open` and `close` ask a gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from gateway.cli.arguments import (
    Ca,
    Caller,
    File,
    Identity,
    Json,
    Log,
    LogKey,
    Moment,
    ago,
    argument,
    caller,
    group,
    option,
    tool,
)
from gateway.cli.operations import WHEN, SuspectModel, SuspectTenant, Until, add_to

app = group("what happened, who was affected, and the way back")
HERE = "gateway.tools.incident.verbs"


add_to(app, "incident")


@tool(app, "list", f"{HERE}:run_list")
def show(log: Log, vkey: LogKey = None, json: Json = False) -> None:
    """Show the incidents that the log knows."""


@tool(
    app,
    "timeline",
    f"{HERE}:run_timeline",
    epilog="Exit codes: 0 done; 1 the log is not the one that is signed; 2 it cannot be read.",
)
def timeline(
    log: Log,
    vkey: LogKey = None,
    json: Json = False,
    incident: Annotated[
        str, option("--incident", metavar="ID", help="the range and the suspects it was opened with")
    ] = "",
    since: Annotated[Moment | None, option("--from", read=ago, metavar="WHEN", help=WHEN)] = None,
    until: Until = None,
    tenant: SuspectTenant = [],
    pseudonym: Annotated[list[Caller], option("--pseudonym", read=caller, metavar="TENANT/HEX")] = [],
    model: SuspectModel = [],
    out: Annotated[
        Path | None, option("--out", metavar="FILE", help="write it as Markdown, for the post-mortem")
    ] = None,
) -> None:
    """Show what happened, from the verified log."""


@tool(app, "recover", f"{HERE}:run_recovery")
def recover(
    file: File,
    incident: Annotated[str, argument("ID")],
    identity: Identity = None,
    ca: Ca = None,
    json: Json = False,
    apply: Annotated[bool, option("--apply", help="do it (default: only say what would be done)")] = False,
    rollback: Annotated[list[str], option("--rollback", metavar="NAME/VERSION", help="serve this again")] = [],
    policy: Annotated[
        Path | None,
        option("--policy", metavar="FILE", help="an earlier policy.yaml: its content, under the next revision"),
    ] = None,
    key: Annotated[
        Path | None, option("--key", metavar="FILE", help="sign the policy with this key (default: sign it yourself)")
    ] = None,
    no_isolate: Annotated[bool, option("--no-isolate", help="leave the suspects alone")] = False,
) -> None:
    """Say, or do, what takes things back to before it."""

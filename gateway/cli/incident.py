"""`stockade incident`: what is read from the verified log, and the way back. `open` and `close` ask a gateway."""

from __future__ import annotations

from pathlib import Path

from gateway.cli.arguments import (
    CA,
    FILE,
    IDENTITY,
    JSON,
    LOG,
    LOG_KEY,
    Caller,
    Moment,
    ago,
    argument,
    caller,
    group,
    option,
    tool,
)
from gateway.cli.operations import SUSPECT_MODEL, SUSPECT_TENANT, UNTIL, WHEN, add_to

app = group("what happened, who was affected, and the way back")
HERE = "gateway.tools.incident.verbs"


add_to(app, "incident")


@tool(app, "list", f"{HERE}:run_list")
def show(log: Path = LOG, vkey: str | None = LOG_KEY, json: bool = JSON) -> None:
    """Show the incidents that the log knows."""


@tool(
    app,
    "timeline",
    f"{HERE}:run_timeline",
    epilog="Exit codes: 0 done; 1 the log is not the one that is signed; 2 it cannot be read.",
)
def timeline(
    log: Path = LOG,
    vkey: str | None = LOG_KEY,
    json: bool = JSON,
    incident: str = option("--incident ID", "the range and the suspects it was opened with", ""),
    since: Moment | None = option("--from WHEN", WHEN, None, ago),
    until: Moment | None = UNTIL,
    tenant: list[str] = SUSPECT_TENANT,
    pseudonym: list[Caller] = option("--pseudonym TENANT/HEX", "", [], caller),
    model: list[str] = SUSPECT_MODEL,
    out: Path | None = option("--out FILE", "write it as Markdown, for the post-mortem", None),
) -> None:
    """Show what happened, from the verified log."""


@tool(app, "recover", f"{HERE}:run_recovery")
def recover(
    file: Path = FILE,
    incident: str = argument("ID"),
    identity: Path | None = IDENTITY,
    ca: Path | None = CA,
    json: bool = JSON,
    apply: bool = option("--apply", "do it (default: only say what would be done)", False),
    rollback: list[str] = option("--rollback NAME/VERSION", "serve this again", []),
    policy: Path | None = option("--policy FILE", "an earlier policy.yaml: its content, under the next revision", None),
    key: Path | None = option("--key FILE", "sign the policy with this key (default: sign it yourself)", None),
    no_isolate: bool = option("--no-isolate", "leave the suspects alone", False),
) -> None:
    """Say, or do, what takes things back to before it."""

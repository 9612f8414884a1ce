"""`stockade keys`: keys are made, written to new files with mode 0600, and never printed."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.cli.arguments import FILE, argument, command, group, option, tool, whole

app = group("API keys, and the keys of approvers, logs and witnesses")
KEY_DAYS_MAX = 3650
JSON = option("--json", "print what was made as JSON, never the key itself", False)


@tool(app, "approver", "gateway.tools.registry.verbs:run_key")
def approver(
    name: str = argument("NAME", "the approver's name in the policy"),
    out: Path = option("--out FILE", "file for the private key, created with mode 0600"),
    json: bool = JSON,
) -> None:
    """Make an approver's key; prints what to put into the policy."""


@command(app, "add")
def add(
    file: Path = FILE,
    id: str = argument("ID", "the key's public half, such as kiosk-7-b"),
    out: Path = option("--out FILE", "file for the key, created with mode 0600"),
    days: int = option("--days N", "how long it is good for (default: 365)", 365, whole(1, KEY_DAYS_MAX)),
    json: bool = JSON,
) -> int:
    """Make an API key; prints what to put into the policy, writes the key to a file."""
    from rich.markup import escape

    from gateway.config.document import FileRejected, unusable
    from gateway.tools.init.keys import add_key
    from gateway.tools.terminal import err, fail, print_json
    from gateway.tools.terminal import out as console

    try:
        added = add_key(file, id, out, datetime.now(UTC) + timedelta(days=days), os.urandom)
    except FileExistsError as problem:
        return fail(unusable(problem, "name a new file with --out"))
    except (FileRejected, OSError, ValueError) as problem:
        return fail(problem)
    if added.unchecked:
        err.print(f"[yellow]warning:[/yellow] whether the id is new was not seen: {escape(added.unchecked)}")
    if json:
        print_json(added.as_json())
    else:
        err.print(f"the key is in {added.file}; put this under `api_keys` of its principal, raise `revision`, sign:")
        console.print(added.entry, markup=False)
    return 0


@command(app, "log")
def log(
    origin: str = argument("ORIGIN", "the log's name, such as example.org/gateway-1; never used twice"),
    out: Path = option("--out FILE", "file for the key, mode 0600; a .vkey is put beside it"),
    json: bool = JSON,
) -> int:
    """Make the key of a new audit log; prints its public half."""
    from gateway.config.document import unusable
    from gateway.tools.init.log_key import SEED_BYTES, make_log_key
    from gateway.tools.terminal import fail, print_json
    from gateway.tools.terminal import out as console

    try:
        vkey = make_log_key(origin, os.urandom(SEED_BYTES), out)
    except FileExistsError as problem:
        return fail(unusable(problem, "name a new file with --out: the key of a log is never replaced"))
    except (OSError, ValueError) as problem:
        return fail(problem)
    if json:
        print_json({"origin": origin, "file": str(out), "vkey": vkey})
    else:
        console.print(vkey, markup=False)
    return 0


@tool(app, "witness", "gateway.tools.audit.witness:make_key")
def witness(
    name: str = argument("NAME", "the witness's name, such as example.org/witness"),
    out: Path = option("--out FILE", "file for the key, mode 0600; a .vkey is put beside it"),
    ed25519: bool = option("--ed25519", "not ML-DSA-44, for logs whose verifiers know no other", False),
    json: bool = JSON,
) -> None:
    """Make a witness's key; prints its public half."""

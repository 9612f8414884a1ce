"""`stockade policy` and `stockade keys`: what is signed, and what signs."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from gateway.cli.verbs import group, verb
from gateway.tools.arguments import whole
from gateway.tools.terminal import EX_NO, err, fail, out, print_json

if TYPE_CHECKING:
    import argparse

KEY_DAYS_MAX = 3650


def add_policy(verbs: Any) -> None:
    policy = group(verbs, "policy", "sign and reload the policy")
    sign = verb(policy, "sign", run_policy_sign, "sign policy.yaml after a change")
    sign.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    sign.add_argument("--key", type=Path, help="private key (default: policy.key beside the configured public key)")
    reload = verb(
        policy, "reload", run_policy_reload, "ask a running gateway, over its admin port, to take the policy over"
    )
    reload.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    reload.add_argument(
        "--identity", type=Path, metavar="PREFIX", help="PREFIX.crt and PREFIX.key (default: clients/operator.tls)"
    )
    reload.add_argument(
        "--ca", type=Path, metavar="FILE", help="who signed the server's certificate, PEM (default: tls.client_ca)"
    )
    for each in (sign, reload):
        each.add_argument("--json", action="store_true", help="print what came of it as JSON")


def run_policy_sign(options: argparse.Namespace) -> int:
    from gateway.config.document import FileRejected
    from gateway.config.load import load_config
    from gateway.policy.load import sign_checked

    try:
        source = load_config(options.file).policy
        policy = sign_checked(source.file, options.key or source.public_key.with_suffix(".key"), source.public_key)
    except (FileRejected, OSError) as problem:
        return fail(problem)
    if options.json:
        print_json({"file": str(source.file), "revision": policy.revision, "digest": policy.digest})
    else:
        out.print(f"signed {source.file.name}: revision {policy.revision}, digest {policy.digest}")
    return 0


def run_policy_reload(options: argparse.Namespace) -> int:
    from gateway.tools.operator import OperatorFailed, reload_policy

    try:
        reply = reload_policy(options.file, options.identity, options.ca)
    except OperatorFailed as problem:
        return fail(problem)
    if options.json:
        names = ("accepted", "digest", "previous_digest", "problem")
        print_json({name: getattr(reply, name) for name in names})
    elif reply.accepted:
        out.print(f"in force: {reply.digest} (was {reply.previous_digest})")
    else:
        err.print(f"refused, {reply.digest} stays in force:\n{escape(reply.problem)}")
    return 0 if reply.accepted else EX_NO


def add_keys(verbs: Any) -> None:
    from gateway.cli import registry_arguments, witness_arguments

    keys = group(verbs, "keys", "API keys, and the keys of approvers, logs and witnesses")
    registry_arguments.add_key_verb(keys)
    add = verb(
        keys, "add", run_keys_add, "make an API key; prints what to put into the policy, writes the key to a file"
    )
    add.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    add.add_argument("id", metavar="ID", help="the key's public half, such as kiosk-7-b")
    add.add_argument("--out", type=Path, required=True, help="file for the key, created with mode 0600")
    add.add_argument(
        "--days", type=whole(1, KEY_DAYS_MAX), default=365, metavar="N", help="how long it is good for (default: 365)"
    )
    log = verb(keys, "log", run_keys_log, "make the key of a new audit log; prints its public half")
    log.add_argument("origin", metavar="ORIGIN", help="the log's name, such as example.org/gateway-1; never used twice")
    log.add_argument("--out", type=Path, required=True, help="file for the key, mode 0600; a .vkey is put beside it")
    for each in (add, log, witness_arguments.add_key_verb(keys)):
        each.add_argument("--json", action="store_true", help="print what was made as JSON, never the key itself")


def run_keys_add(options: argparse.Namespace) -> int:
    from gateway.config.document import FileRejected, unusable
    from gateway.tools.init.keys import add_key

    expires = datetime.now(UTC) + timedelta(days=options.days)
    try:
        added = add_key(options.file, options.id, options.out, expires, os.urandom)
    except FileExistsError as problem:
        return fail(unusable(problem, "name a new file with --out"))
    except (FileRejected, OSError, ValueError) as problem:
        return fail(problem)
    if added.unchecked:
        err.print(f"[yellow]warning:[/yellow] whether the id is new was not seen: {escape(added.unchecked)}")
    if options.json:
        print_json(added.as_json())
    else:
        err.print(f"the key is in {added.file}; put this under `api_keys` of its principal, raise `revision`, sign:")
        out.print(added.entry, markup=False)
    return 0


def run_keys_log(options: argparse.Namespace) -> int:
    from gateway.config.document import unusable
    from gateway.tools.init.log_key import SEED_BYTES, make_log_key

    try:
        vkey = make_log_key(options.origin, os.urandom(SEED_BYTES), options.out)
    except FileExistsError as problem:
        return fail(unusable(problem, "name a new file with --out: the key of a log is never replaced"))
    except (OSError, ValueError) as problem:
        return fail(problem)
    if options.json:
        print_json({"origin": options.origin, "file": str(options.out), "vkey": vkey})
    else:
        out.print(vkey, markup=False)
    return 0

"""`stockade audit prove|cosign|witness` and `stockade keys witness`: receipts, and who else vouches for a log."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from gateway.config.document import unusable
from gateway.tools.audit.verify import chosen_epoch, fail, find, read_key
from gateway.tools.init.log_key import SEED_BYTES, write_pair
from gateway.tools.terminal import out, print_json, terminal
from ops.audit.errors import AuditError, VerifierKeyError, WitnessAhead
from ops.audit.log.checkpoint import open_checkpoint, parse_vkey
from ops.audit.log.cosignature import COSIGN_ED25519, COSIGN_ML_DSA_44, Cosigner, parse_cosigner_secret
from ops.audit.log.epochs import newest_epoch, parted
from ops.audit.log.trust_policy import read_trust_policy
from ops.audit.reader.read import LogReader
from ops.audit.verify.report import INCOMPLETE, OK, TAMPERED
from ops.audit.witnesses.client import cosign_newest
from ops.audit.witnesses.witness import Witness, WitnessPage, WitnessStore
from ops.process.durable import replace_file

if TYPE_CHECKING:
    import argparse

    from ops.audit.log.trust_policy import TrustPolicy
    from ops.audit.witnesses.client import Asked

PORT_MAX = 65_535


def prove(options: argparse.Namespace) -> int:
    """Write the receipt of one entry."""
    directory, keys = find(options.log, [options.vkey] if options.vkey else [])
    if not keys:
        return fail("say which key the log has: --vkey FILE")
    file = options.out or Path(f"{options.index}.tlog-proof")
    number, index = options.epoch, options.index
    if number is None and parted(index)[0] > 1:  # as incidents and the admin port count: over all epochs
        number, index = parted(index)
    try:
        epoch = chosen_epoch(directory, parse_vkey(read_key(keys[0])), number)
        note = (options.checkpoint or epoch.directory / "checkpoint").read_bytes()
        reader = LogReader(epoch.directory, open_checkpoint(note, [epoch.vkey]))
        if index >= reader.checkpoint.size:
            return fail(f"the checkpoint has {reader.checkpoint.size:,} entries, so no entry {index}", INCOMPLETE)
        replace_file(file, reader.receipt(index, note).text())
    except (AuditError, OSError) as problem:
        return fail(problem)
    if options.json:
        print_json({"file": str(file), "origin": reader.checkpoint.origin, "index": index})
    else:
        out.print(f"entry {index} of {escape(reader.checkpoint.origin)}: its receipt is in {escape(str(file))}")
    return OK


def cosign(options: argparse.Namespace) -> int:
    """Ask every witness of the policy, and keep the checkpoint with what they gave."""
    directory, _ = find(options.log, [])
    try:
        policy = read_trust_policy(options.policy)
        place = newest_epoch(directory, policy.logs[0].key).directory if policy.logs else directory
        checkpoint, asked = cosign_newest(place, policy, options.out, timeout_s=options.timeout)
    except (AuditError, OSError) as problem:
        return fail(problem)
    report(policy, asked, checkpoint.size, options)
    if any(isinstance(failure, WitnessAhead) for failure in asked.failures.values()):
        return TAMPERED
    return OK if policy.enough(asked.lines) else INCOMPLETE


def report(policy: TrustPolicy, asked: Asked, size: int, options: argparse.Namespace) -> None:
    """Say who has cosigned, who has not and why, and whether that is enough."""
    enough = policy.enough(asked.lines)
    failures = {name: str(failure) for name, failure in asked.failures.items()}
    if options.json:
        print_json({"size": size, "quorum": enough, "cosigned": list(asked.lines), "failures": failures})
        return
    table = Table("witness", "cosigned")
    for name in policy.witnesses:
        table.add_row(escape(name), "yes" if name in asked.lines else "[red]no[/]")
    terminal.print(table)
    for name in policy.witnesses:
        if name not in asked.lines:
            out.print(escape(failures.get(name, f"witness {name}: the policy has no URL for it")))
    file = escape(str(options.out))
    if enough:
        out.print(f"size {size:,} is cosigned by the quorum {escape(policy.quorum)}; it is in {file}")
    else:
        out.print(
            f"[red]size {size:,} is not cosigned by the quorum {escape(policy.quorum)}[/]; {file} stays as it was"
        )


def witness(options: argparse.Namespace) -> int:
    """Serve as a witness until the process is told to end."""
    host, _, port = options.listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > PORT_MAX:
        return fail(f"--listen is HOST:PORT, not {options.listen!r}")
    try:
        cosigners = [parse_cosigner_secret(path.read_text().strip()) for path in options.key]
        logs = [log.key for log in read_trust_policy(options.policy).logs]
        if not logs:
            return fail(f"{options.policy} has no `log` line: there is nothing to watch")
        store = WitnessStore(options.store)
        page = WitnessPage(
            host.strip("[]"), int(port), Witness(cosigners, logs, store, clock_s=lambda: int(time.time()))
        )
    except (AuditError, OSError, UnicodeDecodeError, sqlite3.Error) as problem:
        return fail(problem)
    with page:
        for key in cosigners:
            out.print(f"witness {key.key}")
        out.print(f"watching {len(logs)} {'log' if len(logs) == 1 else 'logs'} on http://{host}:{page.port}")
        try:
            page.serve_forever()
        except KeyboardInterrupt:
            out.print("ended")
    return OK


def make_key(options: argparse.Namespace) -> int:
    """Make a witness's key."""
    kind = COSIGN_ED25519 if options.ed25519 else COSIGN_ML_DSA_44
    try:
        made = Cosigner(options.name, kind, os.urandom(SEED_BYTES))
        write_pair(options.out, made.secret(), str(made.key))
    except FileExistsError as problem:
        return fail(unusable(problem, "name a new file with --out: the key of a witness is never replaced"), 2)
    except (OSError, VerifierKeyError) as problem:
        return fail(str(problem), 2)
    if options.json:
        print_json({"name": options.name, "file": str(options.out), "vkey": str(made.key)})
    else:
        sys.stdout.write(f"{made.key}\n")
    return OK

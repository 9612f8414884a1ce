"""`stockade audit epochs` and `stockade audit retain`: what there is of a log, and what is old enough to be dropped.

`retain` is for a timer, on the gateway's host while it runs, as a user who may write the log. An epoch is dropped when
it has its age and nothing keeps it: a hold on a tenant that it has entries of, a replica that does not have all of it,
a quorum that has not cosigned its last checkpoint. Where the log is replicated it may go from here after `hot_months`,
else after `kept_months`. Nothing is removed from an object store: that is for the store's own rules.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.cli.verify import fail, find, read_key
from gateway.config.config import load_config
from gateway.config.document import FileRejected
from gateway.host.cosigning import kept_cosigned
from gateway.host.place import place_of
from gateway.host.replication import open_replicator
from ops.audit.checkpoint import open_checkpoint, parse_vkey
from ops.audit.client import AuditClient, Receipt
from ops.audit.entry import VERSION, canonical
from ops.audit.erasure import Erasures
from ops.audit.errors import AuditError, NoteError, ReadError
from ops.audit.retention import drop, is_due, survey, tenants_in
from ops.audit.schemas import EPOCH_DROPPED
from ops.audit.trust_policy import read_trust_policy
from ops.audit.verify_report import INCOMPLETE, OK

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from gateway.config.config import Config
    from ops.audit.retention import Kept

ID_BYTES = 16
BACKLOG_BYTES = 1 << 20


def run_list(options: argparse.Namespace) -> int:
    """Show the epochs of a log; returns the exit code."""
    directory, keys = find(options.log, [options.vkey] if options.vkey else [])
    if not keys:
        return fail("say which key the log has: --vkey FILE")
    try:
        found = survey(directory, parse_vkey(read_key(keys[0])))
    except (AuditError, OSError) as problem:
        return fail(str(problem))
    if options.json:
        sys.stdout.write(json.dumps([facts(each) for each in found], indent=2) + "\n")
        return OK
    table = Table("epoch", "records", "from", "to", "root", "", "where", box=None)
    for each in found:
        said = facts(each)
        table.add_row(
            str(said["epoch"]),
            f"{each.size:,}",
            said["from"],
            said["to"],
            said["root"][:16],
            said["state"],
            said["place"],
        )
    Console().print(table)
    return OK


def facts(kept: Kept) -> dict[str, Any]:
    """Return what there is to say of an epoch."""
    return {
        "epoch": kept.epoch.number,
        "origin": kept.epoch.vkey.name,
        "size": kept.size,
        "root": kept.root.hex(),
        "from": at(kept.first_ns),
        "to": at(kept.last_ns),
        "state": "dropped" if kept.dropped else "closed" if kept.closed else "open",
        "place": str(kept.epoch.directory),
    }


def at(time_ns: int) -> str:
    """Return a time as people read it; nothing where it is not known."""
    return f"{datetime.fromtimestamp(time_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S}Z" if time_ns else ""


def run_retain(options: argparse.Namespace) -> int:
    """Drop what is due, oldest first, until something keeps an epoch; returns the exit code."""
    try:
        config = load_config(options.file)
        wanted = config.audit.epochs
        if wanted is None:
            return fail(f"{options.file}: `audit.epochs` says nothing of how long epochs are kept")
        months = wanted.kept_months if config.audit.replication is None else wanted.hot_months
        keeps = keepers(config)
        for kept in survey(config.audit.directory, parse_vkey(config.audit.vkey.read_text().strip())):
            if kept.dropped:
                drop(kept)  # what an interrupted run has left
                continue
            if not is_due(kept, time.time_ns(), months):
                break
            if why := next(filter(None, (reason(kept) for reason in keeps)), ""):
                return fail(f"{kept.epoch.vkey.name} is kept, and all after it: {why}", INCOMPLETE)
            if not options.dry_run:
                asyncio.run(record(kept, config))
                drop(kept)
            tell(kept, options)
    except (AuditError, FileRejected, OSError) as problem:
        return fail(str(problem))
    return OK


def tell(kept: Kept, options: argparse.Namespace) -> None:
    """Say what was dropped."""
    if options.json:
        sys.stdout.write(json.dumps({**facts(kept), "state": "due" if options.dry_run else "dropped"}) + "\n")
    else:
        word = "due" if options.dry_run else "dropped"
        Console(soft_wrap=True, highlight=False).print(
            f"{word}: {kept.size:,} records of {escape(kept.epoch.vkey.name)}"
        )


def keepers(config: Config) -> list[Callable[[Kept], str]]:
    """Return what may keep an epoch: each says why, or nothing."""
    return [
        lambda kept: held(kept, config),
        lambda kept: uncopied(kept, config),
        lambda kept: unwitnessed(kept, config),
    ]


def held(kept: Kept, config: Config) -> str:
    """Say which hold keeps an epoch."""
    erasures = Erasures(config.audit.key_database)
    try:
        matters = {hold.tenant: hold.matter for hold in erasures.holds()}
    finally:
        erasures.close()
    found = sorted(tenants_in(kept, matters))
    return f"a hold on {found[0]} ({matters[found[0]]})" if found else ""


def uncopied(kept: Kept, config: Config) -> str:
    """Say that the replica does not have all of an epoch. Its checkpoint stands there once all else was read back."""
    replicator = open_replicator(config)
    if replicator is None:
        return ""
    note = replicator.store_of(kept.epoch.number).get("checkpoint")
    return "" if note == note_of(kept) else "the object store does not have its last checkpoint"


def unwitnessed(kept: Kept, config: Config) -> str:
    """Say that the quorum has not cosigned the last checkpoint of an epoch."""
    if config.audit.witnesses is None:
        return ""
    try:
        note = kept_cosigned(place_of(config).cosigned, kept.epoch.number).read_bytes()
        seen = read_trust_policy(config.audit.witnesses.policy).open(note).checkpoint
    except (OSError, NoteError):
        return "the quorum has not cosigned its last checkpoint"
    return (
        ""
        if seen == open_checkpoint(note_of(kept), [kept.epoch.vkey])
        else "the quorum has cosigned another checkpoint"
    )


def note_of(kept: Kept) -> bytes:
    """Return the last checkpoint of an epoch."""
    return (kept.epoch.directory / "checkpoint").read_bytes()


async def record(kept: Kept, config: Config) -> None:
    """Have it in the log that an epoch is dropped. Raises AuditUnavailable, ReadError: it is not."""
    detail = {"epoch": str(kept.epoch.number), "origin": kept.epoch.vkey.name, "size": str(kept.size)}
    entry = {
        "action": EPOCH_DROPPED,
        "administrator": "stockade audit retain",
        "build": version("stockade"),
        "detail": {**detail, "root": kept.root.hex()},
        "id": os.urandom(ID_BYTES).hex(),
        "kind": "admin",
        "outcome": "done",
        "time_ns": str(time.time_ns()),
        "v": VERSION,
    }
    client = AuditClient(
        place_of(config).socket, backlog_bytes_max=BACKLOG_BYTES, append_timeout_ms=config.audit.append_timeout_ms
    )
    await client.connect()
    try:
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        client.append([canonical(entry)], answered.set_result)
        answer = await answered
        if not isinstance(answer, Receipt):
            raise answer
        if answer.epoch <= kept.epoch.number:
            raise ReadError(f"the recorder is at {answer.origin}, which is no later epoch")
    finally:
        await client.close()

"""`stockade audit epochs` and `stockade audit retain`: what there is of a log, and what is old enough to be dropped.

`retain` is for a timer, on the gateway's host while it runs, as a user who may write the log. An epoch is dropped when
it has its age and nothing keeps it: a hold on a tenant that it has entries of, a replica that does not have all of it,
a quorum that has not cosigned its last checkpoint. Where the log is replicated it may go from here after `hot_months`,
else after `kept_months`. Nothing is removed from an object store: that is for the store's own rules. What it came to
stands on the gateway's page of metrics.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from gateway.config.document import FileRejected
from gateway.config.load import load_config
from gateway.config.place import place_of
from gateway.control.cosigning import kept_cosigned
from gateway.host.replication import open_replicator
from gateway.tools.audit.verify import fail, find, read_key
from gateway.tools.terminal import out, terminal
from ops.audit.errors import AuditError, NoteError, ReadError
from ops.audit.log.checkpoint import VerifierKey, open_checkpoint, parse_vkey
from ops.audit.log.entry import VERSION, canonical
from ops.audit.log.epochs import origin_of, split_origin
from ops.audit.log.schemas import EPOCH_DROPPED
from ops.audit.log.trust_policy import read_trust_policy
from ops.audit.payloads.erasure import Erasures
from ops.audit.payloads.erasure_log import follow
from ops.audit.reader.read import open_following
from ops.audit.store.client import AuditClient, Receipt
from ops.audit.store.retention import drop, is_due, survey, sweep, tenants_in
from ops.audit.verify.report import INCOMPLETE, OK
from ops.metrics import MetricsInUse, RetentionMetrics

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from gateway.config.config import Config
    from ops.audit.payloads.erasure_rows import Hold
    from ops.audit.store.retention import Kept

ID_BYTES = 16
BACKLOG_BYTES = 1 << 20
COLUMNS = {"epoch": "epoch", "size": "records", "from": "from", "to": "to", "state": "state"}
"""What a terminal of 80 columns has room for; `--json` says all."""


def run_list(options: argparse.Namespace) -> int:
    """Show the epochs of a log; returns the exit code."""
    directory, keys = find(options.log, [options.vkey] if options.vkey else [])
    if not keys:
        return fail("say which key the log has: --vkey FILE")
    try:
        epochs = survey(directory, parse_vkey(read_key(keys[0])))
        config = None if options.config is None else load_config(options.config)
        found = [facts(each) | ({} if config is None else custody(each, config)) for each in epochs]
    except (AuditError, FileRejected, OSError) as problem:
        return fail(str(problem))
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        show(found)
    return OK


def show(found: Sequence[dict[str, Any]]) -> None:
    """Print a line for each epoch."""
    more = {"entries": "entries", "holds": "holds"} if any("holds" in each for each in found) else {}
    columns = COLUMNS | more
    table = Table(*columns.values(), box=None)
    for each in found:
        said = each | {"size": f"{each['size']:,}", "holds": ", ".join(each.get("holds", ()))}
        table.add_row(*(escape(str(said[name])) for name in columns))
    terminal.print(table)


def facts(kept: Kept) -> dict[str, Any]:
    """Return what there is to say of an epoch; of the open one also the key that the next one will have."""
    log, number = split_origin(kept.epoch.vkey.name)
    following = VerifierKey(origin_of(log, number + 1), kept.epoch.vkey.public_key)
    return {
        "epoch": kept.epoch.number,
        "origin": kept.epoch.vkey.name,
        "vkey": str(kept.epoch.vkey),
        **({} if kept.closed else {"next_vkey": str(following)}),
        "size": kept.size,
        "root": kept.root.hex(),
        "from": at(kept.first_ns),
        "to": at(kept.last_ns),
        "state": "dropped" if kept.dropped else "closed" if kept.closed else "open",
        "place": str(kept.epoch.directory),
    }


def custody(kept: Kept, config: Config) -> dict[str, Any]:
    """Return where the entries of an epoch are (hot: here, cold: in the replica alone), and which holds keep them."""
    if not kept.dropped:
        return {"entries": "hot", "holds": [named(hold) for hold in holds_on(kept, config)]}
    copied = config.audit.replication is not None and not uncopied(kept, config)
    return {"entries": "cold" if copied else "gone", "holds": []}


def at(time_ns: int) -> str:
    """Return a time as people read it; nothing where it is not known."""
    return f"{datetime.fromtimestamp(time_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S}Z" if time_ns else ""


@dataclass(frozen=True, slots=True)
class Stopped:
    """What keeps the oldest of these epochs, which are due: by a hold, the replica or the quorum, and why."""

    epochs: Sequence[Kept]
    by: str
    why: str


def run_retain(options: argparse.Namespace) -> int:
    """Drop what is due, oldest first, until something keeps an epoch; returns the exit code."""
    try:
        config = load_config(options.file)
        if config.audit.epochs is None:
            return fail(f"{options.file}: `audit.epochs` says nothing of how long epochs are kept")
        if options.dry_run:
            stopped = drop_due(config, options)
        else:
            with closing(RetentionMetrics(place_of(config).metrics)) as metrics:
                stopped = drop_due(config, options)
                metrics.looked({} if stopped is None else {stopped.by: len(stopped.epochs)}, time.time())
    except MetricsInUse:
        return fail("another `stockade audit retain` runs")
    except (AuditError, FileRejected, OSError) as problem:
        return fail(str(problem))
    if stopped is not None:
        return fail(f"{stopped.epochs[0].epoch.vkey.name} is kept, and all after it: {stopped.why}", INCOMPLETE)
    return OK


def drop_due(config: Config, options: argparse.Namespace) -> Stopped | None:
    """Drop the epochs that are due, oldest first, and tell; returns what it stopped at. With --dry-run only tell."""
    vkey = parse_vkey(config.audit.vkey.read_text().strip())
    epochs = survey(config.audit.directory, vkey)
    due = due_of(epochs, config)
    if due:
        take_holds_from_log(config, vkey)
    if not options.dry_run:
        for kept in epochs:
            if kept.dropped:
                sweep(kept)  # what an interrupted run has left
    for at_hand, kept in enumerate(due):
        for by, reason in KEEPERS.items():
            if why := reason(kept, config):
                return Stopped(due[at_hand:], by, why)
        if holds := holds_on(kept, config, then=None if options.dry_run else partial(drop_on_record, config)):
            return Stopped(due[at_hand:], "hold", ", ".join(f"a hold on {named(hold)}" for hold in holds))
        if not options.dry_run:
            sweep(kept)
        tell(kept, options)
    return None


def due_of(epochs: Sequence[Kept], config: Config) -> list[Kept]:
    """Return the epochs that are old enough to be dropped, oldest first."""
    wanted = config.audit.epochs
    assert wanted is not None, "it was looked at"
    months = wanted.kept_months if config.audit.replication is None else wanted.hot_months
    now_ns = time.time_ns()
    return list(takewhile(lambda each: is_due(each, now_ns, months), (each for each in epochs if not each.dropped)))


def tell(kept: Kept, options: argparse.Namespace) -> None:
    """Say what was dropped."""
    if options.json:
        sys.stdout.write(json.dumps({**facts(kept), "state": "due" if options.dry_run else "dropped"}) + "\n")
    else:
        word = "due" if options.dry_run else "dropped"
        out.print(f"{word}: {kept.size:,} records of {escape(kept.epoch.vkey.name)}")


def take_holds_from_log(config: Config, vkey: VerifierKey) -> None:
    """Let the log's holds take force in the key database, which may be older."""
    with closing(Erasures(config.audit.key_database)) as erasures:
        while follow(erasures, partial(open_following, config.audit.directory, vkey)).more:
            pass


def holds_on(kept: Kept, config: Config, *, then: Callable[[Kept], None] | None = None) -> list[Hold]:
    """Return the holds on tenants that an epoch has entries of, also those placed while it was searched.

    Where there are none, `then` is done with it before another can be placed: it must be quick.
    """
    found, searched = set[str](), set[str]()
    with closing(Erasures(config.audit.key_database)) as erasures:
        while True:
            with erasures.standing() as holds:
                fresh = {hold.tenant for hold in holds} - searched
                keeping = [hold for hold in holds if hold.tenant in found]
                if then is not None and not fresh and not keeping:
                    then(kept)
            if not fresh:
                return keeping
            found |= tenants_in(kept, fresh)
            searched |= fresh


def drop_on_record(config: Config, kept: Kept) -> None:
    """Have the log say that an epoch is dropped, then drop it."""
    asyncio.run(record(kept, config))
    drop(kept)


def named(hold: Hold) -> str:
    """Return what a hold is called: on whom, and in which matter."""
    return f"{hold.tenant} ({hold.matter})"


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


KEEPERS = {"replica": uncopied, "quorum": unwitnessed}
"""What may keep an epoch that is due, beside holds: each says why, or nothing."""


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

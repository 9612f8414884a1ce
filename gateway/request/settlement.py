"""From outcomes to durable records to replies: the one exit of every batch.

Rules:
- One entry for each item, in the order of the items, appended in one call.
- A reply's future is settled only when the sink says that its entry is durable; without that it is AUDIT_UNAVAILABLE.
- A caller who hung up gets nothing, its record is written all the same.
- The sink takes an append as a whole or not at all. Where it says that an entry is not one, each is appended alone: one
  caller's record must not cost its neighbours their answers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gateway import errors
from gateway.request.state import Answer
from ops.audit.errors import AuditUnavailable, KeyStoreError
from ops.audit.store.client import Receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gateway.request.record import Record
    from gateway.request.state import Gateway, Item

APPEND_BYTES = 4 * 1024 * 1024  # of one append; the recorder takes more, but then a small record waits behind it


@dataclass(frozen=True, slots=True)
class Closed:
    """An item whose record is written: its entry, and the payloads that are kept beside it."""

    item: Item
    entry: bytes
    kept: list[bytes]


def settle(items: Sequence[Item], taken_ns: int, gw: Gateway) -> None:
    """Append the records of a batch. The replies leave from the event loop, when the records are durable.

    With large payloads beside them they go in several appends, so that one caller's do not stand in the way of others'.
    """
    appended_ns = gw.clock_ns()
    parts = list(portions(items, gw))
    for number, part in enumerate(parts, 1):
        append(part, taken_ns, appended_ns, number == len(parts), gw)


def append(part: Sequence[Closed], taken_ns: int, appended_ns: int, last: bool, gw: Gateway) -> None:
    """Append these entries, in one call."""
    entries = [closed.entry for closed in part]
    blobs = [blob for closed in part for blob in closed.kept]
    gw.sink.append(entries, partial(deliver, part, taken_ns, appended_ns, last, gw), blobs=blobs)


def portions(items: Sequence[Item], gw: Gateway) -> Iterator[list[Closed]]:
    """Close the records of a batch, and yield them in portions of about APPEND_BYTES."""
    part: list[Closed] = []
    size = 0
    for item in items:
        kept = close_record(item, gw)
        closed = Closed(item, item.record.leaf(gw.site), kept)
        more = len(closed.entry) + sum(map(len, kept))
        if part and size + more > APPEND_BYTES:
            yield part
            part, size = [], 0
        part.append(closed)
        size += more
    yield part


def close_record(item: Item, gw: Gateway) -> list[bytes]:
    """Write the outcome into the record; returns the payloads that are kept with it, sealed."""
    item.outcome = item.outcome or errors.ModelError()
    if isinstance(item.outcome, Answer):
        item.record.decision = item.outcome.decision
    else:
        refuse(item.record, item.outcome)
    if item.capture == "none":
        return []
    try:
        return gw.vault.keep(item)
    except KeyStoreError as problem:  # what must be kept and cannot is not answered; the others of the batch are
        gw.log("payload-not-kept", level="error", request_id=item.record.id, problem=str(problem))
        item.outcome = errors.AuditUnavailable()
        refuse(item.record, item.outcome)
        return []


def deliver(  # noqa: PLR0917  the first five are bound where it is made
    part: Sequence[Closed],
    taken_ns: int,
    appended_ns: int,
    last: bool,
    gw: Gateway,
    receipt: Receipt | AuditUnavailable,
) -> None:
    """Let the replies go, now that their records are durable, or say that there is no answer. On the event loop."""
    if len(part) > 1 and isinstance(receipt, AuditUnavailable) and receipt.invalid:
        for number, closed in enumerate(part, 1):
            append([closed], taken_ns, appended_ns, last and number == len(part), gw)
        return
    now_ns = gw.clock_ns()
    items = [closed.item for closed in part]
    served = items[0].rules.served
    durable = isinstance(receipt, Receipt)
    try:
        if durable:
            rows = sum([item.request.rows for item in items])
            served.service_time.observe(now_ns - taken_ns, rows, now_ns)
        served.counters.ended(items, taken_ns, now_ns)
        for offset, item in enumerate(items):
            item.record.stage("audit", now_ns - appended_ns)
            if gw.cache is not None and durable:
                gw.cache.learn(item, gw)
            if gw.answers is not None and durable:
                gw.answers.note(item)
            reply(item, receipt, gw, offset)
    finally:
        if last:
            if served.offload is not None:  # a batch that ran in a thread as a whole was done when the thread was
                served.batcher.freed()
            gw.comparer.answered(served)


def settle_alone(item: Item, gw: Gateway) -> None:
    """Append the record of an item that was answered without a batch; its reply leaves when that is durable."""
    appended_ns = gw.clock_ns()
    kept = close_record(item, gw)

    def done(receipt: Receipt | AuditUnavailable) -> None:
        now_ns = gw.clock_ns()
        item.record.stage("audit", now_ns - appended_ns)
        if isinstance(receipt, Receipt) and item.record.kind == "served":
            item.rules.served.counters.repeated(now_ns - item.queued_ns)
        reply(item, receipt, gw)

    gw.sink.append([item.record.leaf(gw.site)], done, blobs=kept)


def reply(item: Item, receipt: Receipt | AuditUnavailable, gw: Gateway, offset: int = 0) -> None:
    """Let one reply go, whose record is entry `offset` of those that the receipt is for, or is not durable."""
    settled(item.record, gw, receipt, offset)
    waiting = item.answer
    if waiting.done():
        return
    if item.record.audit_index is None:
        waiting.set_exception(errors.AuditUnavailable())
    elif isinstance(item.outcome, Answer):
        waiting.set_result(item.outcome)
    else:
        waiting.set_exception(item.outcome or errors.ModelError())


def settled(record: Record, gw: Gateway, receipt: Receipt | AuditUnavailable, offset: int = 0) -> None:
    """Note what the sink has said became of the record. On the event loop."""
    if isinstance(receipt, Receipt):
        record.durable(receipt, offset)
    record.settled = True
    if record.finished:
        if record.audit_index is None:  # whoever called has gone, and cannot be told that there is no record
            gw.tally.unrecorded()
        close(record, gw)


def close(record: Record, gw: Gateway) -> None:
    """Let go of a call that is over and recorded: it leaves the in-flight ring and is counted."""
    gw.ring.leave(record.ring_slot)
    gw.room.leave(record)
    gw.tally.ended(record)


def give_back(items: Sequence[Item], refusal: errors.Refusal, gw: Gateway) -> None:
    """Refuse items whose records were not written: their own calls write them. From any thread."""
    gw.loop.call_soon_threadsafe(_give_back, items, refusal, gw)


def _give_back(items: Sequence[Item], refusal: errors.Refusal, gw: Gateway) -> None:
    for item in items:
        item.record.payload_json = None  # what it names was not appended
        if item.record.finished:  # the caller hung up while it waited: its call is over and writes nothing any more
            refuse(item.record, errors.Cancelled())
            append_unwaited(item.record, gw)
            continue
        item.record.claimed = False
        if not item.answer.done():
            item.answer.set_exception(refusal)


def append_unwaited(record: Record, gw: Gateway) -> None:
    """Append the record of a call that is over: nobody waits for it."""
    record.claimed = True
    gw.sink.append([record.leaf(gw.site)], partial(settled, record, gw))


async def append_awaited(
    entries: Sequence[bytes], gw: Gateway, told: Callable[[Receipt | AuditUnavailable], None] = lambda _receipt: None
) -> None:
    """Append entries in one call; returns when they are durable. Raises errors.AuditUnavailable.

    `told` hears what became of them even if whoever waits here has gone by then.
    """
    durable: asyncio.Future[None] = gw.loop.create_future()

    def done(receipt: Receipt | AuditUnavailable) -> None:
        told(receipt)
        if durable.done():
            return
        if isinstance(receipt, Receipt):
            durable.set_result(None)
        else:
            durable.set_exception(errors.AuditUnavailable())

    gw.sink.append(entries, done)
    await durable


def refuse(record: Record, refusal: BaseException) -> None:
    """Write into the record that, and why, there is no answer."""
    row = errors.row_of(refusal)
    failed = row.reason in FAILURES
    record.end("failed" if failed else "refused", "error" if failed else "refuse", row.reason, row.code.value[0])


FAILURES = frozenset({"CANCELLED", "MODEL_ERROR", "BACKEND_UNAVAILABLE", "BACKEND_TIMED_OUT"})

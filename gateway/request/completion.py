"""How a request completes: its outcome, its durable record, then its reply; and where every call is over.

Rules:
- One entry for each item of a batch, in the order of the items, appended in one call. The sink takes an append as a
  whole or not at all. Where it says that an entry is not one, each is appended alone: one caller's record must not cost
  its neighbours their answers.
- A reply's future is settled only when the sink says that its entry is durable; without that it is AUDIT_UNAVAILABLE.
- A record is claimed before its leaf is handed over, so that no path writes it twice.
- What `finish` finds unclaimed never got an answer: the caller hung up (CANCELLED), or its body never was there
  (BODY_INCOMPLETE): larger than the transport takes, which gRPC refuses by itself, or cut off. It is recorded all the
  same, nobody waits for it.
- Some refusals of who is refused too often stand in a sum (`gateway.request.sums`), written once a second.
"""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

from gateway import errors
from gateway.auth.principal import PUBLIC
from gateway.request.item import Answer
from gateway.request.record import Phase, Record, quoted, refusal_sum
from gateway.request.sums import SINGLE_MAX
from ops.audit.errors import AuditUnavailable, KeyStoreError
from ops.audit.store.client import Receipt
from serving.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gateway.request.gateway import Gateway
    from gateway.request.item import Item
    from ops.process.logging import Log

APPEND_BYTES = 4 * 1024 * 1024  # of one append; the recorder takes more, but then a small record waits behind it
BODY_INCOMPLETE = "BODY_INCOMPLETE"
NO_NOTE = b"{}"
CANCELLED = 1  # the gRPC status
PATH_CHARACTERS_MAX = 512  # of a method that is not ours: what an entry of the log may hold
FAILURES = frozenset({"CANCELLED", "MODEL_ERROR", "BACKEND_UNAVAILABLE", "BACKEND_TIMED_OUT"})


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
                in_service = gw.served.get((served.bundle.name, served.bundle.version))
                gw.cache.learn(item, gw.active.digest, in_service, now_ns)
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
    record.phase = Phase.SETTLED
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
        item.record.phase = Phase.OPEN
        if not item.answer.done():
            item.answer.set_exception(refusal)


def append_unwaited(record: Record, gw: Gateway) -> None:
    """Append the record of a call that is over: nobody waits for it."""
    record.claim()
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


@cache
def note_of(method: str) -> bytes:
    """Return what the in-flight ring holds of a call of a known method: part of its `outcome-unknown` entry."""
    return f'{{"method":{quoted(method)}}}'.encode()


def open_record(path: str, right: str, gw: Gateway) -> Record:
    """Begin the record of a call, and leave word in the ring that it is being worked on."""
    named = path if right else path[:PATH_CHARACTERS_MAX]
    record = Record(gw.new_id(), named, right, gw.active.digest, gw.wall_ns(), gw.clock_ns())
    record.ring_slot = gw.ring.enter(record.id_bytes, note_of(path) if right else NO_NOTE)
    gw.tally.started(path)
    return record


def message_record(stream: Record, gw: Gateway) -> Record:
    """Begin the record of one message of a stream: the same caller, a request of its own."""
    record = Record(gw.new_id(), stream.method, stream.right, gw.active.digest, gw.wall_ns(), gw.clock_ns())
    record.ring_slot = gw.ring.enter(record.id_bytes, note_of(stream.method))
    record.principal, record.auth_json, record.names = stream.principal, stream.auth_json, stream.names
    record.peer, record.trace, record.in_stream, record.body_there = stream.peer, stream.trace, True, True
    record.parent, record.stream_id = stream.parent, stream.id_bytes
    record.deadline_ns = stream.deadline_ns
    return record


async def record_alone(record: Record, gw: Gateway) -> None:
    """Append a record that belongs to no batch; returns when it is durable, raises AuditUnavailable otherwise."""
    record.claim()
    await append_awaited([record.leaf(gw.site)], gw, partial(settled, record, gw))


async def record_refusal(record: Record, problem: Exception, gw: Gateway) -> Exception:
    """Record why there is no answer; returns what the caller is to be told."""
    if not isinstance(problem, errors.Refusal):
        log_failure(gw.log, record.id, problem)
    forget_frames(problem)
    if record.claimed:  # by a batch, or by an append that failed
        if record.audit_index is None:
            refuse(record, problem)
        return problem
    refuse(record, problem)
    if is_summed(record, gw):
        count_refusal(record, gw)
        return problem
    try:
        await record_alone(record, gw)
    except errors.AuditUnavailable as unavailable:
        refuse(record, unavailable)
        return unavailable
    return problem


def forget_frames(problem: BaseException) -> None:
    """Let go of what the frames of an exception hold, such as a refused message, before the record is awaited.

    Otherwise who sends what is refused could fill the memory with it: a parsed message is many times its bytes.
    """
    problem.__traceback__ = None
    problem.__context__ = None


def is_stranger(record: Record) -> bool:
    """Say whether nobody in particular is calling."""
    return record.principal is None or record.principal is PUBLIC


def is_summed(record: Record, gw: Gateway) -> bool:
    """Say whether this call, which is not answered, is one more in a sum. Asked once a call."""
    if is_stranger(record):
        return True
    paid = record.rate is not None and record.rate.admitted
    return record.kind == "refused" and not paid and gw.sums.seen(record.caller().name) > SINGLE_MAX


def count_refusal(record: Record, gw: Gateway) -> None:
    """Count a call in the sum of this second, instead of writing a record of its own."""
    auth = None if is_stranger(record) else record.auth_json
    gw.sums.add(auth or "", {record.reason: 1})
    record.phase = Phase.SETTLED


def log_failure(log: Log, request_id: str, problem: BaseException) -> None:
    """Say which exception ended a request, and where it was raised; its text may hold anything, so it stays out."""
    frames = traceback.extract_tb(problem.__traceback__)
    file, line = (frames[-1].filename, frames[-1].lineno) if frames else ("", 0)
    facts = {"request_id": request_id, "error": type(problem).__name__, "file": file, "line": line}
    if isinstance(problem, EngineError) and problem.remark:
        facts["problem"] = problem.remark
    log("request-failed", level="error", **facts)


def finish(record: Record, gw: Gateway, _: object = None) -> None:
    """Close the books on a call. The callback of its task, so it runs once, whatever happened."""
    record.finished = True
    if record.ticket is not None:
        gw.concurrency.leave(record.ticket)
    if not record.claimed:
        if record.late(gw.clock_ns()):
            refuse(record, errors.DeadlinePassed())
        else:
            reason = "CANCELLED" if record.body_there else BODY_INCOMPLETE
            record.end("failed", "error", reason, CANCELLED)
        if is_summed(record, gw):
            count_refusal(record, gw)
        else:
            append_unwaited(record, gw)
    record.stage("total", gw.clock_ns() - record.started_ns)
    if record.settled:
        close(record, gw)  # otherwise `settled` does, when the sink has answered


def write_sums(gw: Gateway) -> None:
    """Append what was counted since the last time, if there was anything; what cannot be written waits for the next."""
    for auth_json, reasons in gw.sums.turn().items():
        entry = refusal_sum(
            gw.site,
            auth_json,
            reasons,
            id_hex=gw.new_id().hex(),
            policy_digest=gw.active.digest,
            time_ns=gw.wall_ns(),
        )

        def done(receipt: object, auth_json: str = auth_json, reasons: Mapping[str, int] = reasons) -> None:
            if not isinstance(receipt, Receipt):
                gw.sums.add(auth_json, reasons)

        gw.sink.append([entry], done)

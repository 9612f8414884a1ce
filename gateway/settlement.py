"""From outcomes to durable records to replies: the one exit of every batch.

Rules:
- One entry for each item, in the order of the items, appended in one call.
- A reply's future is settled only when the sink says that its entry is durable; without that it is AUDIT_UNAVAILABLE.
- A caller who hung up gets nothing, its record is written all the same.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gateway import errors
from gateway.state import Answer
from ops.audit.client import Receipt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.record import Record
    from gateway.state import Gateway, Item
    from ops.audit.errors import AuditUnavailable


def settle(items: Sequence[Item], taken_ns: int, gw: Gateway) -> None:
    """Append the records of a batch. The replies leave from the event loop, when the records are durable."""
    entries: list[bytes] = []
    blobs: list[bytes] = []
    for item in items:
        item.outcome = item.outcome or errors.ModelError()
        if isinstance(item.outcome, Answer):
            item.record.decision = item.outcome.decision
        else:
            refuse(item.record, item.outcome)
        if item.capture != "none":
            blobs += gw.vault.keep(item)
        entries.append(item.record.leaf(gw.site))
    gw.sink.append(entries, partial(deliver, items, taken_ns, gw.clock_ns(), gw), blobs=blobs)


def deliver(
    items: Sequence[Item], taken_ns: int, appended_ns: int, gw: Gateway, receipt: Receipt | AuditUnavailable
) -> None:
    """Let the replies go, now that their records are durable, or say that there is no answer. On the event loop."""
    now_ns = gw.clock_ns()
    served = items[0].rules.served
    served.service_time.observe(now_ns - taken_ns, sum([item.request.rows for item in items]))
    served.counters.ended(items, taken_ns, now_ns)
    first_index = receipt.first_index if isinstance(receipt, Receipt) else None
    for offset, item in enumerate(items):
        record, waiting = item.record, item.answer
        record.stage("audit", now_ns - appended_ns)
        if first_index is not None:
            record.audit_index = first_index + offset
        settled(record, gw)
        if waiting.done():
            continue
        if first_index is None:
            waiting.set_exception(errors.AuditUnavailable())
        elif isinstance(item.outcome, Answer):
            waiting.set_result(item.outcome)
        else:
            waiting.set_exception(item.outcome or errors.ModelError())
    served.batcher.freed()


def settled(record: Record, gw: Gateway) -> None:
    """Note that the sink has said what became of the record. On the event loop."""
    record.settled = True
    if record.finished:
        close(record, gw)


def close(record: Record, gw: Gateway) -> None:
    """Let go of a call that is over and recorded: it leaves the in-flight ring and is counted."""
    gw.ring.leave(record.ring_slot)
    gw.tally.ended(record)


def give_back(items: Sequence[Item], refusal: errors.Refusal, gw: Gateway) -> None:
    """Refuse items whose records were not written: their own calls write them. From any thread."""
    gw.loop.call_soon_threadsafe(_give_back, items, refusal, gw)


def _give_back(items: Sequence[Item], refusal: errors.Refusal, gw: Gateway) -> None:
    for item in items:
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
    gw.sink.append([record.leaf(gw.site)], lambda _: settled(record, gw))


def refuse(record: Record, refusal: BaseException) -> None:
    """Write into the record that, and why, there is no answer."""
    row = errors.row_of(refusal)
    failed = row.reason in FAILURES
    record.end("failed" if failed else "refused", "error" if failed else "refuse", row.reason, row.code.value[0])


FAILURES = frozenset({"CANCELLED", "MODEL_ERROR", "BACKEND_UNAVAILABLE"})

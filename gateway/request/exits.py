"""How a call ends: its record outside of a batch, its refusal, its trailers, and the place where every call is over.

Rules:
- `claimed` is set before a leaf is handed over, so that no path writes it twice.
- What `finish` finds unclaimed never got an answer: the caller hung up (CANCELLED), or its body never was there
  (BODY_INCOMPLETE): larger than the transport takes, which gRPC refuses by itself, or cut off. It is recorded all the
  same, nobody waits for it.
- Who is refused too often has some of it in a sum (`gateway.request.sums`), written once a second.
"""

from __future__ import annotations

import traceback
from functools import cache, partial
from typing import TYPE_CHECKING

from gateway import errors
from gateway.request.record import Record, quoted, refusal_sum
from gateway.request.settlement import append_awaited, append_unwaited, close, refuse, settled
from gateway.request.state import PUBLIC
from gateway.request.sums import SINGLE_MAX
from ops.audit.store.client import Receipt
from serving.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.request.state import Gateway
    from ops.process.logging import Log

BODY_INCOMPLETE = "BODY_INCOMPLETE"
NO_NOTE = b"{}"
CANCELLED = 1  # the gRPC status
PATH_CHARACTERS_MAX = 512  # of a method that is not ours: what an entry of the log may hold


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
    record.claimed = True
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
    record.claimed = record.settled = True


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


def trailers(record: Record, verdict: str | None) -> tuple[tuple[str, str], ...]:
    """Return what every reply and refusal says about itself."""
    told = [("x-request-id", record.id), ("x-stockade-policy", record.policy_digest)]
    if record.rate is not None:
        rate = record.rate
        told.append(("x-ratelimit-limit", str(rate.limit)))
        told.append(("x-ratelimit-remaining", str(rate.remaining)))
        told.append(("x-ratelimit-reset", str(-(-rate.reset_ms // 1000))))  # seconds, rounded up
    if record.model_digest:
        told.append(("x-stockade-model-digest", record.model_digest))
    if record.audit_index is not None:
        told.append(("x-stockade-audit-origin", record.audit_origin))
        told.append(("x-stockade-audit-index", str(record.audit_index)))
    if verdict is not None:
        told.append(("x-stockade-verdict", verdict))
    return tuple(told)


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

"""ModelStreamInfer: a stream of requests, each answered, charged and recorded as if it had come alone.

Rules:
- Answers come in the order of the requests. Up to `WINDOW` messages are worked on at once, so that a stream fills
  batches. A message has its place in the window until its answer was taken; nothing is read without a place, which is
  what holds back a client that does not read its answers.
- A message counts as a call in flight; one at a time borrows the ticket of its stream. The window takes at most half of
  what the caller may have.
- The caller is looked up again for each message: a key that expires or is revoked ends the stream, whatever its age.
- A message that is refused is answered in Triton's shape (`error_message`) and the stream goes on, unless the client
  asked for gRPC errors (`triton_grpc_error: true`), or for MLServer's shape, which has no place for one: then the
  refusal ends the stream. So does the refusal of a caller who is kept out.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from gateway import errors
from gateway.edge.stream import stream_answer, stream_refusal
from gateway.request.completion import finish, message_record, record_refusal
from gateway.request.pipeline import answer, spend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.edge.service import Call
    from gateway.models.rules import Active
    from gateway.request.gateway import Gateway
    from gateway.request.record import Record

WINDOW = 32


async def stream_infer(call: Call, bodies: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Answer each message of the stream, in order."""
    in_flight_max = call.active.budgets[call.record.caller().name].in_flight_max
    places = asyncio.Semaphore(max(1, min(WINDOW, in_flight_max // 2)))
    window: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()  # as many as there are places, and the end
    reader = asyncio.create_task(read_into(window, places, call, bodies))
    call.gw.streams.add(window)
    try:
        while (working := await window.get()) is not None:
            yield await working
            places.release()
    finally:
        call.gw.streams.discard(window)
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
        while not window.empty():
            left = window.get_nowait()
            if left is not None:
                left.cancel()  # of one that is done, asyncio then does not complain that nobody read its refusal


def end_streams(gw: Gateway) -> None:
    """End every open stream behind what it has accepted, so that a client who only listens does not hold up a drain."""
    for window in gw.streams:
        window.put_nowait(None)


async def read_into(
    window: asyncio.Queue[asyncio.Task[bytes] | None],
    places: asyncio.Semaphore,
    call: Call,
    bodies: AsyncIterator[bytes],
) -> None:
    """Start work on messages as they come, as far as the window allows."""
    with contextlib.suppress(Exception):  # the client is gone; what it sent before is still answered and recorded
        await places.acquire()
        async for body in bodies:
            window.put_nowait(asyncio.create_task(answer_message(call, body)))
            await places.acquire()
    window.put_nowait(None)


def admit_message(record: Record, call: Call, active: Active) -> None:
    """Ask again what was asked at the start of the stream, of the policy that is in force now."""
    gw = call.gw
    principal = active.authenticate(call.headers.presented(call.record.names), record.right, gw.wall_ns())
    if principal.name != call.record.caller().name:
        raise errors.CredentialInvalid("stream: the credential names another principal now")
    gw.isolations.require(principal, record.time_ns)
    active.rights.require_method(principal, record.right)
    if gw.draining:
        raise errors.Draining
    budget = active.budgets[principal.name]
    if record.ticket is None:
        record.ticket = gw.concurrency.enter(budget)
    spend(record, budget.request_charges, gw.clock_ns(), gw)


async def answer_message(call: Call, body: bytes) -> bytes:
    """Answer one message. Raises a refusal only where the stream has no place for it."""
    gw, shape = call.gw, call.headers.stream
    record = message_record(call.record, gw)
    borrowed = record.ticket = call.record.ticket
    call.record.ticket = None
    try:
        active = gw.active
        admit_message(record, call, active)
        reply = (await answer(record, body, active, gw)).body
    except Exception as problem:
        refusal = await record_refusal(record, problem, gw)
        if shape.status_errors or isinstance(refusal, errors.Isolated):
            raise refusal from problem
        return stream_refusal(errors.render(refusal, record.id).details, record.client_id)
    finally:
        if borrowed is not None and not call.record.finished:
            call.record.ticket, record.ticket = borrowed, None
        finish(record, gw)
    return stream_answer(reply, shape)

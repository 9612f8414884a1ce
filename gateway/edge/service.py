"""Bytes and statuses in, pipeline, bytes and statuses out: the only module that speaks gRPC to a caller.

A call arrives here twice. `Service.service` sees its headers before a byte of the body is read: a call that is refused
there gets a handler that never reads the body, so an upload of 200 MB from a stranger costs nothing. Otherwise the
handler it returns runs the method and sends the answer.

Rules:
- Handlers get and return bytes; gRPC neither parses nor serialises for us.
- Every call ends in `gateway.request.completion.finish`, exactly once, whatever happened to it: the callback of the
  call's own task. One record, one observation in the metrics, ticket and ring slot given back.
- A caller never sees the text of an exception: `errors.render` knows all that may be said.
- A reply or refusal leaves after its record is durable. Only a caller who has not said who he is gets his refusal at
  once: those are summed in one entry a second, or strangers could fill the disk.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from gateway import errors
from gateway.auth.mtls import certificate_names
from gateway.edge.headers import read_headers
from gateway.request.completion import finish, open_record, record_alone, record_refusal
from gateway.request.pipeline import admit
from gateway.request.record import trailers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from gateway.edge.headers import Headers
    from gateway.models.rules import Active
    from gateway.request.gateway import Gateway
    from gateway.request.item import Answer
    from gateway.request.record import Record

Handler = Any  # grpc.RpcMethodHandler; its stubs do not cover grpc.aio
Context = Any  # grpc.aio.ServicerContext, likewise
DEADLINE_US_MAX = 2**53 - 1  # what an entry of the log may hold; gRPC lets a client say eleven thousand years
CREDENTIAL_REFUSALS = (errors.CredentialMissing, errors.CredentialInvalid, errors.CredentialExpired)


@dataclass(frozen=True, slots=True)
class Call:
    """One call as a method sees it. A stream makes a call of its own for each of its messages."""

    record: Record
    headers: Headers
    active: Active
    gw: Gateway


@dataclass(frozen=True, slots=True)
class Unary:
    """A method with one request and one reply. `right` is its name in the policy."""

    right: str
    run: Callable[[Call, bytes], Awaitable[Answer]]
    kind: str = "unary"


@dataclass(frozen=True, slots=True)
class Stream:
    """A method that reads and writes as it likes; a reply it yields is durably recorded already."""

    right: str
    run: Callable[[Call, AsyncIterator[bytes]], AsyncIterator[bytes]]
    kind: str = "bidi_stream"


class Service(grpc.GenericRpcHandler):
    """Finds the method, admits the call on its headers, and hands it to the method's handler.

    On a port with `client_certificates` the caller's certificate counts too; it is known only when a handler runs.
    With `certificates_alone` a credential in a header is CredentialInvalid, whosever it is.
    """

    def __init__(
        self,
        gw: Gateway,
        methods: Mapping[str, Unary | Stream],
        *,
        client_certificates: bool,
        certificates_alone: bool = False,
    ) -> None:
        self._gw = gw
        self._methods = methods
        self._client_certificates = client_certificates
        self._certificates_alone = certificates_alone

    def service(self, details: grpc.HandlerCallDetails) -> Handler:
        gw, path = self._gw, details.method
        method = self._methods.get(path)
        record = open_record(path, method.right if method is not None else "", gw)
        running = asyncio.current_task()
        assert running is not None, "grpc.aio runs every call in a task"
        running.add_done_callback(partial(finish, record, gw))
        headers, metadata_bytes = read_headers(details.invocation_metadata)
        if headers.parent is not None:
            record.parent, record.trace = headers.parent, headers.parent.trace_id
        record.proof = headers.proof
        call = Call(record, headers, gw.active, gw)
        if metadata_bytes > gw.metadata_bytes_max:
            too_large = errors.RequestTooLarge("metadata", gw.metadata_bytes_max)
            return grpc.stream_unary_rpc_method_handler(partial(deny, call, too_large))
        if self._certificates_alone and headers.has_credential():
            misplaced = errors.CredentialInvalid("a header, where only certificates count")
            return grpc.stream_unary_rpc_method_handler(partial(deny, call, misplaced))
        if self._client_certificates:
            return after_handshake(call, method)
        try:
            admit(record, headers.presented(), call.active, gw)
        except Exception as problem:  # noqa: BLE001  whatever it is, gRPC must not tell it to the caller
            return grpc.stream_unary_rpc_method_handler(partial(deny, call, problem))
        if isinstance(method, Unary):
            return grpc.unary_unary_rpc_method_handler(partial(run_unary, call, method))
        assert method is not None, "admit refuses unknown methods"
        return grpc.stream_stream_rpc_method_handler(partial(run_stream, call, method))


def after_handshake(call: Call, method: Unary | Stream | None) -> Handler:
    """Return a handler that admits on the certificate; one that streams may still leave the body unread."""
    if isinstance(method, Stream):
        return grpc.stream_stream_rpc_method_handler(partial(run_stream_certified, call, method))
    return grpc.stream_unary_rpc_method_handler(partial(run_unary_certified, call, method))


async def deny(call: Call, refusal: Exception, _: AsyncIterator[bytes], context: Context) -> NoReturn:
    """Refuse a call whose body has not been read, and will not be."""
    note_caller(call.record, context, call.gw)
    await abort(call, refusal, context)


async def run_unary(call: Call, method: Unary, body: bytes, context: Context) -> bytes:
    """Run the method, record, reply."""
    record, gw = call.record, call.gw
    record.body_there = True
    note_caller(record, context, gw)
    try:
        gw.isolations.require(record.caller(), record.time_ns)  # the body may have been slow
        answer = await method.run(call, body)
        if record.audit_index is None:
            await record_alone(record, gw)
    except Exception as problem:  # noqa: BLE001  whatever it is: a fixed sentence for the caller, a record for us
        await abort(call, problem, context)
    context.set_trailing_metadata(trailers(record, answer.verdict))
    return answer.body


async def run_stream(
    call: Call, method: Stream, bodies: AsyncIterator[bytes], context: Context
) -> AsyncIterator[bytes]:
    """Run a streaming method. Its messages have records of their own; the last record is that of the stream."""
    record, gw = call.record, call.gw
    record.body_there = True
    note_caller(record, context, gw)
    try:
        async for reply in method.run(call, bodies):
            yield reply
        if record.audit_index is None:
            await record_alone(record, gw)
    except Exception as problem:  # noqa: BLE001  as in run_unary
        await abort(call, problem, context)
    context.set_trailing_metadata(trailers(record, None))


async def run_unary_certified(
    call: Call, method: Unary | None, bodies: AsyncIterator[bytes], context: Context
) -> bytes:
    """Admit on the certificate, then read the body and run the method."""
    await admit_certificate(call, context)
    assert method is not None, "admit refuses unknown methods"
    async for body in bodies:
        return await run_unary(call, method, body, context)
    raise asyncio.CancelledError  # the body never came; `finish` records it


async def run_stream_certified(
    call: Call, method: Stream, bodies: AsyncIterator[bytes], context: Context
) -> AsyncIterator[bytes]:
    """Admit on the certificate, then run the stream."""
    await admit_certificate(call, context)
    async for reply in run_stream(call, method, bodies, context):
        yield reply


async def admit_certificate(call: Call, context: Context) -> None:
    """Admit the call on the names of its client certificate, or end it."""
    note_caller(call.record, context, call.gw)
    call.record.names = certificate_names(context.auth_context())
    try:
        admit(call.record, call.headers.presented(call.record.names), call.active, call.gw)
    except Exception as problem:  # noqa: BLE001  as in `service`
        await abort(call, problem, context)


async def abort(call: Call, problem: Exception, context: Context) -> NoReturn:
    """End the call with the refusal that `problem` means, once that is recorded."""
    if isinstance(problem, CREDENTIAL_REFUSALS):
        kind = "mtls" if call.record.names else call.headers.credential_kind()
        call.gw.tally.credential_refused(kind, errors.row_of(problem).reason)
    shown = await record_refusal(call.record, problem, call.gw)
    rendered = errors.render(shown, call.record.id)
    context.set_trailing_metadata((*rendered.trailers, *trailers(call.record, None)))
    await context.abort(rendered.code, rendered.details)
    raise AssertionError("abort raises")


def note_caller(record: Record, context: Context, gw: Gateway) -> None:
    """Write down what is known of the caller only now: the peer, and the time that is left."""
    record.peer = context.peer() or record.peer  # empty when the caller is gone: an entry without a peer is refused
    left_s = context.time_remaining()
    if left_s is not None:
        left_us = min(max(0, int(left_s * 1_000_000)), DEADLINE_US_MAX)
        record.deadline_us = left_us
        record.deadline_ns = gw.clock_ns() + left_us * 1000

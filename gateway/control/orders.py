"""What an operator asks for over the admin port: by whose word, why, and for which incident.

What he writes goes into the log and comes back to other operators, so it is bounded and on one line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.codec import parse_as
from gateway.errors import ArgumentInvalid
from gateway.request.item import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    from gateway.edge.service import Call

REASON_CHARACTERS_MAX = 500
INCIDENT_CHARACTERS_MAX = 64
ADMINISTRATOR_CHARACTERS_MAX = 512


@dataclass(frozen=True, slots=True)
class Order:
    """By whose word something is done: their credential, name and tenant, the request that says so, and why."""

    administrator: str
    principal: str
    tenant: str
    request: str
    reason: str
    incident: str = ""


def order_of(call: Call, reason: str, incident: str) -> Order:
    """Return who asks in this call. Raises ArgumentInvalid for a reason or an incident that cannot be written down."""
    caller = call.record.caller()
    return Order(
        administrator=caller.credential[:ADMINISTRATOR_CHARACTERS_MAX],
        principal=caller.name,
        tenant=caller.tenant,
        request=call.record.id,
        reason=text_of("reason", reason, REASON_CHARACTERS_MAX, empty=False),
        incident=text_of("incident", incident, INCIDENT_CHARACTERS_MAX),
    )


def text_of(field: str, text: str, characters_max: int, *, empty: bool = True) -> str:
    """Return an operator's text as it is written down. Raises ArgumentInvalid."""
    found = text.strip()
    if not empty and not found:
        raise ArgumentInvalid(field, "is empty")
    if len(found) > characters_max:
        raise ArgumentInvalid(field, f"has more than {characters_max} characters")
    if not found.isprintable():
        raise ArgumentInvalid(field, "holds more than one line of printable characters")
    return found


def told(
    request_class: type[Message], build: Callable[[Any], Awaitable[Message]]
) -> Callable[[Call, bytes], Awaitable[Answer]]:
    """Return a method that parses, asks, and serialises, whoever calls."""
    return told_to(request_class, lambda request, _: build(request))


def told_to(
    request_class: type[Message], build: Callable[[Any, Call], Awaitable[Message]]
) -> Callable[[Call, bytes], Awaitable[Answer]]:
    """Return a method that parses, asks with the call, and serialises."""

    async def run(call: Call, body: bytes) -> Answer:
        reply = await build(parse_as(request_class, body, call.gw.codec_limits), call)
        return Answer(reply.SerializeToString())

    return run

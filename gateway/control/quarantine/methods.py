"""The admin port's methods about what waits for review.

A decision is a word about the screens, for whoever calibrates and trains: it changes no answer that was given. It is in
the log before it is in the database, and names who took it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.control.custody.payloads import PAYLOADS, open_payload
from gateway.control.orders import order_of, told_to
from gateway.control.quarantine.store import LISTED_MAX, Decided, QuarantineError
from gateway.errors import ArgumentInvalid
from stockade.v1 import admin_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    from gateway.control.desk import Desk
    from gateway.control.orders import Order
    from gateway.control.quarantine.store import Item
    from gateway.edge.service import Call
    from gateway.request.item import Answer

ENTRIES_MAX = 256
STATES = {"release": "released", "reject": "rejected"}


def quarantine_methods(desk: Desk) -> dict[str, Callable[[Call, bytes], Awaitable[Answer]]]:
    """Return the methods by their names."""
    review = Review(desk)
    return {
        "ListQuarantine": told_to(admin_pb2.ListQuarantineRequest, review.list),
        "ShowQuarantined": told_to(admin_pb2.ShowQuarantinedRequest, review.show),
        "DecideQuarantined": told_to(admin_pb2.DecideQuarantinedRequest, review.decide),
    }


@dataclass(slots=True)
class Review:
    """The list of a host as operators see it. `deciding`: of two who decide about the same, the second is told."""

    desk: Desk
    deciding: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def list(self, request: admin_pb2.ListQuarantineRequest, _: Call) -> Message:
        if request.state not in ("", "waiting", *STATES.values()):
            raise ArgumentInvalid("state", "must be waiting, released or rejected")
        return await asyncio.to_thread(self._listed, request)

    def _listed(self, request: admin_pb2.ListQuarantineRequest) -> Message:
        quarantine = self.desk.quarantine
        reply = admin_pb2.ListQuarantineResponse(waiting=quarantine.waiting(), dropped=quarantine.dropped())
        count_max = request.count_max or LISTED_MAX
        found = quarantine.items(state=request.state, tenant=request.tenant, model=request.model, count_max=count_max)
        reply.items.extend(map(item_message, found))
        return reply

    async def show(self, request: admin_pb2.ShowQuarantinedRequest, call: Call) -> Message:
        item = await asyncio.to_thread(self.desk.quarantine.item, request.entry)
        if item is None:
            raise ArgumentInvalid("entry", "is not in quarantine, and was not")
        reply = admin_pb2.ShowQuarantinedResponse(item=item_message(item))
        if not reply.item.payload:
            reply.problem = "it was not kept: the policy's `capture` says none"
            return reply
        if not call.active.rights.may_call(call.record.caller(), PAYLOADS):
            reply.problem = f"it takes the right {PAYLOADS} to read it"
            return reply
        order = order_of(call, "quarantine", "")
        reply.request, reply.problem = await open_payload(self.desk, request.entry, "request", order)
        return reply

    async def decide(self, request: admin_pb2.DecideQuarantinedRequest, call: Call) -> Message:
        order = order_of(call, request.reason, request.incident)
        state, entries = STATES.get(request.decision), list(dict.fromkeys(request.entries))
        if state is None:
            raise ArgumentInvalid("decision", "must be release or reject")
        if not 0 < len(entries) <= ENTRIES_MAX:
            raise ArgumentInvalid("entries", f"must be 1 to {ENTRIES_MAX}")
        async with self.deciding:
            facts = []
            for entry in entries:
                item = await asyncio.to_thread(self.desk.quarantine.item, entry)
                if item is None or item[1].state != "waiting":
                    what = "is not in quarantine" if item is None else f"was {item[1].state} by {item[1].administrator}"
                    return admin_pb2.DecideQuarantinedResponse(problem=f"entry {entry} {what}")
                facts.append({"action": state, "entry": entry, "subject": item[0].request, **said(order)})
            await self.desk.record_together("quarantine", facts)
            decided = Decided(state, order.administrator, order.reason, self.desk.gw.wall_ns())
            try:
                await asyncio.to_thread(self.desk.quarantine.decide, entries, decided)
            except QuarantineError as problem:  # the log says so, and the list still shows it as waiting
                return admin_pb2.DecideQuarantinedResponse(problem=f"recorded, but not kept: {problem}")
        return admin_pb2.DecideQuarantinedResponse(accepted=True)


def said(order: Order) -> dict[str, str]:
    """Return by whose word, for an entry."""
    facts = {"administrator": order.administrator, "reason": order.reason, "request": order.request}
    return {**facts, **({"incident": order.incident} if order.incident else {})}


def item_message(item: Item) -> admin_pb2.Quarantined:
    """Return an item as the admin port tells it."""
    finding, decided = item
    return admin_pb2.Quarantined(
        entry=finding.entry,
        request_id=finding.request,
        unix_ns=finding.time_ns,
        tenant=finding.tenant,
        principal=finding.principal,
        model=finding.model,
        version=finding.version,
        decision=finding.decision,
        found=finding.found,
        payload=finding.payload,
        state=decided.state,
        administrator=decided.administrator,
        reason=decided.reason,
        decided_unix_ns=decided.decided_ns,
    )

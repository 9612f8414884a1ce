"""The admin port's methods about kept payloads: three services, each a right of its own.

A reason or a matter stands in the log for good, where nothing can be erased. So one that names the subject is refused.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.control.custody.payloads import FIELDS, PAYLOADS, open_payload
from gateway.control.custody.procedure import names
from gateway.control.orders import ADMINISTRATOR_CHARACTERS_MAX, order_of, text_of, told_to
from gateway.edge.service import Unary
from gateway.errors import ArgumentInvalid
from ops.audit.errors import ErasureRefused
from ops.audit.log.entry import pseudonym
from ops.audit.payloads.erasure import KEYS_MAX
from ops.audit.payloads.erasure_rows import Erasure, Hold, Word
from stockade.v1 import custody_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from gateway.control.custody.procedure import Custody
    from gateway.control.desk import Desk
    from gateway.edge.service import Call

ERASURE, LEGAL_HOLD = "Erasure", "LegalHold"  # rights; the services are called so too
LISTED_MAX = 1_000
NAME_CHARACTERS_MAX = 512
ID_CHARACTERS_MAX = 64
ENTRY_MAX = 2**63 - 1
_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])", re.ASCII)


def custody_methods(desk: Desk) -> dict[str, Unary]:
    """Return the methods by their gRPC paths."""
    methods = CustodyMethods(desk)
    table = {
        (ERASURE, "Request"): told_to(custody_pb2.EraseRequest, methods.request),
        (ERASURE, "Approve"): told_to(custody_pb2.ApproveErasureRequest, methods.approve),
        (ERASURE, "List"): told_to(custody_pb2.ListErasuresRequest, methods.list_erasures),
        (ERASURE, "Show"): told_to(custody_pb2.ShowErasureRequest, methods.show),
        (LEGAL_HOLD, "Set"): told_to(custody_pb2.SetHoldRequest, methods.hold),
        (LEGAL_HOLD, "Release"): told_to(custody_pb2.ReleaseHoldRequest, methods.release),
        (LEGAL_HOLD, "List"): told_to(custody_pb2.ListHoldsRequest, methods.list_holds),
        (PAYLOADS, "Read"): told_to(custody_pb2.ReadPayloadRequest, methods.read),
    }
    return {f"/stockade.v1.{service}/{name}": Unary(service, run) for (service, name), run in table.items()}


@dataclass(frozen=True, slots=True)
class CustodyMethods:
    """The methods, for one control plane."""

    desk: Desk

    @property
    def custody(self) -> Custody:
        return self.desk.custody

    async def request(self, request: custody_pb2.EraseRequest, call: Call) -> Message:
        order = order_of(call, request.reason, "")
        tenant, subject, known = await self._whom(request.tenant, request.subject, order.reason, "reason")
        if not subject:
            raise ArgumentInvalid("subject", "is empty")
        months = tuple(dict.fromkeys(request.months))
        if len(months) > KEYS_MAX or not all(_MONTH.fullmatch(month) for month in months):
            raise ArgumentInvalid("months", f"must be {KEYS_MAX} at most, each as YYYY-MM")
        wanted = Erasure(
            id=self.desk.gw.new_id().hex(),
            tenant=tenant,
            subject=subject,
            pseudonym=known,
            months=months,
            reason=order.reason,
            requested_by=order.administrator,
            requester=order.principal,
            requested_ns=self.desk.gw.wall_ns(),
        )
        try:
            return custody_pb2.EraseResponse(accepted=True, erasure=told(await self.custody.request(wanted)))
        except ErasureRefused as problem:
            return custody_pb2.EraseResponse(problem=str(problem))

    async def approve(self, request: custody_pb2.ApproveErasureRequest, call: Call) -> Message:
        erasure_id = text_of("id", request.id, ID_CHARACTERS_MAX, empty=False)
        try:
            done = await self.custody.approve(erasure_id, word_of(call, self.desk))
        except ErasureRefused as problem:
            return custody_pb2.EraseResponse(problem=str(problem))
        return custody_pb2.EraseResponse(accepted=True, erasure=told(done))

    async def list_erasures(self, request: custody_pb2.ListErasuresRequest, _: Call) -> Message:
        found = await asyncio.to_thread(self.custody.erasures.listed)
        count_max = min(request.count_max or LISTED_MAX, LISTED_MAX)
        return custody_pb2.ListErasuresResponse(erasures=map(told, found[:count_max]))

    async def show(self, request: custody_pb2.ShowErasureRequest, _: Call) -> Message:
        try:
            found = await asyncio.to_thread(self.custody.erasures.erasure, request.id)
        except ErasureRefused as problem:
            return custody_pb2.EraseResponse(problem=str(problem))
        return custody_pb2.EraseResponse(accepted=True, erasure=told(found))

    async def hold(self, request: custody_pb2.SetHoldRequest, call: Call) -> Message:
        order = order_of(call, request.matter, "")
        tenant, subject, known = await self._whom(request.tenant, request.subject, order.reason, "matter")
        new_id, now_ns = self.desk.gw.new_id().hex(), self.desk.gw.wall_ns()
        hold = Hold(new_id, tenant, subject, known, order.reason, order.administrator, order.request, now_ns)
        try:
            await self.custody.place(hold)
        except ErasureRefused as problem:
            return custody_pb2.HoldResponse(problem=str(problem))
        return custody_pb2.HoldResponse(accepted=True, hold=held(hold))

    async def release(self, request: custody_pb2.ReleaseHoldRequest, call: Call) -> Message:
        order = order_of(call, request.reason, "")
        holds = await asyncio.to_thread(self.custody.erasures.holds)
        hold = next((one for one in holds if one.id == request.id), None)
        if hold is None:
            return custody_pb2.HoldResponse(problem="there is no such hold; see `stockade audit hold list`")
        if names(hold.subject, order.reason):
            raise ArgumentInvalid("reason", "names the subject, and stands in the log for good")
        await self.custody.lift(hold, order)
        return custody_pb2.HoldResponse(accepted=True, hold=held(hold))

    async def list_holds(self, _: custody_pb2.ListHoldsRequest, __: Call) -> Message:
        return custody_pb2.ListHoldsResponse(holds=map(held, await asyncio.to_thread(self.custody.erasures.holds)))

    async def read(self, request: custody_pb2.ReadPayloadRequest, call: Call) -> Message:
        order = order_of(call, request.reason, "")
        if request.field not in FIELDS:
            raise ArgumentInvalid("field", "must be request or response")
        if request.entry > ENTRY_MAX:
            raise ArgumentInvalid("entry", "is not an index")
        payload, problem = await open_payload(self.desk, request.entry, request.field, order)
        return custody_pb2.ReadPayloadResponse(payload=payload, problem=problem)

    async def _whom(self, tenant: str, subject: str, text: str, field: str) -> tuple[str, str, str]:
        """Return tenant, subject and what the log calls the subject. Raises ArgumentInvalid.

        A subject need not be in the policy: people leave, and their payloads stay.
        """
        tenant = text_of("tenant", tenant, NAME_CHARACTERS_MAX, empty=False)
        subject = text_of("subject", subject, NAME_CHARACTERS_MAX)
        if names(subject, text):
            raise ArgumentInvalid(field, "names the subject, and stands in the log for good")
        keys = self.desk.keys
        if not await asyncio.to_thread(keys.knows, tenant):
            raise ArgumentInvalid("tenant", "is not a tenant, and was not")
        known = pseudonym(await asyncio.to_thread(keys.tenant_key, tenant), subject) if subject else ""
        return tenant, subject, known


def word_of(call: Call, desk: Desk) -> Word:
    """Return who says so."""
    caller, now_ns = call.record.caller(), desk.gw.wall_ns()
    return Word(caller.credential[:ADMINISTRATOR_CHARACTERS_MAX], caller.name, call.record.id, now_ns)


def told(erasure: Erasure) -> custody_pb2.ErasureState:
    """Return an erasure as the admin port tells it."""
    return custody_pb2.ErasureState(
        id=erasure.id,
        state=erasure.state,
        tenant=erasure.tenant,
        subject=erasure.subject,
        pseudonym=erasure.pseudonym,
        months=erasure.months,
        reason=erasure.reason,
        keys=erasure.keys,
        requested_by=erasure.requested_by,
        requested_unix_ns=erasure.requested_ns,
        approved_by=erasure.approved_by,
        approved_unix_ns=erasure.approved_ns,
    )


def held(hold: Hold) -> custody_pb2.HoldState:
    """Return a hold as the admin port tells it."""
    return custody_pb2.HoldState(
        id=hold.id,
        tenant=hold.tenant,
        subject=hold.subject,
        pseudonym=hold.pseudonym,
        matter=hold.matter,
        administrator=hold.administrator,
        since_unix_ns=hold.since_ns,
    )

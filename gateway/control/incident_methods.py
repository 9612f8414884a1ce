"""The admin port's one method about incidents: a word in the log, which is the only place where they are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.control.orders import INCIDENT_CHARACTERS_MAX, order_of, text_of, told_to
from gateway.control.tenants.methods import subjects_of
from gateway.errors import ArgumentInvalid
from ops.audit.log.entry import pseudonym
from stockade.v1 import admin_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from google.protobuf.message import Message

    from gateway.control.desk import Desk
    from gateway.edge.service import Call
    from gateway.request.item import Answer

ACTIONS = ("opened", "noted", "closed")
SUSPECTS_MAX = 64
MODEL_CHARACTERS_MAX = 200
DETAILS_MAX = 32
KEY_CHARACTERS_MAX = 64
VALUE_CHARACTERS_MAX = 500


def incident_methods(desk: Desk) -> dict[str, Callable[[Call, bytes], Awaitable[Answer]]]:
    """Return the methods by their names."""

    async def note(request: admin_pb2.NoteIncidentRequest, call: Call) -> Message:
        order = order_of(call, request.reason, "")
        if request.action not in ACTIONS:
            raise ArgumentInvalid("action", "must be opened, noted or closed")
        name = text_of("incident", request.incident, INCIDENT_CHARACTERS_MAX, empty=request.action == "opened")
        name = name or f"inc-{desk.gw.new_id().hex()[:8]}"
        entry: dict[str, Any] = {
            "action": request.action,
            "administrator": order.administrator,
            "incident": name,
            "reason": order.reason,
            "request": order.request,
        }
        for field, value in (("from_ns", request.from_unix_ns), ("until_ns", request.until_unix_ns)):
            if value > 0:
                entry[field] = str(value)
        if found := list(suspects_of(desk, request)):
            entry["suspects"] = found
        if request.detail:
            entry["detail"] = detail_of(request.detail)
        await desk.record("incident", **entry)
        return admin_pb2.NoteIncidentResponse(accepted=True, incident=name)

    return {"NoteIncident": told_to(admin_pb2.NoteIncidentRequest, note)}


def suspects_of(desk: Desk, request: admin_pb2.NoteIncidentRequest) -> Iterator[str]:
    """Yield who and what is suspected, as the log names it. Raises ArgumentInvalid."""
    if len(request.suspects) + len(request.models) > SUSPECTS_MAX:
        raise ArgumentInvalid("suspects", f"must be {SUSPECTS_MAX} at most, models included")
    keys = desk.keys
    for tenant, principal in subjects_of(request.suspects, desk) if request.suspects else ():
        known = pseudonym(keys.tenant_key(tenant), principal) if principal else ""
        yield f"principal:{tenant}/{known}" if principal else f"tenant:{tenant}"
    for model in request.models:
        yield f"model:{text_of('models', model, MODEL_CHARACTERS_MAX, empty=False)}"


def detail_of(given: Mapping[str, str]) -> dict[str, str]:
    """Return what is written down besides. Raises ArgumentInvalid."""
    if len(given) > DETAILS_MAX:
        raise ArgumentInvalid("detail", f"must hold {DETAILS_MAX} at most")
    found = {}
    for key, value in given.items():
        if not key.isascii() or key in ("kind", "count"):  # reserved in entries
            raise ArgumentInvalid("detail", "has a key that cannot be used")
        found[text_of("detail", key, KEY_CHARACTERS_MAX, empty=False)] = text_of("detail", value, VALUE_CHARACTERS_MAX)
    return found

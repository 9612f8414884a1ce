"""`stockade.v1.Feedback/Submit`: from a message to items in the file, each with its entry in the audit log.

form → charge → judge and write drafts → record → confirm → reply

- What has not the form of a label (too many, no request id) refuses the whole call; what a label says is answered item
  by item, in their order.
- An item costs as much as a row of inference of cost 1. Without that, who is refused all the time would fill the log.
- The entries of all items of a call are one append. Where they are not durable nobody is told anything but that, and
  the drafts are taken back: nothing is learned from what the log does not know.
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import orjson

from gateway import errors
from gateway.codec import parse_as
from gateway.request.completion import append_awaited, log_failure
from gateway.request.item import Answer
from gateway.request.labels.gate import Claim, Sender, judge_claims
from gateway.request.labels.provenance import Statement
from gateway.request.pipeline import share, spend
from ops.audit.log.entry import VERSION, canonical
from stockade.v1 import feedback_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from gateway.edge.service import Call
    from gateway.models.rules import FeedbackRules
    from gateway.request.labels.answers import Answers
    from gateway.request.labels.gate import Judged

RIGHT = "Feedback"
ITEMS_MAX = 256
NAME_BYTES_MAX = 128
REQUEST_BYTES = 16
ROW_MAX = 2**31 - 1
TIME_NS_MAX = 2**63 - 1
MICRO_MAX = 1_000_000
KEY_SHOWN_CHARACTERS = 16


async def submit(call: Call, body: bytes) -> Answer:
    """Take labels; returns when the entry of each is durable."""
    gw, record = call.gw, call.record
    caller = record.caller()
    message = parse_as(feedback_pb2.SubmitFeedbackRequest, body, gw.codec_limits)
    claims = list(claims_of(message))
    budget = call.active.budgets[caller.name]
    charges = budget.cost_charges(len(claims), 0)
    spend(record, charges, gw.clock_ns(), gw)
    if gw.shared is not None:
        await share(record, (*budget.request_charges, *charges), gw)
    if gw.answers is None:
        raise errors.MethodUnimplemented
    await gw.answers.flush()

    def rules(model: str, version: str) -> FeedbackRules | None:
        permitted = call.active.rights.may_use(caller, RIGHT, model, version)
        found = call.active.models.get((model, version))
        return found.feedback if permitted and found is not None else None

    keys = call.active.feedback_keys.get(caller.name, frozenset())
    sender = Sender(caller.name, caller.tenant, keys, rules)
    try:
        judged = await asyncio.to_thread(judge_all, claims, sender, gw.answers, gw.wall_ns())
        drafts = [each.item for each in judged if each.item]
        try:
            await record_items(call, judged)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(gw.answers.store().withdraw, drafts))
            raise
        await asyncio.shield(asyncio.to_thread(gw.answers.store().confirm, drafts))
    except (sqlite3.Error, OSError) as problem:
        log_failure(gw.log, record.id, problem)
        raise errors.ScreenUnavailable from problem
    gw.tally.feedback([(each.model, each.disposition, each.reason) for each in judged])
    results = [
        feedback_pb2.FeedbackResult(
            disposition=each.disposition, reason=each.reason if each.disposition == "refused" else ""
        )
        for each in judged
    ]
    return Answer(feedback_pb2.SubmitFeedbackResponse(results=results).SerializeToString())


def claims_of(message: feedback_pb2.SubmitFeedbackRequest) -> Iterator[Claim]:
    """Yield the items. Raises ArgumentInvalid where one has not the form of an item."""
    if not 1 <= len(message.items) <= ITEMS_MAX:
        raise errors.ArgumentInvalid("items", f"must be 1 to {ITEMS_MAX}")
    for place, item in enumerate(message.items):
        at = f"items[{place}]"
        for name in ("model", "version", "label"):
            if not 1 <= len(getattr(item, name).encode()) <= NAME_BYTES_MAX:
                raise errors.ArgumentInvalid(f"{at}.{name}", f"must be 1 to {NAME_BYTES_MAX} bytes")
        for name in ("outcome_unix_ns", "signed_unix_ns"):
            if not 0 < getattr(item, name) <= TIME_NS_MAX:
                raise errors.ArgumentInvalid(f"{at}.{name}", "must be a time after 1970")
        if item.row > ROW_MAX:
            raise errors.ArgumentInvalid(f"{at}.row", "is no row of a request")
        if item.confidence_micro > MICRO_MAX:
            raise errors.ArgumentInvalid(f"{at}.confidence_micro", f"must be at most {MICRO_MAX}")
        statement = Statement(
            request_id_of(item.request_id, f"{at}.request_id"),
            item.row,
            item.model,
            item.version,
            item.label,
            item.confidence_micro,
            item.outcome_unix_ns,
            item.signed_unix_ns,
        )
        yield Claim(statement, item.key, item.signature)


def request_id_of(text: str, field: str) -> bytes:
    """Return the 16 bytes of a request's id. Raises ArgumentInvalid."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != REQUEST_BYTES or found.hex() != text:  # one spelling: `fromhex` skips blanks, and takes capitals
        raise errors.ArgumentInvalid(field, "must be 32 lower-case hex digits")
    return found


def judge_all(claims: Sequence[Claim], sender: Sender, answers: Answers, now_ns: int) -> list[Judged]:
    """Judge the claims of a call in one transaction. Blocks."""
    with answers.store().transaction() as step:
        return judge_claims(claims, sender, step, now_ns)


async def record_items(call: Call, judged: Sequence[Judged]) -> None:
    """Append an entry for each item; returns when all are durable, raises AuditUnavailable otherwise."""
    gw, time_ns = call.gw, str(call.gw.wall_ns())
    await append_awaited([entry_of(each, call, gw.new_id().hex(), time_ns) for each in judged], gw)


def entry_of(judged: Judged, call: Call, entry_id: str, time_ns: str) -> bytes:
    """Return the entry of one item."""
    site, said = call.gw.site, judged.claim.statement
    fields: dict[str, Any] = {
        "auth": canonical_auth(call),
        "build": site.build,
        "call": call.record.id,
        "disposition": judged.disposition,
        "gateway": site.gateway,
        "id": entry_id,
        "kind": "feedback",
        "label": said.label,
        "name": said.model,
        "outcome_ns": str(said.outcome_ns),
        "request": said.request.hex(),
        "row": said.row,
        "time_ns": time_ns,
        "v": VERSION,
        "version": said.version,
    }
    if judged.claim.key:
        fields["key"] = judged.claim.key.hex()[:KEY_SHOWN_CHARACTERS]
    if judged.p_micro is not None:
        fields["p_micro"] = judged.p_micro
    if judged.reason:
        fields["reason"] = judged.reason
    return canonical(fields)


def canonical_auth(call: Call) -> dict[str, Any]:
    """Return who sent it, as his requests' entries have it."""
    found: dict[str, Any] = orjson.loads(call.record.auth_json or "{}")
    return found

"""The life of a request, in three functions, each one screen.

1. `admit`, on the headers alone, before a byte of the body is read: who is it, may they, have they room.
2. `answer`, on the event loop, once the body is there: decode, route, charge, queue. Cheap, and refuses early. What
   `gateway.request.cache` still holds, where it is configured, is answered here.
3. `answer_batch` of `gateway.request.batch`, on the event loop or in a batch thread (`engine.threads`), for all that
waited:
   infer, screen the evidence, decide, harden, encode, record. Vectorised. Replies leave when their records are durable.
   From the event loop a large batch's inference is left to a thread (`Offload`), and the loop takes in the next ones.

Rules:
- Every way out raises a refusal of `gateway.errors` or settles the item's future: nothing else tells the outcome.
- The batch owns the record of every item it was given (`record.claimed`), also of those it refuses or drops.
- A bad row never hurts its neighbours: when a run of several requests fails, each is run alone, and what cannot be
  judged together is judged request by request, without another run. Not when who runs the model is gone or silent:
  that is no request's fault and would only be waited for again.
- Nothing here reads a clock or draws a number that is not handed in through `Gateway`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import codec, errors
from gateway.admission.budget import refusal_of
from gateway.admission.shared import kept_here
from gateway.policy.checks import PUBLIC_METHODS
from gateway.request.acknowledgement import acknowledged
from gateway.request.cache import ALLOWED, cacheable, key_of
from gateway.request.capture import narrower
from gateway.request.completion import settle_alone
from gateway.request.item import Answer, Item
from gateway.request.metering import require_means
from gateway.request.watching import require_warm

if TYPE_CHECKING:
    import asyncio

    from gateway.admission.budget import Charges
    from gateway.auth.principal import Presented
    from gateway.codec import CodecLimits, InferRequest
    from gateway.models.rules import Active, ModelRules
    from gateway.models.served import Served
    from gateway.request.cache import Kept
    from gateway.request.gateway import Gateway
    from gateway.request.item import Answer
    from gateway.request.record import Record
    from stockade.open_inference.grpc_service_pb2 import ModelInferRequest


def admit(record: Record, presented: Presented, active: Active, gw: Gateway) -> None:
    """Say who is calling and whether there is room for the call, from its headers alone."""
    principal = active.authenticate(presented, record.right, record.time_ns)
    record.principal = principal
    record.auth_json = gw.auth_json(principal)
    gw.isolations.require(principal, record.time_ns)
    authenticated_ns = gw.clock_ns()
    record.stage("auth", authenticated_ns - record.started_ns)
    if not record.right:
        raise errors.MethodUnimplemented
    active.rights.require_method(principal, record.right)
    if gw.draining:
        raise errors.Draining
    if gw.elsewhere.behind and record.right not in PUBLIC_METHODS:
        raise errors.ReplicaBehind
    budget = active.budgets[principal.name]
    record.ticket = gw.concurrency.enter(budget)
    charges = budget.request_charges
    if gw.shared is not None and record.right in PUBLIC_METHODS:  # they take nothing from the shared limits
        charges = kept_here(charges)
    spend(record, charges, authenticated_ns, gw)
    record.stage("admit", gw.clock_ns() - authenticated_ns)


async def answer(record: Record, body: bytes, active: Active, gw: Gateway) -> Answer:
    """Decode, route, charge and queue one inference, or repeat its answer; returns when its record is
    durable, and where the policy wants it.

    Where gateways share limits, it waits once for them, with all that the inference costs.
    """
    began_ns = record.body_ns = gw.clock_ns()
    principal = record.caller()
    budget = active.budgets[principal.name]
    try:
        rules, request = read(record, body, active, gw.codec_limits)
        charges = budget.cost_charges(request.rows * rules.cost_per_row, request.rows)
        spend(record, charges, began_ns, gw)
    except Exception:
        if gw.shared is not None:
            gw.shared.owe(budget.request_charges)
        raise
    if gw.shared is not None:
        began_ns += await share(record, (*budget.request_charges, *charges), gw)
    require_means(record, rules, request.rows, record.time_ns)
    queued_ns = gw.clock_ns()
    record.stage("decode", queued_ns - began_ns)
    if request.timeout_us:
        record.deadline_ns = earlier(record.deadline_ns, queued_ns + request.timeout_us * 1000)
    key = kept = None
    if gw.cache is not None and cacheable(rules, active):
        key = key_of(request, rules, principal.tenant, active.digest)
        kept = gw.cache.find(key, principal.tenant, record.model_name, queued_ns)
    served = rules.served
    if record.deadline_ns is not None and kept is None:
        served.service_time.require(record.deadline_ns - queued_ns, served.batcher.rows_ahead, queued_ns)
    future: asyncio.Future[Answer] = gw.loop.create_future()
    capture = narrower(rules.capture, active.tenant_capture[principal.tenant])
    if capture != "none":
        gw.room.enter(record, len(body))
    item = Item(record, request, rules, queued_ns, body, capture, future, cache_key=key)
    if kept is None:
        served.batcher.submit(item, rows=request.rows, nbytes=len(body), lane=principal.lane, flow=principal.tenant)
    else:
        repeat(item, kept, gw)
    record.claim()
    answered = await future
    if rules.acknowledge != "local":
        await acknowledged(rules.acknowledge, record, gw)
    return answered


def read(record: Record, body: bytes, active: Active, limits: CodecLimits) -> tuple[ModelRules, InferRequest]:
    """Parse, route and decode: return the rules of the model that is meant, and what is asked of it."""
    message = codec.parse(body, limits)
    record.client_id = message.id
    rules = route(record, message.model_name, message.model_version, active)
    require_loaded(rules.served)
    require_warm(record, rules, record.time_ns)
    request = requested(message, rules, record.caller().roles, limits)
    record.rows = request.rows
    return rules, request


def requested(
    message: ModelInferRequest, rules: ModelRules, roles: frozenset[str], limits: CodecLimits
) -> InferRequest:
    """Return what a caller with these roles asks of a model, decoded, with the outputs that it gets."""
    outputs = rules.outputs_for(roles)
    request = codec.decode(message, rules.served.bundle.inputs, outputs, limits)
    given = rules.given(outputs)
    return request.naming(given) if len(given) < len(rules.outputs) else request


def route(record: Record, name: str, version: str, active: Active) -> ModelRules:
    """Return the rules of the model this caller means. Unknown and forbidden are one refusal, found in the same way."""
    record.pinned = bool(version)
    chosen = version or version_for(record, name, active)
    rules = active.models.get((name, chosen))
    permitted = active.rights.may_use(record.caller(), record.right, name, chosen)
    if rules is None or not permitted:
        raise errors.ModelUnknown
    note_model(record, rules.served)
    return rules


def require_loaded(served: Served) -> None:
    """ModelUnloaded for a version that is out of service."""
    if served.unloaded:
        raise errors.ModelUnloaded


def note_model(record: Record, served: Served) -> None:
    """Write down which model version a request is about."""
    bundle = served.bundle
    record.model_name, record.model_version = bundle.name, bundle.version
    record.model_digest, record.model_json = bundle.digest, served.facts_json


def version_for(record: Record, name: str, active: Active) -> str:
    """Return the version of a model that answers this caller: its share's, or `serve` where it has no right to that."""
    split = active.splits.get(name)
    if split is not None:
        drawn = split.version_for(record.caller().name)
        if active.rights.may_use(record.caller(), record.right, name, drawn):
            return drawn
    return active.default_versions.get(name, "")


def spend(record: Record, charges: Charges, now_ns: int, gw: Gateway) -> None:
    """Take from the caller's buckets, or raise RateLimited."""
    decision = gw.limiter.spend(charges, now_ns)
    record.limited(decision, now_ns)
    if not decision.admitted:
        raise refusal_of(decision)


async def share(record: Record, charges: Charges, gw: Gateway) -> int:
    """Take from the buckets that all gateways share, or raise why not. Returns how many nanoseconds it took."""
    assert gw.shared is not None, "asked for where limits are shared"
    began_ns = gw.clock_ns()
    try:
        decision = await gw.shared.take(charges)
    except errors.LimitsUnavailable:
        record.limits_unavailable()
        raise
    if decision is not None:  # otherwise what `spend` said of this gateway's own share stands
        record.limited(decision)
        if not decision.admitted:
            raise refusal_of(decision)
    waited_ns = gw.clock_ns() - began_ns
    record.stage("limits", waited_ns)
    return waited_ns


def earlier(deadline_ns: int | None, other_ns: int) -> int:
    """Return the nearer of the call's deadline and the request's own timeout."""
    return other_ns if deadline_ns is None else min(deadline_ns, other_ns)


def repeat(item: Item, kept: Kept, gw: Gateway) -> None:
    """Answer a request with an earlier answer. Its record is written like any other's.

    Raises:
        DeadlinePassed: nobody waits any more.
    """
    record, rules = item.record, item.rules
    if record.late(item.queued_ns):
        raise errors.DeadlinePassed
    record.cached = kept.request_id
    record.screens_json = kept.screens_json
    record.output_json = kept.output_json
    body = codec.with_id(kept.before, kept.after, item.request.id)
    item.outcome = Answer(body, ALLOWED, ALLOWED if rules.reveal_verdict else None)
    gw.tally.repeated(rules.served.bundle.name, record.caller().priority_class, item.request.rows * rules.cost_per_row)
    settle_alone(item, gw)

"""The life of a request, in three functions, each one screen.

1. `admit`, on the headers alone, before a byte of the body is read: who is it, may they, have they room.
2. `answer`, on the event loop, once the body is there: decode, route, charge, queue. Cheap, and refuses early. What
   `gateway.cache` still holds, where it is configured, is answered here.
3. `answer_batch`, on the event loop or in a batch thread (`engine.threads`), for all requests that were waiting: infer,
   screen the evidence, decide, harden, encode, record. Vectorised. Replies leave when their records are durable. From
   the event loop a large batch's inference is left to a thread (`Offload`), and the loop takes in the next requests.

Rules:
- Every way out raises a refusal of `gateway.errors` or settles the item's future: nothing else tells the outcome.
- The batch owns the record of every item it was given (`record.claimed`), also of those it refuses or drops.
- A bad row never hurts its neighbours: when a run of several requests fails, each is run alone. Not when who runs the
  model is gone or silent: that is no request's fault and would only be waited for again.
- Nothing here reads a clock or draws a number that is not handed in through `Gateway`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from defenses.policy import Action
from gateway import codec, errors
from gateway.admission.budget import refusal_of
from gateway.admission.shared import kept_here
from gateway.cache import cacheable, key_of, repeat
from gateway.capture import narrower
from gateway.exits import log_failure
from gateway.feedback.answers import see
from gateway.judgement import DECISIONS, judge, soften
from gateway.metering import budget_spent, meter, require_means
from gateway.outgoing import emptied, within
from gateway.policy.rules import PUBLIC_METHODS
from gateway.release.comparison import Ran
from gateway.settlement import settle
from gateway.state import Answer, Item
from gateway.watching import cooling_down, given_again, require_warm, top_class_only, watch, with_earlier
from serving.errors import BackendTimedOut, BackendUnavailable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from gateway.admission.budget import Charges
    from gateway.auth.principal import Presented
    from gateway.judgement import Judgement
    from gateway.outgoing import KeptBack
    from gateway.record import Record
    from gateway.segmentation.isolation import Isolations
    from gateway.state import Active, Gateway, ModelRules, Served

Tensors = Mapping[str, np.ndarray[Any, Any]]
NO_SCORES = np.empty(0)


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
    budget = active.budgets[principal.name]
    record.ticket = gw.concurrency.enter(budget)
    charges = budget.request_charges
    if gw.shared is not None and record.right in PUBLIC_METHODS:  # they take nothing from the shared limits
        charges = kept_here(charges)
    spend(record, charges, authenticated_ns, gw)
    record.stage("admit", gw.clock_ns() - authenticated_ns)


async def answer(record: Record, body: bytes, active: Active, gw: Gateway) -> Answer:
    """Decode, route, charge and queue one inference, or repeat its answer; returns when its record is durable.

    Where gateways share limits, it waits once for them, with all that the inference costs.
    """
    began_ns = record.body_ns = gw.clock_ns()
    principal = record.caller()
    budget = active.budgets[principal.name]
    try:
        message = codec.parse(body, gw.codec_limits)
        record.client_id = message.id
        rules = route(record, message.model_name, message.model_version, active)
        served = rules.served
        require_loaded(served)
        require_warm(record, rules, record.time_ns)
        outputs = rules.outputs_for(principal.roles)
        request = codec.decode(message, served.bundle.inputs, outputs, gw.codec_limits)
        given = rules.given(outputs)
        if len(given) < len(rules.outputs):
            request = request.naming(given)
        record.rows = request.rows
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
    if record.deadline_ns is not None and kept is None:
        served.service_time.require(record.deadline_ns - queued_ns, served.batcher.queued_rows, queued_ns)
    future: asyncio.Future[Answer] = gw.loop.create_future()
    capture = narrower(rules.capture, active.tenant_capture[principal.tenant])
    if capture != "none":
        gw.room.enter(record, len(body))
    item = Item(record, request, rules, queued_ns, body, capture, future, cache_key=key)
    if kept is None:
        served.batcher.submit(item, rows=request.rows, nbytes=len(body), lane=principal.lane, flow=principal.tenant)
    else:
        repeat(item, kept, gw)
    record.claimed = True
    return await future


@dataclass(frozen=True, slots=True)
class Inferred:
    """Rows with what the model said of them, and how long it took. `starts` holds the first row of each request."""

    inputs: Tensors
    starts: np.ndarray[Any, np.dtype[np.intp]]
    outputs: Tensors
    took_ns: int


def answer_batch(items: Sequence[Item], gw: Gateway) -> None:
    """Answer everything that was waiting for one model; raises nothing for a bad request."""
    taken_ns = gw.clock_ns()
    wanted = [item for item in items if still_wanted(item, taken_ns, gw.isolations)]
    served = items[0].rules.served
    batch_id = served.counters.next_batch()
    groups = [(rules, list(alike)) for rules, alike in groupby(wanted, key=attrgetter("rules"))]
    offload = served.offload
    if offload is None or len(groups) != 1 or sum(item.request.rows for item in wanted) < offload.rows_min:
        for rules, alike in groups:
            answer_alike(alike, rules, batch_id, gw)
        settle(items, taken_ns, gw)
        return
    [(rules, alike)] = groups

    def rest(inferring: Future[Inferred]) -> None:
        answer_alike(alike, rules, batch_id, gw, inferring.result)
        settle(items, taken_ns, gw)

    inferring = offload.pool.submit(infer_alike, alike, rules, gw)
    inferring.add_done_callback(lambda done: offload.resume(items, partial(rest, done)))


def answer_alike(
    items: list[Item],
    rules: ModelRules,
    batch_id: int,
    gw: Gateway,
    inferred: Callable[[], Inferred] | None = None,
) -> None:
    """Answer requests for one model under one version of the policy; when that fails for several, each alone.

    `inferred` returns, or raises, what inference in another thread gave.
    """
    inferred = inferred or partial(infer_alike, items, rules, gw)
    try:
        outcomes = judge_alike(items, rules, inferred(), batch_id, gw)
    except (BackendUnavailable, BackendTimedOut) as problem:
        log_failure(gw.log, items[0].record.id, problem)
        for item in items:
            item.outcome = backend_refusal(problem)
    except Exception as problem:  # noqa: BLE001  an engine may be anybody's; alone, each request meets its own fault
        if len(items) == 1:
            items[0].outcome = problem if isinstance(problem, errors.Refusal) else model_error(problem, items[0], gw)
            return
        for item in items:
            answer_alike([item], rules, batch_id, gw)
    else:
        for item, outcome in zip(items, outcomes, strict=True):
            item.outcome = outcome


def infer_alike(items: Sequence[Item], rules: ModelRules, gw: Gateway) -> Inferred:
    """Run the model for these requests, in any thread."""
    inputs, starts = stack(items)
    began_ns = gw.clock_ns()
    outputs = rules.served.engine.infer(inputs)
    return Inferred(inputs, starts, outputs, gw.clock_ns() - began_ns)


def judge_alike(
    items: Sequence[Item], rules: ModelRules, inferred: Inferred, batch_id: int, gw: Gateway
) -> list[Answer | errors.Refusal]:
    """Screen the evidence, decide, harden and encode. Raises whatever went wrong."""
    began_ns = gw.clock_ns()
    inputs, starts, outputs = inferred.inputs, inferred.starts, inferred.outputs
    watched = watch(items, rules, inferred, gw.wall_ns())
    judgement = judge(rules, inputs, outputs, starts, rows_of(inputs), watched)
    again = given_again(watched, judgement.row_actions)
    judgement, metered = meter(items, rules, outputs, judgement, again, starts, gw.wall_ns())
    judged_ns = gw.clock_ns()
    shown, kept_back = leaving(with_earlier(outputs, watched, again), rules, judgement, rows_of(inputs))
    bodies = encoded(items, rules, shown)
    sound = finite_requests(shown, rules.prediction, starts)
    hardened_ns = gw.clock_ns()
    stages = {"screen": judged_ns - began_ns, "infer": inferred.took_ns, "harden": hardened_ns - judged_ns}
    rules.served.counters.ran(gw.wall_ns(), rows_of(inputs), stages)
    see(items, outputs, rules)
    gw.tally.batch(items, rules, judgement, scores_of(outputs, rules.prediction), sum(stages.values()), kept_back)
    if rules.mirror is not None:
        prediction = outputs[rules.mirror.prediction]
        gw.comparer.offer(Ran(rules, inputs, prediction, starts, inferred.took_ns, judgement.rows))
    kept_json = [None] * len(items) if kept_back is None else kept_back.by_request(starts)
    for position, item in enumerate(items):
        item.record.batch(batch_id, position, len(items), rows_of(inputs))
        item.record.judged(judgement, position)
        item.record.output_json = kept_json[position]
        item.record.budget_json = None if metered is None else metered.budget_json(position)
        item.record.stages(stages)
    repeats = set(np.searchsorted(starts, again, side="right") - 1)
    return [
        budget_spent()
        if metered is not None and metered.spent(position)
        else outcome_of(action, good, body, rules, repeated=position in repeats)
        for position, (action, good, body) in enumerate(zip(judgement.actions, sound, bodies, strict=True))
    ]


def leaving(outputs: Tensors, rules: ModelRules, judgement: Judgement, rows: int) -> tuple[Tensors, KeptBack | None]:
    """Return the outputs as they may leave, and what was kept back of them."""
    allowed, kept_back = within(outputs, rules, rows)
    softened = soften(allowed, judgement.row_actions, rules)
    return emptied(top_class_only(softened, judgement.row_actions, rules.prediction), kept_back, rules), kept_back


def encoded(items: Sequence[Item], rules: ModelRules, shown: Tensors) -> list[bytes]:
    """Return each request's reply."""
    bundle = rules.served.bundle
    return codec.encode_batch(
        [item.request for item in items],
        bundle.name,
        bundle.version,
        {spec.name: shown[spec.name] for spec in rules.outputs},
        rules.datatypes,
        class_names=bundle.class_names,
    )


def model_error(problem: Exception, item: Item, gw: Gateway) -> errors.ModelError:
    """Return what the caller is told of a fault of the model or of our own; the log says where it was."""
    log_failure(gw.log, item.record.id, problem)
    return errors.ModelError()


def backend_refusal(problem: BackendUnavailable | BackendTimedOut) -> errors.Refusal:
    """Return what the caller is told when who runs the model gave no answer."""
    return errors.BackendTimedOut() if isinstance(problem, BackendTimedOut) else errors.BackendUnavailable()


def outcome_of(
    action: int, sound: bool, body: bytes, rules: ModelRules, *, repeated: bool = False
) -> Answer | errors.Refusal:
    """Turn the decision on one request into its answer, or its refusal. `repeated`: it got an earlier answer."""
    if action == Action.REFUSE:
        return errors.InputRejected()
    if action == Action.COOL_DOWN:
        return cooling_down()
    if not sound:
        return errors.ModelError()
    decision = DECISIONS[given_as(Action(action), repeated=repeated)]
    return Answer(body, decision, decision if rules.reveal_verdict else None)


def given_as(action: Action, *, repeated: bool) -> Action:
    """Return what was done to an answer, as the record says it: an account's step may ask for more than came of it."""
    if action < Action.TOP1 and repeated:
        return Action.NEIGHBOUR
    return Action.HARDEN if action in {Action.NEIGHBOUR, Action.PROOF_OF_WORK} else action


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


def still_wanted(item: Item, now_ns: int, isolations: Isolations) -> bool:
    """Say whether somebody waits who may have the answer; what else there is gets no model work, only its record."""
    item.record.stage("queue", now_ns - item.queued_ns)
    if item.record.late(now_ns):  # gRPC cancels a call at its deadline, so this is asked first
        item.outcome = errors.DeadlinePassed()
    elif item.answer.cancelled():
        item.outcome = errors.Cancelled()
    elif isolations.of(item.record.caller(), item.record.time_ns) is not None:
        item.outcome = errors.Isolated()
    return item.outcome is None


def stack(items: Sequence[Item]) -> tuple[Tensors, np.ndarray[Any, np.dtype[np.intp]]]:
    """Return the inputs of all items row on row, and the first row of each item."""
    if len(items) == 1:
        return items[0].request.inputs, np.zeros(1, np.intp)
    names = items[0].request.inputs
    inputs = {name: np.concatenate([item.request.inputs[name] for item in items]) for name in names}
    starts = np.zeros(len(items), np.intp)
    np.cumsum([item.request.rows for item in items[:-1]], out=starts[1:])
    return inputs, starts


def rows_of(inputs: Tensors) -> int:
    """Return the number of rows of a batch."""
    return len(next(iter(inputs.values())))


def scores_of(outputs: Mapping[str, Any], prediction: str | None) -> np.ndarray[Any, Any]:
    """Return how sure the model was of each row: the largest number of its prediction. Without one, nothing."""
    return NO_SCORES if prediction is None else outputs[prediction].max(axis=1)


def finite_requests(outputs: Mapping[str, Any], prediction: str | None, starts: np.ndarray[Any, Any]) -> list[bool]:
    """Say of each request whether its prediction is made of numbers; a model that answers NaN has failed.

    Without a prediction all its outputs have to be.
    """
    looked_at = outputs.values() if prediction is None else [outputs[prediction]]
    finite = np.ones(len(next(iter(outputs.values()))), np.bool_)
    for values in looked_at:
        if values.dtype.kind == "f":
            finite &= np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return [True] * len(starts) if finite.all() else np.logical_and.reduceat(finite, starts).tolist()

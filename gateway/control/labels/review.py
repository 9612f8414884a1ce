"""The admin port's methods about labels: see them, decide on them, take a batch for a trainer, say what became of it.

A trainer asks for a batch over this port and hands back a verdict: the host that serves never holds the key that signs
models, and whoever trains needs no more than an operator's certificate. What is asked for stands in the log before it
is done: a decision, a batch that is taken, and what became of it are `admin` entries with who asked.

Taking a batch is where what single items do not show is looked at: a tenant or a principal whose items contradict
trusted rows more often than right ones can is suspected, and all its items go into quarantine; of the rest nobody has
more than his share of the update.
"""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from defenses.labels.feedback import CALIBRATION_ROWS_MIN, capped, right_rate_max, suspects
from gateway.control.labels.evaluation import MICRO, evaluated_all
from gateway.control.orders import order_of, text_of, told_to
from gateway.errors import ArgumentInvalid, ScreenUnavailable
from gateway.request.completion import log_failure
from gateway.request.labels.rows import ALLOWED, STATES
from gateway.request.labels.store import FILE, FeedbackStore
from serving.bundles.manifest import CLASSES_MAX
from stockade.v1 import feedback_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from google.protobuf.message import Message

    from gateway.control.desk import Desk
    from gateway.control.orders import Order
    from gateway.edge.service import Call
    from gateway.models.rules import FeedbackRules
    from gateway.policy.feedback import Feedback
    from gateway.request.item import Answer
    from gateway.request.labels.rows import Held
    from gateway.request.labels.transaction import Transaction

T = TypeVar("T")

LISTED_MAX = 1_000
LISTED_DEFAULT = 100
DECIDED_MAX = 50  # ids that fit into a detail of an entry
BATCH_ITEMS_MAX = 8_000
TRUSTED_ROWS_MAX = 10_000_000
SUSPECT, BATCH_CHECK = "SUSPECT", "BATCH_CHECK"
OUTCOMES = ("learned", "dropped")
NAME_CHARACTERS_MAX = 128
LATENT_BYTES = 2


@dataclass(frozen=True, slots=True)
class Taken:
    """A batch: its number, its items, how many allowed ones are left for later, and who is suspected."""

    batch: int
    items: Sequence[Held]
    capped: int
    suspects: Sequence[str]


@dataclass(frozen=True, slots=True)
class Review:
    """The methods, for one control plane."""

    desk: Desk

    async def list_items(self, request: pb.ListFeedbackRequest, call: Call) -> Message:
        if request.state and request.state not in STATES:
            raise ArgumentInvalid("state", f"must be one of {', '.join(STATES)}")
        count = min(request.count_max or LISTED_DEFAULT, LISTED_MAX)

        def read() -> list[Held]:
            store = store_of(self.desk)
            if request.id:
                found = store.item(request.id)
                return [found] if found is not None else []
            chosen = {"model": request.model, "tenant": request.tenant, "state": request.state}
            return store.listed(**chosen, after=request.after, count=count)

        held = await in_thread(read, call)
        return pb.ListFeedbackResponse(items=[item_message(each) for each in held])

    async def decide(self, request: pb.DecideFeedbackRequest, call: Call) -> Message:
        order = order_of(call, request.reason, "")
        if not 1 <= len(request.ids) <= DECIDED_MAX or any(each <= 0 for each in request.ids):
            raise ArgumentInvalid("ids", f"must be 1 to {DECIDED_MAX} ids of items")
        if request.decision not in ("release", "reject"):
            raise ArgumentInvalid("decision", 'must be "release" or "reject"')
        await say(self.desk, order, f"feedback-{request.decision}", {"ids": ",".join(map(str, request.ids))})

        def change() -> int:
            with store_of(self.desk).transaction() as step:
                if request.decision == "reject":
                    return step.reject(request.ids, order.reason)
                return step.move(request.ids, states=("quarantined",), to="released", reason=order.reason)

        return pb.DecideFeedbackResponse(changed=await in_thread(change, call))

    async def take(self, request: pb.TakeFeedbackBatchRequest, call: Call) -> Message:
        model = self.desk.fleet.policy.models.get(request.model)
        if model is None or model.feedback is None:
            raise ArgumentInvalid("model", "is not a model that takes labels")
        version = text_of("version", request.version, NAME_CHARACTERS_MAX, empty=False)
        if request.trusted_rows > TRUSTED_ROWS_MAX:
            raise ArgumentInvalid("trusted_rows", f"must be at most {TRUSTED_ROWS_MAX}")
        order = order_of(call, "an update", "")
        about = {"model": request.model, "version": version, "trusted_rows": str(request.trusted_rows)}
        await say(self.desk, order, "feedback-batch-taken", about)
        gw, feedback = self.desk.gw, model.feedback
        seed, now_ns, loaded = gw.new_id(), gw.wall_ns(), gw.active.models.get((request.model, version))
        rules = None if loaded is None else loaded.feedback

        def change() -> Taken:
            with store_of(self.desk).transaction() as step:
                return take_batch(
                    step,
                    (request.model, version),
                    feedback,
                    rate_max=rate_max_of(feedback, rules),
                    trusted_rows=request.trusted_rows,
                    rng=np.random.default_rng(int.from_bytes(seed, "big")),
                    now_ns=now_ns,
                )

        taken = await in_thread(change, call)
        reply = pb.TakeFeedbackBatchResponse(batch=taken.batch, capped=taken.capped, suspects=taken.suspects)
        for each in taken.items:
            reply.items.add(
                id=each.id, label=each.label, latent=each.latent, tenant=each.tenant, principal=each.principal
            )
            reply.width = len(each.latent) // LATENT_BYTES
        return reply

    async def close(self, request: pb.CloseFeedbackBatchRequest, call: Call) -> Message:
        order = order_of(call, request.reason, "")
        if request.outcome not in OUTCOMES:
            raise ArgumentInvalid("outcome", f"must be one of {', '.join(OUTCOMES)}")
        if len(request.quarantined) > BATCH_ITEMS_MAX:
            raise ArgumentInvalid("quarantined", f"must be at most {BATCH_ITEMS_MAX}")
        candidate = text_of("version", request.version, NAME_CHARACTERS_MAX)
        digest = text_of("digest", request.digest, NAME_CHARACTERS_MAX)
        about = {"batch": str(request.batch), "quarantined": str(len(request.quarantined))}
        about |= {name: text for name, text in (("version", candidate), ("digest", digest)) if text}
        await say(self.desk, order, f"feedback-batch-{request.outcome}", about)

        def change() -> int:
            with store_of(self.desk).transaction() as step:
                step.move(request.quarantined, states=("taken",), to="quarantined", reason=BATCH_CHECK)
                return step.close_batch(request.batch, request.outcome, order.reason, candidate)

        items = await in_thread(change, call)
        if items < 0:
            raise ArgumentInvalid("batch", "is not a batch that is open")
        return pb.CloseFeedbackBatchResponse(items=items)

    async def status(self, _: pb.FeedbackStatusRequest, call: Call) -> Message:
        policy, now_ns = self.desk.fleet.policy, self.desk.gw.wall_ns()

        def read() -> Message:
            store = store_of(self.desk)
            reply = pb.FeedbackStatusResponse(answers=store.answers())
            for model, state, items in store.counts():
                reply.counts.add(model=model, state=state, items=items)
            for (model, version), (right, labels) in store.agreements().items():
                reply.agreements.add(model=model, version=version, right=right, labels=labels)
            for each in evaluated_all(store, policy, now_ns):
                facts = {"labels": each.labels, "right": each.right, "source": each.source}
                error_micro = round(each.calibration_error * MICRO)
                reply.evaluations.add(
                    model=each.model, version=each.version, calibration_error_micro=error_micro, **facts
                )
            for number, model, version, items, state, reason, candidate in store.batches():
                facts = {"items": items, "state": state, "reason": reason, "candidate": candidate}
                reply.batches.add(id=number, model=model, version=version, **facts)
            return reply

        return await in_thread(read, call)


def review_methods(desk: Desk) -> dict[str, Callable[[Call, bytes], Awaitable[Answer]]]:
    """Return the methods by their names."""
    review = Review(desk)
    return {
        "ListItems": told_to(pb.ListFeedbackRequest, review.list_items),
        "DecideItems": told_to(pb.DecideFeedbackRequest, review.decide),
        "TakeBatch": told_to(pb.TakeFeedbackBatchRequest, review.take),
        "CloseBatch": told_to(pb.CloseFeedbackBatchRequest, review.close),
        "FeedbackStatus": told_to(pb.FeedbackStatusRequest, review.status),
    }


def store_of(desk: Desk) -> FeedbackStore:
    """Return the host's file of labels. Blocks."""
    return FeedbackStore(desk.fleet.place.memory.with_name(FILE))


async def in_thread(work: Callable[[], T], call: Call) -> T:
    """Do what blocks elsewhere. ScreenUnavailable where the file cannot be used."""
    try:
        return await asyncio.to_thread(work)
    except (sqlite3.Error, OSError) as problem:
        log_failure(call.gw.log, call.record.id, problem)
        raise ScreenUnavailable from problem


async def say(desk: Desk, order: Order, action: str, detail: dict[str, str]) -> None:
    """Record that an operator asked for something, before it is done. Raises AuditUnavailable."""
    about = {**detail, "reason": order.reason, "request": order.request}
    await desk.record("admin", action=action, administrator=order.administrator, detail=about, outcome="done")


def rate_max_of(feedback: Feedback, rules: FeedbackRules | None) -> float:
    """Return how often right labels contradict trusted rows at most.

    Of a version that is gone (no `rules`) that is by the most classes and the fewest rows of each that there can be.
    """
    if rules is None:
        return right_rate_max([CALIBRATION_ROWS_MIN] * CLASSES_MAX, feedback.inconsistent_alpha)
    return rules.consistency.right_rate_max(feedback.inconsistent_alpha)


def take_batch(
    step: Transaction,
    model: tuple[str, str],
    feedback: Feedback,
    *,
    rate_max: float,
    trusted_rows: int,
    rng: np.random.Generator,
    now_ns: int,
) -> Taken:
    """Take what is allowed of a (model, version) as one batch; `rate_max` is what `suspects` wants to know."""
    rates = step.rates(*model)
    p_values = np.array([p_micro for _, _, p_micro in rates]) / 1e6
    tenants, principals = [tenant for tenant, _, _ in rates], [f"{tenant}/{name}" for tenant, name, _ in rates]
    found = {
        who
        for names in (tenants, principals)
        for who in suspects(names, p_values, feedback.inconsistent_alpha, rate_max)
    }
    allowed = step.allowed(*model)
    doubted = [
        each.id
        for each in allowed
        if each.state == "accepted" and {each.tenant, f"{each.tenant}/{each.principal}"} & found
    ]  # somebody looked at the released ones
    step.move(doubted, states=ALLOWED, to="quarantined", reason=SUSPECT)
    left = [each for each in allowed if each.id not in set(doubted)]
    left = [left[place] for place in sorted(rng.permutation(len(left))[:BATCH_ITEMS_MAX].tolist())]
    kept = capped(
        [each.tenant for each in left],
        [each.principal for each in left],
        trusted_rows,
        tenant_share_max=feedback.tenant_share_max,
        principal_share_max=feedback.principal_share_max,
        rng=rng,
    )
    chosen = [each for each, keep in zip(left, kept.tolist(), strict=True) if keep]
    batch = step.open_batch(*model, len(chosen), now_ns)
    step.move([each.id for each in chosen], states=ALLOWED, to="taken", reason="", batch=batch)
    remaining = len(allowed) - len(doubted) - len(chosen)
    return Taken(batch, chosen, remaining, sorted(found))


def item_message(item: Held) -> pb.HeldItem:
    """Return an item as operators see it."""
    return pb.HeldItem(
        id=item.id,
        state=item.state,
        reason=item.reason,
        request_id=item.request.hex(),
        row=item.row,
        model=item.model,
        version=item.version,
        tenant=item.tenant,
        principal=item.principal,
        label=item.name,
        answered=item.answered,
        p_micro=item.p_micro,
        outcome_unix_ns=item.outcome_ns,
        received_unix_ns=item.received_ns,
        key=item.key,
        batch=item.batch,
    )

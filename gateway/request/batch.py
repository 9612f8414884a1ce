"""What becomes of the requests that waited for one model together: infer, screen, decide, harden, encode, record.

`answer_batch` is the third function of a request's life; `gateway.request.pipeline` tells of the first two and of the
rules. Vectorised over the rows of all requests; the steps of `judge_alike` hand each other what they found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from defenses.budget.policy import Action
from gateway import codec, errors
from gateway.models.rotation import rotate_outputs
from gateway.request.comparison import Ran
from gateway.request.completion import settle
from gateway.request.inference import infer_alike, refusal_of
from gateway.request.item import Answer, Item
from gateway.request.judgement import DECISIONS, judge, soften
from gateway.request.labels.answers import see
from gateway.request.metering import budget_spent, meter
from gateway.request.outgoing import emptied, within
from gateway.request.watching import cooling_down, given_again, top_class_only, watch, with_earlier

if TYPE_CHECKING:
    from gateway.auth.isolation import Isolations
    from gateway.models.metering import Metered
    from gateway.models.rules import ModelRules
    from gateway.models.served import Offload
    from gateway.models.watching import Watched
    from gateway.request.gateway import Gateway
    from gateway.request.inference import Batch, Tensors
    from gateway.request.judgement import Judgement
    from gateway.request.outgoing import KeptBack

T = TypeVar("T")

NO_SCORES = np.empty(0)
SOFTENED = {Action.NEIGHBOUR: Action.HARDEN, Action.PROOF_OF_WORK: Action.HARDEN}
"""What comes of a step that asks for more: an answer of its own, and a proof that was taken at the door."""
GIVEN = tuple(DECISIONS[SOFTENED.get(action, action)] for action in Action)
"""What was done to an answer, as the record says it, by the action."""
GIVEN_AGAIN = tuple(DECISIONS[Action.NEIGHBOUR if action < Action.TOP1 else action] for action in Action)
"""The same where the caller got an earlier answer."""


def answer_batch(items: Sequence[Item], gw: Gateway) -> None:
    """Answer everything that was waiting for one model; raises nothing for a bad request."""
    taken_ns = gw.clock_ns()
    wanted = [item for item in items if still_wanted(item, taken_ns, gw.isolations)]
    served = items[0].rules.served
    batch_id = served.counters.next_batch()
    offload = served.offload

    def run() -> list[Batch]:
        groups = [list(alike) for _, alike in groupby(wanted, key=attrgetter("rules"))]
        return [batch for alike in groups for batch in infer_alike(alike, batch_id, gw)]

    def conclude(batches: list[Batch]) -> None:
        left = [batch for batch in batches if not judged(batch, gw)]
        if left and offload is not None:
            in_thread(offload, items, partial(judge_each, left, gw), lambda _: settle(items, taken_ns, gw))
            return
        judge_each(left, gw)
        settle(items, taken_ns, gw)

    if offload is None or sum(item.request.rows for item in wanted) < offload.rows_min:
        conclude(run())
    else:
        in_thread(offload, items, run, conclude)


def in_thread(offload: Offload, items: Sequence[Item], work: Callable[[], T], then: Callable[[T], None]) -> None:
    """Do `work` in the model's thread, and `then` go on with what came of it; what either raises fails the batch."""
    working = items[0].rules.served.pool.submit(work)
    working.add_done_callback(lambda done: offload.resume(items, lambda: then(done.result())))


def judged(batch: Batch, gw: Gateway) -> bool:
    """Judge what was inferred, and say whether its requests have their outcomes now: one that is alone always has."""
    try:
        outcomes = judge_alike(batch, gw)
    except Exception as problem:  # noqa: BLE001  it may be one request's fault, and is all the others' then
        if len(batch.items) > 1:
            return False
        outcomes = [refusal_of(problem, batch.items[0], gw)]
    for item, outcome in zip(batch.items, outcomes, strict=True):
        item.outcome = outcome
    return True


def judge_each(batches: Sequence[Batch], gw: Gateway) -> None:
    """Judge each request of batches that cannot be judged as a whole, by what the model gave for it. In any thread."""
    for batch in batches:
        for alone in batch.by_request():
            judged(alone, gw)


class Screened(NamedTuple):
    """What the screens, the watch and the budget said of a batch. `again` are rows that get an earlier answer."""

    judgement: Judgement
    watched: Watched | None
    metered: Metered | None
    again: list[int]


class Leaving(NamedTuple):
    """What may leave of a batch: the outputs, each request's reply and whether it is sound, what was kept back."""

    outputs: Tensors
    bodies: list[bytes]
    sound: list[bool]
    kept_back: KeptBack | None


def judge_alike(batch: Batch, gw: Gateway) -> list[Answer | errors.Refusal]:
    """Screen the evidence, decide, harden and encode. Raises whatever went wrong."""
    began_ns = gw.clock_ns()
    screened = screen_alike(batch, gw.wall_ns())
    judged_ns = gw.clock_ns()
    leaving = harden_alike(batch, screened)
    hardened_ns = gw.clock_ns()
    stages = {"screen": judged_ns - began_ns, "infer": batch.inferred.took_ns, "harden": hardened_ns - judged_ns}
    note_batch(batch, screened, leaving, stages, gw)
    note_requests(batch, screened, leaving, stages)
    return outcomes_of(batch, screened, leaving)


def screen_alike(batch: Batch, now_ns: int) -> Screened:
    """Let everything that watches look at a batch, and decide."""
    items, rules, inferred = batch
    outputs, starts = inferred.outputs, inferred.starts
    watched = watch(items, rules, inferred, now_ns)
    judgement = judge(rules, inferred.inputs, outputs, starts, inferred.rows, watched=watched)
    again = given_again(watched, judgement.row_actions)
    judgement, metered = meter(items, rules, judgement, outputs=outputs, repeated=again, starts=starts, now_ns=now_ns)
    return Screened(judgement, watched, metered, again)


def harden_alike(batch: Batch, screened: Screened) -> Leaving:
    """Return the outputs as they may leave, and the replies made of them."""
    items, rules, inferred = batch
    row_actions = screened.judgement.row_actions
    given = with_earlier(inferred.outputs, screened.watched, screened.again)
    allowed, kept_back = within(given, rules, inferred.rows)
    softened = soften(allowed, row_actions, rules)
    left = emptied(top_class_only(softened, row_actions, rules.prediction), kept_back, rules)
    outputs = rotate_outputs(left, rules.rotations, (item.record.caller().tenant for item in items), inferred.starts)
    sound = finite_requests(outputs, rules.prediction, inferred.starts)
    return Leaving(outputs, encoded(items, rules, outputs), sound, kept_back)


def note_batch(batch: Batch, screened: Screened, leaving: Leaving, stages: dict[str, int], gw: Gateway) -> None:
    """Tell all who count, remember or compare that a batch has run."""
    items, rules, inferred = batch
    outputs, judgement = inferred.outputs, screened.judgement
    rules.served.counters.ran(gw.wall_ns(), inferred.rows, stages)
    see(items, outputs, rules)
    scores = scores_of(outputs, rules.prediction)
    compute_ns = sum(stages.values())
    gw.tally.batch(items, rules, inferred.inputs, judgement, scores, compute_ns=compute_ns, kept_back=leaving.kept_back)
    if rules.mirror is not None:
        prediction = outputs[rules.mirror.prediction]
        gw.comparer.offer(Ran(rules, inferred.inputs, prediction, inferred.starts, inferred.took_ns, judgement.rows))


def note_requests(batch: Batch, screened: Screened, leaving: Leaving, stages: dict[str, int]) -> None:
    """Write what became of each request into its record."""
    items, inferred, judgement = batch.items, batch.inferred, screened.judgement
    metered, kept_back = screened.metered, leaving.kept_back
    kept_json = [None] * len(items) if kept_back is None else kept_back.by_request(inferred.starts)
    for position, item in enumerate(items):
        record = item.record
        record.judged(judgement.screens_json[position], judgement.accounts_json[position])
        record.output_json = kept_json[position]
        record.budget_json = None if metered is None else metered.budget_json(position)
        record.stages(stages)


def outcomes_of(batch: Batch, screened: Screened, leaving: Leaving) -> list[Answer | errors.Refusal]:
    """Return the answer, or the refusal, of each request."""
    again, starts, rules = screened.again, batch.inferred.starts, batch.rules
    repeats = set(np.searchsorted(starts, again, side="right") - 1) if again else ()
    metered = screened.metered
    return [
        budget_spent()
        if metered is not None and metered.spent(position)
        else outcome_of(action, good, body, rules, repeated=position in repeats)
        for position, (action, good, body) in enumerate(
            zip(screened.judgement.actions, leaving.sound, leaving.bodies, strict=True)
        )
    ]


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
    decision = GIVEN_AGAIN[action] if repeated else GIVEN[action]
    return Answer(body, decision, decision if rules.reveal_verdict else None)


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


def scores_of(outputs: Mapping[str, Any], prediction: str | None) -> np.ndarray[Any, Any]:
    """Return how sure the model was of each row: the largest number of its prediction. Without one, nothing."""
    return NO_SCORES if prediction is None else outputs[prediction].max(axis=1)


def finite_requests(outputs: Mapping[str, Any], prediction: str | None, starts: np.ndarray[Any, Any]) -> list[bool]:
    """Say of each request whether its prediction is made of numbers; a model that answers NaN has failed.

    Without a prediction all its outputs have to be.
    """
    looked_at = outputs.values() if prediction is None else [outputs[prediction]]
    finite = [np.isfinite(values) for values in looked_at if values.dtype.kind == "f"]
    if all(each.all() for each in finite):
        return [True] * len(starts)
    rows = np.logical_and.reduce([each.reshape(len(each), -1).all(axis=1) for each in finite])
    sound: list[bool] = np.logical_and.reduceat(rows, starts).tolist()
    return sound

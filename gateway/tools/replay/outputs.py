"""Level R2: what was computed, computed again from the payloads that were kept.

A batch is put together as it was: the same requests in the same order, so that the runtime meets the same shapes. Then
the gateway's own code judges, hardens and encodes, and the bytes are compared with those that were sent. They are to be
equal on the reference path, ONNX Runtime on the CPU, on a machine of the same kind. An answer that is not equal may be
off by `alike.TOLERANCE` in its floats, and is counted apart: where a payload of the batch was not kept it cannot be put
together, and another engine, or another kind of processor, adds in another order.

What came from the state of the time is not done again, and said so: answers that were given again, and requests of
several rows, some of which a budget cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from msgspec import UnsetType

from defenses.budget.policy import Action, Mode
from defenses.extraction.budget import BudgetStep
from gateway import codec, errors
from gateway.models.compile import PREDICTION
from gateway.models.metering import ACTIONS as BUDGET_ACTIONS
from gateway.models.rotation import rotate_outputs
from gateway.request.judgement import judge, soften
from gateway.request.outgoing import emptied, within
from gateway.request.pipeline import requested
from gateway.request.watching import top_class_only
from gateway.tools.replay.decisions import identity_of, recorded_screens
from gateway.tools.replay.rulebooks import NotReplayed
from serving.errors import ServingError
from stockade.open_inference.grpc_service_pb2 import ModelInferResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gateway.auth.principal import Principal
    from gateway.codec import InferRequest
    from gateway.models.rules import ModelRules
    from gateway.request.judgement import Judgement
    from gateway.tools.replay.history import Findings, History, Recorded
    from gateway.tools.replay.rulebooks import Payloads, Rulebook, Rulebooks

    Tensors = Mapping[str, np.ndarray[Any, Any]]


REFERENCE = "inprocess"


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """What the model and the screens say of a batch, row on row.

    `tenants` are who asked, and `starts` the first row of each request.
    """

    requests: Sequence[InferRequest]
    tenants: Sequence[str]
    starts: np.ndarray[Any, np.dtype[np.intp]]
    inputs: Tensors
    outputs: Tensors
    judgement: Judgement

    def answer(self, position: int, rules: ModelRules, step: Action) -> tuple[bytes, Tensors]:
        """Return one request's answer and what stands in it. `step` is what its account had come to."""
        request, first = self.requests[position], int(self.starts[position])
        span = slice(first, first + request.rows)
        actions = self.judgement.row_actions.copy()
        actions[span] = np.maximum(actions[span], step)
        allowed, kept_back = within(self.outputs, rules, len(actions))
        left = emptied(top_class_only(soften(allowed, actions, rules), actions, rules.prediction), kept_back, rules)
        shown = rotate_outputs(left, rules.rotations, self.tenants, self.starts)
        bundle = rules.served.bundle
        given = {spec.name: shown[spec.name][span] for spec in rules.outputs}
        body = codec.encode(
            request, bundle.name, bundle.version, given, rules.datatypes, class_names=bundle.class_names
        )
        return body, given


def compute(bodies: Sequence[tuple[bytes, Principal]], rules: ModelRules, payloads: Payloads) -> Computed:
    """Run these requests, each with who asked, as one batch. Raises NotReplayed."""
    try:
        requests = [
            requested(codec.parse(body, payloads.limits), rules, who.roles, payloads.limits) for body, who in bodies
        ]
    except errors.Refusal as problem:
        raise NotReplayed("the model does not take the request") from problem
    starts = np.cumsum([0, *(request.rows for request in requests[:-1])], dtype=np.intp)
    names = requests[0].inputs
    inputs = {name: np.concatenate([request.inputs[name] for request in requests]) for name in names}
    if len(requests) == 1:
        inputs = dict(requests[0].inputs)
    try:
        outputs = payloads.engine(rules.served.bundle).infer(inputs)
        judgement = judge(rules, inputs, outputs, starts, len(next(iter(inputs.values()))))
    except (errors.Refusal, ServingError) as problem:
        raise NotReplayed("the model or a screen fails on it here") from problem
    return Computed(requests, [who.tenant for _, who in bodies], starts, inputs, outputs, judgement)


def outputs_again(
    history: History, books: Rulebooks, payloads: Payloads, found: Findings, progress: Callable[[int, int], None]
) -> None:
    """Compute every answer of the chosen requests again, batch by batch, and compare."""
    batches = [batch for batch in batches_of(history) if any(one.chosen for one in batch)]
    for done, batch in enumerate(batches, 1):
        for group, exact in together(batch, payloads):
            try:
                compare_batch(group, books.need(batch[0].entry.policy), payloads, found, exact=exact)
            except NotReplayed as why:
                for one in group:
                    if one.chosen:
                        found.skip("scores", str(why))
                        found.skip("output", str(why))
        progress(done, len(batches))


def batches_of(history: History) -> Iterator[list[Recorded]]:
    """Yield the requests of each batch by their place in it. Some of them may be missing."""
    open_batches: dict[tuple[object, ...], dict[int, Recorded]] = {}
    for one in history.records:
        entry = one.entry
        if isinstance(entry.batch, UnsetType):
            continue
        batch = entry.batch
        key = entry.gateway, one.model, entry.policy, batch.id, batch.size, batch.rows
        if batch.position in open_batches.get(key, {}):  # numbers of batches begin again with the process
            yield in_order(open_batches.pop(key))
        members = open_batches.setdefault(key, {})
        members[batch.position] = one
        if len(members) == batch.size:
            yield in_order(open_batches.pop(key))
    yield from map(in_order, open_batches.values())


def in_order(members: Mapping[int, Recorded]) -> list[Recorded]:
    """Return the requests of a batch by their place in it."""
    return [members[position] for position in sorted(members)]


def together(batch: list[Recorded], payloads: Payloads) -> Iterator[tuple[list[Recorded], bool]]:
    """Yield what is run as one, and whether that is the batch as it was: else each request is run alone."""
    ran, model = batch[0].entry.batch, batch[0].entry.model
    assert not isinstance(ran, UnsetType), "it is of a batch"
    try:
        whole = len(batch) == ran.size
        for one in batch:
            payloads.read(one, "request")
    except NotReplayed:
        whole = False
    if whole:
        assert not isinstance(model, UnsetType), "a model ran it"
        yield batch, model.engine == REFERENCE
    else:
        yield from (([one], False) for one in batch if one.chosen)


def compare_batch(
    batch: Sequence[Recorded], book: Rulebook, payloads: Payloads, found: Findings, *, exact: bool
) -> None:
    """Compare scores and answers of one batch. Raises NotReplayed."""
    model = batch[0].entry.model
    assert not isinstance(model, UnsetType), "it was judged"
    rules = book.active.models.get((model.name, model.version))
    if rules is None or rules.served.bundle.digest != model.digest:
        raise NotReplayed("the bundle that was served is not here")
    bodies = [(payloads.read(one, "request"), asker_of(one, book)) for one in batch]
    computed = compute(bodies, rules, payloads)
    for position, one in enumerate(batch):
        if not one.chosen:
            continue
        compare_scores(one, computed.judgement, position, rules, found, exact=exact)
        try:
            answered = payloads.read(one, "response")
            again, _ = computed.answer(position, rules, step_of(one, rules))
        except NotReplayed as why:
            found.skip("output", "there was no answer" if one.entry.kind != "served" else str(why))
            continue
        if again == answered:
            found.steps["output"].equal += 1
        elif close(again, answered, tolerance_of(rules)):
            found.steps["output"].within += 1
        else:
            found.differ(one, "output", sha256(answered).hexdigest()[:16], sha256(again).hexdigest()[:16])


def asker_of(one: Recorded, book: Rulebook) -> Principal:
    """Return who asked. Raises NotReplayed."""
    who = identity_of(one.entry, book)
    if isinstance(who, str):
        raise NotReplayed("the policy does not know who asked")
    return who


def step_of(one: Recorded, rules: ModelRules) -> Action:
    """Return what the account had come to. Raises NotReplayed where the answer came from the state of the time."""
    entry = one.entry
    step, again = Action.ALLOW, not isinstance(entry.cached, UnsetType)
    if not isinstance(entry.account, UnsetType) and rules.watch is not None:
        step = Action[entry.account.step.upper()] if rules.watch.mode == Mode.ENFORCE else step
        again |= entry.account.repeats > 0 and (rules.watch.consistent == Mode.ENFORCE or step >= Action.NEIGHBOUR)
    if again:
        raise NotReplayed("an earlier answer was given again")
    if isinstance(entry.budget, UnsetType) or entry.budget.mode != "enforce" or entry.budget.step == "full":
        return step
    if entry.rows != 1:
        raise NotReplayed("a budget had cut some of its rows")
    return max(step, BUDGET_ACTIONS[BudgetStep[entry.budget.step.upper()]])


def compare_scores(
    one: Recorded, judgement: Judgement, position: int, rules: ModelRules, found: Findings, *, exact: bool
) -> None:
    """Compare what the stateless screens say with what they said."""
    again = {
        screen["name"]: (screen["p_micro"], screen["score_micro"])
        for screen in orjson.loads(judgement.screens_json[position] or "[]")
    }
    recorded = {
        screen.name: (screen.p_micro, screen.score_micro)
        for screen in recorded_screens(one.entry)
        if screen.name in rules.screens
    }
    if exact or again == recorded:
        found.compare(one, "scores", recorded, again)
    else:
        found.skip("scores", "the batch could not be put together as it was")


TOLERANCE = 1e-4
FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}


def tolerance_of(rules: ModelRules) -> float:
    """Return how far an answer may be off: what is rounded may fall to the other side."""
    return TOLERANCE + (10.0**-rules.hardening.decimals if rules.hardening is not None else 0.0)


def close(one: bytes, other: bytes, tolerance: float) -> bool:
    """Say whether two answers differ in floats alone, and in those by no more than the tolerance."""
    first, second = ModelInferResponse.FromString(one), ModelInferResponse.FromString(other)
    pairs = list(zip(floats_of(first), floats_of(second), strict=False))
    if len(first.outputs) != len(second.outputs) or first != second:  # the floats were taken out of both
        return False
    return all(
        a.shape == b.shape and bool(np.isclose(a, b, rtol=0.0, atol=tolerance, equal_nan=True).all()) for a, b in pairs
    )


def floats_of(message: ModelInferResponse) -> list[np.ndarray[Any, Any]]:
    """Take the floats out of an answer; what is left of it has none."""
    taken = []
    for at, tensor in enumerate(message.outputs):
        raw = message.raw_output_contents[at] if at < len(message.raw_output_contents) else b""
        if tensor.datatype in FLOATS and raw:
            taken.append(np.frombuffer(raw, FLOATS[tensor.datatype]).astype(np.float64))
            message.raw_output_contents[at] = b""
        elif tensor.datatype in FLOATS:
            contents = tensor.contents
            taken.append(np.array([*contents.fp32_contents, *contents.fp64_contents]))
            tensor.ClearField("contents")
    return taken


def top_classes(body: bytes) -> str:
    """Return the likeliest class of each row of an answer, as numbers. Raises NotReplayed: it has no prediction."""
    message = ModelInferResponse.FromString(body)
    names = [tensor.name for tensor in message.outputs]
    if PREDICTION not in names:
        raise NotReplayed("the answer has no prediction to compare")
    tensor = message.outputs[names.index(PREDICTION)]
    classes = tensor.shape[-1] if tensor.datatype in FLOATS and tensor.shape else 0
    taken = dict(
        zip([each.name for each in message.outputs if each.datatype in FLOATS], floats_of(message), strict=True)
    )
    if not classes or taken[PREDICTION].size % classes:
        raise NotReplayed("the answer has no prediction to compare")
    return " ".join(map(str, taken[PREDICTION].reshape(-1, classes).argmax(axis=1).tolist()))

"""The output policy through the served path: what leaves, how a client sees it, what the record and the metrics say."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from defenses.budget.output import ClassRule, OutputRule, TextRule
from gateway import errors
from gateway.config.document import PolicyRejected
from gateway.models.compile_output import ABSTAINED, output_rule_of
from gateway.policy.output import Output
from gateway.request.outgoing import emptied, within
from ops.audit.log import entry
from serving.bundles.manifest import TensorSpec
from stockade.open_inference import grpc_service_pb2 as pb
from tests.e2e.caller import infer_request
from tests.gateway.rig import image, open_rig, tiny_body
from tests.serving.tiny import tiny_bundle

HARD = {"top_k": 2, "decimals": 2}


def says(outputs):
    """A model whose three classes get, by the mean of the image, 0.9 / 0.4 and 0.05 / 0.35 and the rest."""
    first = np.where(outputs["energy"] > 0.5, 0.9, 0.4)
    second = np.where(outputs["energy"] > 0.5, 0.05, 0.35)
    probabilities = np.stack([first, second, 1 - first - second], axis=1).astype(np.float32)
    return {**outputs, "probabilities": probabilities}


def governed(output, **model):
    def change(policy):
        policy["models"]["tiny"] |= {"outputs": ["probabilities", "energy"], "output": output, **model}

    return change


async def ask(rig, *values, outputs=()):
    """The reply to one row for each value."""
    request = infer_request(np.concatenate([image(value) for value in values]), model="tiny")
    for name in outputs:
        request.outputs.add(name=name)
    return await rig.ask(request.SerializeToString())


def flags(reply):
    names = [output.name for output in reply.message.outputs]
    return np.frombuffer(reply.message.raw_output_contents[names.index("abstained")], np.bool_).tolist()


async def test_a_denied_class_is_answered_by_the_best_of_the_others(made_site, tmp_path):
    async with open_rig(made_site, tmp_path, policy=governed({"deny": ["a"]}, harden=HARD)) as rig:
        rig.engine.answer = says
        reply = await ask(rig, 0.9, 0.1)
        np.testing.assert_allclose(reply.output("probabilities"), [[0, 0.5, 0.5], [0, 0.58, 0.42]], atol=1e-6)
        assert flags(reply) == [False, False]
        assert [output.name for output in reply.message.outputs] == ["probabilities", "energy", "abstained"]
        (record,) = rig.sink.records(kind="served")
        assert record["output"] == {"abstained": 0, "moved": 2}
        assert rig.counted("stockade_output_kept_back_total", model="tiny", effect="moved") == 2


async def test_an_unsure_answer_is_no_class_and_says_so(made_site, tmp_path):
    async with open_rig(made_site, tmp_path, policy=governed({"confidence_min": 0.5}, harden=HARD)) as rig:
        rig.engine.answer = says
        reply = await ask(rig, 0.9, 0.1, 0.9)
        assert reply.output("probabilities").sum(axis=1).tolist() == pytest.approx([1, 0, 1])
        assert flags(reply) == [False, True, False]
        assert rig.sink.records(kind="served")[0]["output"] == {"abstained": 1, "moved": 0}
        sure = await ask(rig, 0.9)
        assert flags(sure) == [False]
        (_, record) = rig.sink.records(kind="served")
        assert "output" not in record
        assert rig.counted("stockade_output_kept_back_total", model="tiny", effect="abstained") == 1


async def test_who_names_outputs_gets_those_and_metadata_tells_of_the_new_one(made_site, tmp_path):
    async with open_rig(made_site, tmp_path, policy=governed({"confidence_min": 0.5})) as rig:
        rig.engine.answer = says
        named = await ask(rig, 0.1, outputs=["probabilities"])
        assert [output.name for output in named.message.outputs] == ["probabilities"]
        assert not named.output("probabilities").any()
        alone = await ask(rig, 0.1, outputs=["abstained"])
        assert flags(alone) == [True]
        told = await rig.channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata")(
            pb.ModelMetadataRequest(name="tiny").SerializeToString(), metadata=rig.site.bearer("plenty")
        )
        last = pb.ModelMetadataResponse.FromString(told).outputs[-1]
        assert (last.name, last.datatype, list(last.shape)) == ("abstained", "BOOL", [-1])


async def test_an_answer_that_is_given_again_is_kept_back_again(made_site, tmp_path):
    cached = {"config": lambda config: config.update(cache={}), "policy": governed({"confidence_min": 0.5})}
    async with open_rig(made_site, tmp_path, **cached) as rig:
        rig.engine.answer = says
        first, again = await ask(rig, 0.1), await ask(rig, 0.1)
        assert flags(first) == flags(again) == [True]
        records = rig.sink.records(kind="served")
        assert [record.get("cached") is not None for record in records] == [False, True]
        assert [record["output"] for record in records] == [{"abstained": 1, "moved": 0}] * 2


async def test_a_model_that_answers_nan_has_failed_and_did_not_abstain(made_site, tmp_path):
    async with open_rig(made_site, tmp_path, policy=governed({"deny": ["c"], "confidence_min": 0.5})) as rig:
        rig.engine.answer = lambda outputs: {**says(outputs), "probabilities": np.full((1, 3), np.nan, np.float32)}
        assert (await ask(rig, 0.9)).reason == "MODEL_ERROR"


async def test_with_every_protection_off_nothing_is_kept_back(made_site, tmp_path):
    unsafe = {"config": lambda config: config.update(unsafe_unprotected=True), "policy": governed({"deny": ["a"]})}
    async with open_rig(made_site, tmp_path, **unsafe) as rig:
        rig.engine.answer = says
        reply = await ask(rig, 0.9)
        assert reply.code is grpc.StatusCode.OK
        assert reply.output("probabilities")[0].argmax() == 0


def test_what_is_recorded_is_canonical_and_by_request():
    rules = SimpleNamespace(output=OutputRule(ClassRule(None, 0.5)), prediction="probabilities")
    rows = {"probabilities": np.array([[0.9, 0.1], [0.4, 0.3], [0.3, 0.2], [0.8, 0.2]], np.float32)}
    _, kept = within(rows, rules, 4)
    found = kept.by_request(np.array([0, 1, 3]))
    assert found == [None, '{"abstained":2,"moved":0}', None]
    assert entry.canonical(json.loads(found[1])).decode() == found[1]


def test_a_text_that_may_not_leave_is_empty_and_so_is_the_class_beside_it():
    rule = OutputRule(ClassRule(None, 0.5), {"note": TextRule(10, ("secret",))})
    rules = SimpleNamespace(output=rule, prediction="probabilities")
    outputs = {
        "probabilities": np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.3]], np.float32),
        "note": np.array([[b"fine"], [b"a secret"], [b"fine"]], object),
    }
    shown, kept = within(outputs, rules, 3)
    left = emptied(shown, kept, rules)
    assert left["note"].tolist() == [[b"fine"], [b""], [b""]]
    assert left["probabilities"].any(axis=1).tolist() == [True, False, False]
    assert left["abstained"].tolist() == [False, True, True]
    assert outputs["note"].tolist() == [[b"fine"], [b"a secret"], [b"fine"]]


def test_an_output_of_another_shape_is_a_fault_of_the_model():
    rules = SimpleNamespace(output=OutputRule(ClassRule(np.ones(3, np.bool_))), prediction="probabilities")
    with pytest.raises(errors.ModelError):
        within({"probabilities": np.ones((2, 4), np.float32)}, rules, 2)


def bundle_with(*specs):
    bundle = tiny_bundle()
    return replace(bundle, outputs=(*bundle.outputs, *specs))


@pytest.mark.parametrize(
    ("output", "bundle", "prediction", "problem"),
    [
        ({"deny": ["d"]}, tiny_bundle(), "probabilities", "output.deny: the model has no class 'd'"),
        ({"allow": ["d"]}, tiny_bundle(), "probabilities", "output.allow: the model has no class 'd'"),
        ({"deny": ["a", "b", "c"]}, tiny_bundle(), "probabilities", "none is left"),
        ({"deny": ["a"]}, tiny_bundle(), "probabilities", "'logits' tells of the classes"),
        ({"confidence_min": 0.5}, tiny_bundle(), None, "no output of rows x classes"),
        ({"text": {"outputs": ["note"]}}, tiny_bundle(), "probabilities", "no output 'note' of BYTES"),
        ({"text": {"outputs": ["energy"]}}, tiny_bundle(), "probabilities", "no output 'energy' of BYTES"),
        ({"confidence_min": 0.5}, bundle_with(ABSTAINED), "probabilities", "an output 'abstained' of its own"),
        (
            {"text": {"outputs": ["note"], "denied": ["\u200b"]}},
            bundle_with(TensorSpec("note", "BYTES", (-1,))),
            "probabilities",
            "text.denied",
        ),
    ],
)
def test_a_policy_that_the_bundle_cannot_keep_is_refused_by_name(output, bundle, prediction, problem):
    with pytest.raises(PolicyRejected) as refused:
        output_rule_of(Output.model_validate_json(json.dumps(output)), bundle, prediction, bundle.outputs)
    assert problem in str(refused.value)


async def test_logits_that_are_reserved_or_left_out_tell_nobody(made_site, tmp_path):
    def reserve(policy):
        policy["models"]["tiny"] |= {"output": {"deny": ["a"]}, "reserved": {"logits": ["rival"]}}

    async with open_rig(made_site, tmp_path, policy=reserve) as rig:
        rig.engine.answer = says
        assert "logits" not in [output.name for output in (await ask(rig, 0.9)).message.outputs]
        theirs = await rig.ask(tiny_body(image(0.9)), caller="rival")
        assert "logits" in [output.name for output in theirs.message.outputs]

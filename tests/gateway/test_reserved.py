"""Outputs of their own right: whose roles have it get them, to everybody else they do not exist."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from stockade.open_inference import grpc_service_pb2 as pb
from tests.e2e.caller import Reply, infer_request
from tests.gateway.rig import ended, image, open_rig, until

EVERYTHING = ["probabilities", "logits", "latent", "energy", "mahalanobis", "residual"]
OTHERS = [name for name in EVERYTHING if name != "latent"]
METADATA = "/inference.GRPCInferenceService/ModelMetadata"
CONFIG = "/inference.GRPCInferenceService/ModelConfig"


def reserve(policy):
    policy["models"]["tiny"]["reserved"] = {"latent": ["rival"]}


@pytest.fixture
async def rig(made_site, tmp_path):
    async with open_rig(made_site, tmp_path, policy=reserve) as opened:
        yield opened


def asking(*outputs: str) -> bytes:
    request = infer_request(image(0.5), model="tiny")
    for name in outputs:
        request.outputs.add(name=name)
    return request.SerializeToString()


def named(reply: Reply) -> list[str]:
    return [output.name for output in reply.message.outputs]


async def test_who_has_the_role_gets_the_output_and_others_everything_else(rig):
    assert named(await rig.ask(asking(), caller="rival")) == EVERYTHING
    assert named(await rig.ask(asking(), caller="plenty")) == OTHERS
    assert named(await rig.ask(asking("latent"), caller="rival")) == ["latent"]
    assert named(await rig.ask(asking("energy"), caller="plenty")) == ["energy"]


async def test_asked_for_by_name_it_is_refused_as_an_output_that_does_not_exist(rig):
    reserved, unknown = [await rig.ask(asking("energy", name), caller="plenty") for name in ("latent", "taste")]
    assert reserved.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (reserved.reason, reserved.sentence) == (unknown.reason, unknown.sentence)
    assert len(rig.sink.records(kind="refused")) == 2


async def test_in_one_batch_each_gets_its_own(rig):
    rig.engine.go.clear()
    calls = [rig.infer(asking(), caller="plenty")]
    await asyncio.to_thread(rig.engine.entered.acquire)
    calls += [rig.infer(asking(), caller=caller) for caller in ("rival", "plenty", "rival")]
    await until(lambda: rig.gw.served["tiny", "1"].batcher.queued_rows >= 3)
    rig.engine.go.set()
    replies = [named(await ended(call)) for call in calls]
    assert replies == [OTHERS, EVERYTHING, OTHERS, EVERYTHING]
    assert rig.engine.batches[-1] == 3


async def test_an_answer_that_is_given_again_holds_what_its_caller_may_have(made_site, tmp_path):
    """Two callers of one tenant, one with the role, ask for the same."""

    def both(policy):
        reserve(policy)
        policy["principals"]["token-user"]["roles"] = ["rival"]

    async with open_rig(made_site, tmp_path, policy=both, config=lambda config: config.update(cache={})) as rig:
        for caller, wanted in (("token-user", EVERYTHING), ("plenty", OTHERS), ("token-user", EVERYTHING)):
            for _ in range(2):
                assert named(await rig.ask(asking(), caller=caller)) == wanted
        assert len(rig.sink.records(kind="served")) == 6
        assert len([entry for entry in rig.sink.records(kind="served") if entry.get("cached")]) >= 2


async def test_metadata_and_config_tell_each_what_it_may_have(rig):
    for caller, wanted in (("rival", EVERYTHING), ("plenty", OTHERS)):
        told = []
        for method, request in ((METADATA, pb.ModelMetadataRequest), (CONFIG, pb.ModelConfigRequest)):
            call = rig.channel.unary_unary(method)(
                request(name="tiny").SerializeToString(), metadata=rig.site.bearer(caller)
            )
            told.append((await ended(call)).body)
        metadata, config = pb.ModelMetadataResponse.FromString(told[0]), pb.ModelConfigResponse.FromString(told[1])
        assert [output.name for output in metadata.outputs] == wanted
        assert [output.name for output in config.config.output] == wanted

"""What callers get is what the policy gives them: hardened answers, their own lane, models they may know of."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from stockade.open_inference import grpc_service_pb2 as pb
from tests.e2e.caller import infer_request
from tests.gateway.rig import ended, image, open_rig, tiny_body
from tests.serving.tiny import tiny_bundle

SERVICE = "/inference.GRPCInferenceService/"
SHARP = np.array([[0.6, 0.3, 0.1]], np.float32)


@pytest.mark.parametrize("when", ["always", "flagged"])
async def test_a_hardened_answer_is_what_leaves(made_site, tmp_path, when):
    def hardened(policy) -> None:
        policy["models"]["tiny"]["harden"] = {"when": when, "top_k": 1, "temperature": 1.0, "decimals": 1}

    async with open_rig(made_site, tmp_path, policy=hardened) as rig:
        rig.engine.answer = lambda outputs: {**outputs, "probabilities": SHARP}
        reply = await rig.ask(tiny_body(image(0.5)))
        (left,) = reply.output("probabilities")
        if when == "flagged":  # and no screen flags it here
            assert left.tolist() == SHARP[0].tolist()
        else:
            assert left.argmax() == 0
            assert np.count_nonzero(left == left.max()) == 1
            assert np.unique(left[1:]).size == 1, "the classes behind the first still tell themselves apart"


@pytest.mark.parametrize("claim", [0, 1, 2**63 - 1])
async def test_the_lane_is_that_of_the_identity_whatever_priority_a_client_claims(rig, claim):
    seen: list[int] = []
    batcher = rig.gw.served["tiny", "1"].batcher
    submit = batcher.submit

    def watched(item, **where) -> None:
        seen.append(where["lane"])
        submit(item, **where)

    batcher.submit = watched
    request = infer_request(image(0.5), model="tiny")
    request.parameters["priority"].int64_param = claim
    for caller in ("kiosk-7", "plenty"):
        assert (await rig.ask(request.SerializeToString(), caller=caller)).code is grpc.StatusCode.OK
    lanes = [rig.app.in_force[1].lane_of(caller) for caller in ("kiosk-7", "plenty")]
    assert seen == lanes
    assert len(set(lanes)) == 2, "the callers do not differ in what is tested"


async def test_a_caller_is_told_of_no_version_that_is_not_his(made_site, tmp_path):
    def first_only(policy) -> None:
        policy["roles"]["rival"] = [{"methods": ["*"], "models": ["tiny"], "versions": ["1"]}]
        policy["roles"]["predictor"] = [{"methods": ["*"], "models": ["tiny"]}]

    async def told(rig, caller: str, method: str, request, reply_class):
        call = rig.channel.unary_unary(SERVICE + method)
        reply = await ended(call(request.SerializeToString(), metadata=rig.site.bearer(caller)))
        assert reply.code is grpc.StatusCode.OK
        return reply_class.FromString(reply.body)

    async with open_rig(made_site, tmp_path, policy=first_only, bundles=[tiny_bundle("2")]) as rig:
        for caller, versions in (("rival", ["1"]), ("plenty", ["1", "2"])):
            index = await told(rig, caller, "RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
            assert [model.version for model in index.models] == versions
            statistics = await told(
                rig, caller, "ModelStatistics", pb.ModelStatisticsRequest(), pb.ModelStatisticsResponse
            )
            assert [model.version for model in statistics.model_stats] == versions
            metadata = await told(
                rig, caller, "ModelMetadata", pb.ModelMetadataRequest(name="tiny"), pb.ModelMetadataResponse
            )
            assert list(metadata.versions) == versions


async def test_statistics_are_those_of_the_calls(rig):
    for rows in (1, 2):
        assert (await rig.ask(tiny_body(image(0.5, rows)))).code is grpc.StatusCode.OK
    call = rig.channel.unary_unary(SERVICE + "ModelStatistics")
    request = pb.ModelStatisticsRequest(name="tiny").SerializeToString()
    reply = await ended(call(request, metadata=rig.site.bearer("rival")))
    (model,) = pb.ModelStatisticsResponse.FromString(reply.body).model_stats
    assert (model.name, model.version, model.inference_count, model.inference_stats.success.count) == (
        "tiny",
        "1",
        3,
        2,
    )
    assert model.execution_count == len(rig.engine.batches)

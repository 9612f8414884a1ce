"""With every protection off: nobody is asked who he is, nothing is limited, and a new policy changes nothing of it."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.policy.load import load_policy
from tests.e2e.caller import infer_body
from tests.gateway.request.test_metering import priced, with_budget
from tests.gateway.rig import ended, image, open_rig

METHOD = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
async def unprotected(made_site, tmp_path):
    def config(document) -> None:
        document["unsafe_unprotected"] = True

    async with open_rig(made_site, tmp_path, config=config, policy=with_budget(), bundles=[priced()]) as opened:
        yield opened


async def ask(rig):
    return await ended(rig.channel.unary_unary(METHOD)(infer_body(image(0.5), model="priced")))


async def test_a_budget_is_not_spent_and_a_new_policy_brings_no_protection_back(unprotected):
    unprotected.gw.served["priced", "1"].engine.answer = lambda outputs: {
        **outputs,
        "probabilities": np.tile(np.array([0.97, 0.02, 0.01], np.float32), (len(outputs["energy"]), 1)),
    }
    assert {(await ask(unprotected)).reason for _ in range(30)} == {"OK"}
    unprotected.site.change_policy(lambda policy: None)
    policy = load_policy(unprotected.site.policy, unprotected.app.config.policy.public_key)
    unprotected.app.put_in_force(unprotected.app.compile(policy), policy)
    assert unprotected.gw.active.digest == policy.digest
    assert (await ask(unprotected)).reason == "OK"

"""Embeddings that leave turned: each tenant's by its own rotation, in whatever batch; and what cannot be turned."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from defenses.extraction.embedding import rotate
from gateway import errors
from gateway.config.document import PolicyRejected
from gateway.models.compile import rules_of
from gateway.models.rotation import open_rotations, rotate_outputs
from gateway.policy.policy import ModelPolicy
from tests.gateway.rig import image, open_rig, tiny_body
from tests.serving.tiny import WIDTH, tiny_bundle

PEPPER = bytes(range(32))


def rotated(policy: dict[str, Any]) -> None:
    policy["models"]["tiny"]["rotate"] = ["latent"]


async def test_each_tenant_has_an_embedding_of_its_own_and_nothing_else_changes(made_site, tmp_path):
    async with open_rig(made_site, tmp_path, policy=rotated) as rig:
        told = {name: await rig.ask(tiny_body(image(0.5, 2)), caller=name) for name in ("plenty", "rival", "hasty")}
        plain = np.full((2, WIDTH), 0.5)
        ours, theirs, colleague = (told[name].output("latent") for name in ("plenty", "rival", "hasty"))
        assert not np.allclose(ours, theirs, atol=0.01)
        assert not np.allclose(ours, plain, atol=0.01)
        assert np.array_equal(ours, colleague), "of the same tenant"
        for each in (ours, theirs):
            np.testing.assert_allclose(each @ each.T, plain @ plain.T, rtol=1e-5)
        for name in ("probabilities", "logits"):
            assert np.array_equal(told["plenty"].output(name), told["rival"].output(name))


def rows_of(tenants, seed=0):
    """Requests of one to three rows, and the outputs of their batch."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, 4, len(tenants))
    starts = np.concatenate([[0], np.cumsum(rows)[:-1]])
    return {"latent": rng.normal(size=(rows.sum(), WIDTH)).astype(np.float32), "energy": np.ones(rows.sum())}, starts


def rules(**widths):
    return open_rotations("tiny", widths, PEPPER) if widths else None


def test_a_request_is_turned_for_its_own_tenant_in_whatever_batch():
    tenants = ["shop", "store", "shop", "mart"]
    outputs, starts = rows_of(tenants)
    left = rotate_outputs(outputs, rules(latent=WIDTH), tenants, starts)
    for tenant, first, end in zip(tenants, starts, [*starts[1:], len(outputs["latent"])], strict=True):
        alone = rotate_outputs(
            {"latent": outputs["latent"][first:end]}, rules(latent=WIDTH), [tenant], np.zeros(1, np.intp)
        )
        assert alone["latent"].tobytes() == left["latent"][first:end].tobytes()
    assert left["energy"] is outputs["energy"]
    assert rotate_outputs(outputs, rules(), tenants, starts) is outputs


def test_the_rotation_follows_from_the_pepper_and_the_model():
    one = np.eye(WIDTH)[:1]
    of = [
        rotate(one, open_rotations(model, {"latent": WIDTH}, pepper).of("shop", WIDTH)).tobytes()
        for model, pepper in (("tiny", PEPPER), ("tiny", PEPPER), ("other", PEPPER), ("tiny", PEPPER[::-1]))
    ]
    assert of[0] == of[1]
    assert len({*of}) == 3


def test_an_engine_that_answers_in_another_shape_has_failed():
    with pytest.raises(errors.ModelError):
        rotate_outputs({"latent": np.ones((2, 2, 2))}, rules(latent=WIDTH), ["shop"], np.zeros(1, np.intp))
    with pytest.raises(errors.ModelError):
        rotate_outputs({"latent": np.ones(2)}, rules(latent=WIDTH), ["shop"], np.zeros(1, np.intp))


@pytest.mark.parametrize("output", ["probabilities", "energy", "nothing"])
def test_what_is_no_embedding_cannot_be_turned(output):
    model = ModelPolicy.model_validate({"serve": "1", "rotate": (output,)})
    with pytest.raises(PolicyRejected, match="rotate"):
        rules_of(model, SimpleNamespace(bundle=tiny_bundle(), watching=None), PEPPER)

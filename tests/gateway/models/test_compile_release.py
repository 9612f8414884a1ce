"""Versions that cannot stand for each other are refused by name, before anybody is answered by them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from gateway.config.document import PolicyRejected
from gateway.models.compile_release import absent, in_service, require_versions, with_mirrors
from gateway.policy.policy import ModelPolicy
from serving.bundles.bundle import Bundle, assemble
from serving.train.pack import seal
from tests.serving.tiny import signing_key, tiny_bundle, tiny_files, tiny_manifest, trusted

FEWER = tiny_manifest()["outputs"][:2]


def policy(release, **more):
    model = ModelPolicy.model_validate_json(json.dumps({"serve": "1", "release": release, **more}))
    return SimpleNamespace(models={"tiny": model})


def served(*bundles: Bundle):
    return {(bundle.name, bundle.version): SimpleNamespace(bundle=bundle) for bundle in (tiny_bundle(), *bundles)}


def second(**changes) -> Bundle:
    """Version 2, with another manifest."""
    return assemble(seal(tiny_files(), tiny_manifest("2") | changes, signing_key()), (trusted(),))


@pytest.mark.parametrize(
    ("release", "changes", "problem"),
    [
        ({"weights": {"1": 0.5, "3": 0.5}}, {}, "there is no bundle of version '3' (there: 1, 2)"),
        (
            {"shadow": {"version": "2"}},
            {"class_names": ["a", "b", "d"]},
            "'2' has other inputs, outputs or classes",
        ),
        ({"weights": {"2": 1.0}}, {"class_names": []}, "'2' has other inputs, outputs or classes"),
        (
            {"weights": {"2": 1.0}},
            {"outputs": tiny_manifest()["outputs"][:2]},
            "'2' has other inputs, outputs or classes",
        ),
    ],
    ids=["no such version", "other classes", "no classes", "other outputs"],
)
def test_versions_that_cannot_stand_for_each_other_are_refused(release, changes, problem):
    with pytest.raises(PolicyRejected) as refused:
        require_versions(policy(release), served(second(**changes)))
    assert problem in str(refused.value)


def test_outputs_that_clients_may_not_have_may_differ():
    require_versions(policy({"weights": {"2": 1.0}}, outputs=["probabilities"]), served(second(outputs=FEWER)))


def test_where_nothing_is_served_nothing_is_asked():
    require_versions(policy({"weights": {"3": 1.0}}), {})


@pytest.mark.parametrize(
    ("release", "mirrors"),
    [
        ({"weights": {"1": 0.5, "2": 0.5}}, {}),
        ({"shadow": {"version": "2", "rate": 0.25}}, {"1": ("2", 0.25), "3": ("2", 0.25)}),
        (
            {"canary": {"version": "2", "steps": [1], "step_every": "1h", "compare_rate": 0.5}},
            {"1": ("2", 0.5), "2": ("1", 0.5)},
        ),
        (None, {}),
    ],
    ids=["weights", "shadow", "canary", "nothing"],
)
def test_what_runs_beside_what(release, mirrors):
    models = {("tiny", version): rules(version) for version in "123"}
    found = with_mirrors(models, policy(release))
    assert found.keys() == models.keys()
    beside = {key[1]: (each.mirror.rules.version, each.mirror.rate) for key, each in found.items() if each.mirror}
    assert beside == mirrors
    assert all(each.mirror is None for each in models.values())


def test_without_a_prediction_a_shadow_is_refused_and_a_canary_is_not_compared():
    models = {("tiny", version): rules(version, prediction=None) for version in "12"}
    with pytest.raises(PolicyRejected, match="no prediction that could be compared"):
        with_mirrors(models, policy({"shadow": {"version": "2"}}))
    canary = policy({"canary": {"version": "2", "steps": [1], "step_every": "1h"}})
    assert [each.mirror for each in with_mirrors(models, canary).values()] == [None, None]


def rules(version, prediction="probabilities"):
    from dataclasses import make_dataclass

    fields = [("version", str), ("prediction", str | None), ("mirror", object)]
    return make_dataclass("Rules", fields, frozen=True)(version, prediction, None)


@pytest.mark.parametrize(
    ("weights", "unloaded", "left"),
    [
        ({"1": 0.5, "2": 0.3, "3": 0.2}, "", {"1": 0.5, "2": 0.3, "3": 0.2}),
        ({"1": 0.5, "2": 0.3, "3": 0.2}, "2", {"1": 0.5, "3": 0.2}),
        ({"1": 0.9, "2": 0.1}, "1", {"1": 0.9, "2": 0.1}),
        ({"1": 0.0, "2": 1.0}, "2", {"1": 0.0, "2": 1.0}),
        ({"2": 0.5, "3": 0.5}, "23", {"2": 0.5, "3": 0.5}),
    ],
    ids=["nothing", "one of three", "`serve`, beside a canary", "all that answer", "all"],
)
def test_who_answers_while_versions_are_out_of_service(weights, unloaded, left):
    model = policy(None).models["tiny"]
    assert in_service("tiny", model, weights, {("tiny", version) for version in unloaded}) == left


@pytest.mark.parametrize("unloaded", [True, False])
def test_what_is_out_of_service_is_not_compared(unloaded):
    mirror = SimpleNamespace(rules=SimpleNamespace(served=SimpleNamespace(unloaded=unloaded)))
    assert (absent(mirror), absent(None)) == (unloaded, False)

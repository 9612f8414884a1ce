"""A policy becomes tables, or is refused with the name of what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from gateway.auth.principal import PUBLIC
from gateway.config.document import PolicyRejected
from gateway.models.compile import compile_policy
from gateway.models.served import Served
from gateway.models.statistics import ModelCounters, ServiceTime
from gateway.policy.load import parse_policy
from tests.gateway.rig import only_tiny
from tests.serving.tiny import tiny_bundle

NOW_NS = 1_800_000_000_000_000_000


@pytest.fixture
def document(made_site):
    read = yaml.safe_load(made_site.policy.read_text())
    only_tiny(read)
    read.pop("issuers")
    read["principals"]["token-user"].pop("subjects")
    return read


@pytest.fixture
def build(made_site):
    bundle = tiny_bundle()
    served = {("tiny", "1"): Served(bundle, SimpleNamespace(), "{}", ServiceTime(), ModelCounters())}
    pepper = made_site.read("keys/pepper")

    def build(document, served=served):
        policy = parse_policy(json.dumps(document, default=str).encode(), made_site.policy)
        return compile_policy(policy, served, pepper, (), NOW_NS)

    return build


def test_a_policy_becomes_identities_rights_budgets_and_rules(document, build):
    document["models"]["tiny"] |= {"cost_per_row": 3, "outputs": ["energy", "probabilities"], "capture": "flagged"}
    active = build(document)
    rules = active.models["tiny", "1"]
    assert [spec.name for spec in rules.outputs] == ["probabilities", "energy"]  # in the bundle's order
    assert (rules.cost_per_row, rules.capture, rules.screens) == (3, "flagged", {})
    assert active.default_versions == {"tiny": "1"}
    assert active.budgets.keys() == {*document["principals"], PUBLIC.name}
    assert (active.budgets["kiosk-7"].lane, active.budgets["plenty"].lane) == (0, 1)
    assert active.tenant_capture["forgetful"] == "all"
    assert active.budgets["single"].in_flight_max == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda policy: policy["models"]["tiny"].update(serve="2"), "no bundle of version '2' (there: 1)"),
        (lambda policy: policy["models"].update(ghost={"serve": "1"}), "no bundle of version '1' (there: none)"),
        (lambda policy: policy["models"]["tiny"].update(screens={"sonar": {"flag": 0.1}}), "no screen 'sonar'"),
        (lambda policy: policy["models"]["tiny"].update(screens={"evidence": {"flag": 0.1}}), "evidence"),
        (lambda policy: policy["models"]["tiny"].update(outputs=["taste"]), "no output 'taste'"),
        (lambda policy: policy["models"]["tiny"].update(reserved={"taste": ["rival"]}), "no output 'taste'"),
        (
            lambda policy: policy["models"]["tiny"].update(outputs=["energy"], reserved={"energy": ["rival"]}),
            "nothing is left for anybody else",
        ),
    ],
    ids=["version", "model", "screen", "calibration", "output", "reserved", "all-reserved"],
)
def test_what_the_models_do_not_bring_is_refused_by_name(document, build, change, problem):
    change(document)
    with pytest.raises(PolicyRejected) as refused:
        build(document)
    assert problem in str(refused.value)


def test_a_process_without_models_knows_callers_and_needs_no_bundle(document, build):
    document["models"]["ghost"] = {"serve": "9"}
    active = build(document, served={})
    assert active.models == {}
    assert "kiosk-7" in active.budgets


def test_public_methods_have_a_role_of_their_own(document, build):
    document["unsafe_public_methods"] = ["Health"]
    active = build(document)
    assert active.rights.may_call(PUBLIC, "Health")
    assert not active.rights.may_call(PUBLIC, "ModelInfer")
    assert active.budgets[PUBLIC.name].lane == 3


def with_role(names):
    """What is served, its bundle with these outputs as prototypes."""
    bundle = tiny_bundle()
    roles = {**bundle.manifest["roles"], "prototypes": names}
    bundle = replace(bundle, manifest={**bundle.manifest, "roles": roles})
    return {("tiny", "1"): Served(bundle, SimpleNamespace(), "{}", ServiceTime(), ModelCounters())}


@pytest.mark.parametrize(
    ("said", "had"),
    [
        ({}, False),
        ({"outputs": ["probabilities", "energy"]}, False),
        ({"outputs": ["probabilities", "residual"]}, True),
        ({"reserved": {"residual": ["rival"]}}, True),
    ],
)
def test_prototypes_are_there_where_the_policy_names_them_and_given_to_who_asks(document, build, said, had):
    document["models"]["tiny"] |= said
    rules = build(document, with_role(["residual"])).models["tiny", "1"]
    assert ("residual" in {spec.name for spec in rules.outputs}) is had
    given = {spec.name for spec in rules.given(rules.outputs)}
    assert "residual" not in given
    assert "probabilities" in given


def test_a_policy_that_leaves_only_prototypes_is_refused(document, build):
    document["models"]["tiny"]["outputs"] = ["residual"]
    with pytest.raises(PolicyRejected, match="nothing is left"):
        build(document, with_role(["residual"]))

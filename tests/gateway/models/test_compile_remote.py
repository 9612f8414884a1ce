"""A policy over models that are not classifiers, or run elsewhere: what they cannot have is refused by name."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import yaml

from gateway.config.document import PolicyRejected
from gateway.models.compile import compile_policy
from gateway.models.served import Served
from gateway.models.statistics import ModelCounters, ServiceTime
from gateway.policy.load import parse_policy
from tests.gateway.rig import only_tiny
from tests.serving.tiny import remote_bundle, tiny_bundle

NOW_NS = 1_800_000_000_000_000_000
HARDEN = {"top_k": 1, "decimals": 2}
EVIDENCE = {"evidence": {"flag": 0.01}}


def tensor(name, *sizes, datatype="FP32"):
    return {"name": name, "datatype": datatype, "shape": [-1, *sizes]}


@pytest.fixture
def build(made_site):
    document = yaml.safe_load(made_site.policy.read_text())
    only_tiny(document)
    document.pop("issuers")
    document["principals"]["token-user"].pop("subjects")

    def build(bundle, **model):
        document["models"]["tiny"] |= model
        served = {("tiny", "1"): Served(bundle, SimpleNamespace(), "{}", ServiceTime(), ModelCounters())}
        policy = parse_policy(json.dumps(document, default=str).encode(), made_site.policy)
        active = compile_policy(policy, served, made_site.read("keys/pepper"), (), NOW_NS)
        return active.models["tiny", "1"]

    return build


@pytest.mark.parametrize(
    "output",
    [
        tensor("boxes", 4),
        tensor("probabilities"),
        tensor("probabilities", 2, 2),
        tensor("probabilities", 2, datatype="BYTES"),
    ],
    ids=["another", "flat", "deep", "text"],
)
def test_a_model_without_a_prediction_is_served_as_it_is(build, output):
    bundle = remote_bundle(outputs=[output])
    rules = build(bundle)
    assert (rules.prediction, rules.hardening) == (None, None)
    assert [spec.name for spec in rules.outputs] == [output["name"]]
    with pytest.raises(
        PolicyRejected, match=r"models\.tiny\.harden: the bundle has no output 'probabilities' of rows x"
    ):
        build(bundle, harden=HARDEN)


def test_a_classifier_elsewhere_is_hardened_here(build):
    rules = build(remote_bundle(), harden=HARDEN)
    assert (rules.prediction, rules.hardening.top_k) == ("probabilities", 1)


def test_a_screen_that_reads_what_nobody_computes_is_refused_with_the_way_out(build):
    with pytest.raises(PolicyRejected) as refused:
        build(remote_bundle(), screens=EVIDENCE)
    assert str(refused.value) == (
        "models.tiny.screens: evidence reads the outputs energy, mahalanobis, residual, and the bundle has no 'energy';"
        " a model that runs elsewhere needs an encoder for it"
    )


def test_a_bundle_with_the_outputs_and_no_calibration_is_told_so(build):
    with pytest.raises(PolicyRejected, match="the bundle has no calibration that evidence can use"):
        build(tiny_bundle(), screens=EVIDENCE)

"""A host takes over no policy whose versions lack proof, and serves nothing that lacks it: what it serves stays so."""

from __future__ import annotations

import json

import pytest

from gateway.config.document import PolicyRejected
from gateway.config.load import load_config
from gateway.config.place import place_of
from gateway.control.repository import Repository
from gateway.host.host import Host
from gateway.host.serve import DRAFT
from gateway.host.supervisor import Child
from gateway.models.model_set import MODELS
from gateway.policy.file import Kept, Memory
from tests.e2e.promoting import MODEL, add_model, add_version, approve, evaluate, evidence_of
from tests.e2e.site import copy_site
from tests.gateway.words import Words


def problems(host, event: str) -> list[str]:
    return [str(facts["problem"]) for facts in host.log.facts(event)]


@pytest.fixture(scope="module")
def approved(made_site, tmp_path_factory):
    """A site whose version 2 is approved by alice and bob; nobody serves it."""
    site = copy_site(made_site, tmp_path_factory.mktemp("sites") / "approved")
    add_model(site)
    assert evaluate(site, "2") == 0
    assert (approve(site, "2", "alice"), approve(site, "2", "bob")) == (0, 0)
    return site


@pytest.fixture
def site(approved, tmp_path):
    return copy_site(approved, tmp_path / "site")


def started(site, *, log=None) -> Host:
    """The host as it starts, but for its processes."""
    config, log = load_config(site.config), log or Words()
    place = place_of(config)
    place.policies.mkdir(parents=True, exist_ok=True)
    repository = Repository(config, place.memory.with_name(MODELS), place.policies / DRAFT)
    repository.open(log)
    kept = Kept(config.policy, place.policies, Memory(place.memory))
    policy = kept.first(log, repository.require_proven)
    repository.admit(policy, log)
    return Host(config, place, log, repository, kept, policy, 0, Child("recorder", [], log), [])


def versions(host: Host) -> set[str]:
    return {listed.version for listed in host.repository.models.listed if listed.name == MODEL}


def serve(site, version: str, **promotion) -> None:
    def change(policy):
        policy["models"][MODEL]["serve"] = version
        policy["models"][MODEL]["promotion"] |= promotion

    site.change_policy(change)


def rewrite(file, change) -> None:
    fields = json.loads(file.read_bytes())
    change(fields)
    file.write_bytes(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode() + b"\n")


async def test_an_approved_version_is_put_in_force(site):
    host = started(site)
    serve(site, "2")
    assert await host.reload()
    assert host.policy.models[MODEL].serve == "2"
    (told,) = host.log.facts("model-promoted")
    assert (told["version"], told["approvers"], told["override"]) == ("2", ["alice", "bob"], None)


def edit_evaluation(at):
    rewrite(at / "evaluation.json", lambda found: found["metrics"]["accuracy"].update(value=0.999))


def same_approver_twice(at):
    (at / "bob.json").write_bytes((at / "alice.json").read_bytes())


def of_another_version(at):
    rewrite(at / "bob.json", lambda found: found["statement"].update(version="3"))


def no_approver(at):
    (at / "bob.json").rename(at / "mallory.json")


def not_readable(at):
    (at / "bob.json").unlink()
    (at / "bob.json").symlink_to("alice.json")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (edit_evaluation, "has 0 of 2 approvals; alice.json: is about another evaluation, or this one was edited"),
        (same_approver_twice, "has 1 of 2 approvals (alice); bob.json: holds the approval of alice"),
        (of_another_version, "has 1 of 2 approvals (alice); bob.json: was not signed by the key of bob"),
        (no_approver, "has 1 of 2 approvals (alice); mallory.json: holds the approval of bob"),
        (not_readable, "has 1 of 2 approvals (alice); bob.json: cannot be read"),
        (lambda at: (at / "evaluation.json").unlink(), "has no evaluation; `stockade models evaluate` makes one"),
        (lambda at: (at / "evaluation.json").write_bytes(b"?"), "evaluation.json: is not an evaluation of format 1"),
    ],
)
async def test_evidence_that_will_not_do_changes_nothing(site, spoil, said):
    spoil(evidence_of(site, "2"))
    host = started(site)
    assert versions(host) == {"1"}  # it is there, and nobody who names it gets it
    before, models = host.policy, host.repository.models
    serve(site, "2")
    assert not await host.reload()
    assert (host.policy, host.repository.models) == (before, models)
    refused = f"models.{MODEL}.serve: version '2' may not be served: {said}"
    assert host.problem.startswith(refused)
    assert problems(host, "model-rejected")[-1].startswith(said)
    told = len(host.log.lines)
    assert not await host.reload()
    assert len(host.log.lines) == told  # the same again is no news


async def test_a_release_needs_proof_as_well(site):
    add_version(site, "3")
    host = started(site)
    canary = {"version": "3", "steps": [1], "step_every": "1s"}
    site.change_policy(lambda policy: policy["models"][MODEL].update(release={"canary": canary}))
    assert not await host.reload()
    assert f"models.{MODEL}.release: version '3' may not be served: has no evaluation" in host.problem
    canary["version"] = "2"
    site.change_policy(lambda policy: policy["models"][MODEL].update(release={"canary": canary}))
    assert await host.reload()


@pytest.mark.parametrize(
    ("promotion", "said"),
    [
        ({"dataset": "00" * 32}, "the evaluation is on dataset "),
        ({"required": 3}, "has 2 of 3 approvals (alice, bob)"),
        (
            {"approvers": ["bob", "carol"]},
            "has 1 of 2 approvals (bob); alice.json: alice has no right to approve shelf",
        ),
        ({"gates": {"accuracy_min": 0.995}}, "gate accuracy_min: 0.990488 is below 0.995"),
    ],
    ids=["dataset", "required", "approvers", "gates"],
)
async def test_the_policy_that_is_to_be_put_in_force_is_what_counts(site, promotion, said):
    host = started(site)
    serve(site, "2", **promotion)
    assert not await host.reload()
    assert f"version '2' may not be served: {said}" in host.problem


async def test_an_override_is_possible_and_loud(site):
    for name in ("alice", "bob"):
        assert approve(site, "2", name, "--override", f"{name} has looked") == 0
    host = started(site)
    serve(site, "2", gates={"accuracy_min": 0.995})
    assert await host.reload()
    (told,) = host.log.facts("model-promoted")
    assert (told["level"], told["override"]) == ("warning", "alice: alice has looked; bob: bob has looked")


async def test_asking_for_proof_takes_out_of_service_what_has_none(site):
    add_version(site, "3")
    site.change_policy(lambda policy: policy["models"][MODEL].pop("promotion"))
    host = started(site)
    assert versions(host) == {"1", "2", "3"}
    exempt = {"1": next(each.digest for each in host.repository.models.listed if (each.key == (MODEL, "1")))}
    asked = {"required": 1, "approvers": ["alice"], "exempt": exempt, "gates": {"accuracy_min": 0.9}}
    site.change_policy(lambda policy: policy["models"][MODEL].update(promotion=asked))
    assert await host.reload()
    assert versions(host) == {"1", "2"}
    assert [each["version"] for each in host.log.facts("model-unloaded")] == ["3"]
    assert problems(host, "model-rejected") == ["has no evaluation; `stockade models evaluate` makes one"]


async def test_a_start_falls_back_to_the_last_policy_whose_versions_are_proven(site):
    started(site)
    serve(site, "2")
    same_approver_twice(evidence_of(site, "2"))
    host = started(site)
    assert (host.policy.models[MODEL].serve, versions(host)) == ("1", {"1"})
    assert "version '2' may not be served" in problems(host, "policy-refused")[0]
    assert list(host.repository.judged.unproven) == [(MODEL, "2")]  # for the log, once there is one


def test_nothing_starts_without_a_policy_whose_versions_are_proven(site):
    serve(site, "2")
    edit_evaluation(evidence_of(site, "2"))
    with pytest.raises(PolicyRejected, match="version '2' may not be served: has 0 of 2 approvals"):
        started(site)


async def test_evidence_that_is_lost_later_does_not_stop_what_is_served(site):
    host = started(site)
    serve(site, "2")
    assert await host.reload()
    edit_evaluation(evidence_of(site, "2"))
    assert await host.reload()  # the same policy: nothing is asked
    assert versions(host) == {"1", "2"}

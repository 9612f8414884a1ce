"""Which evidence proves a version, and what is said of evidence that does not: each bad input by its sentence."""

from __future__ import annotations

import json
import os

import pytest
from msgspec.structs import replace

from serving.registry.approval import parse_approval, sign
from serving.registry.errors import EvidenceRejected
from serving.registry.evaluation import Measure, encode, parse_evaluation
from serving.registry.evidence import read_evidence
from serving.registry.proof import Proof, Unproven, decide
from tests.serving.registry.made import ABOUT, BUNDLE, approval, evaluation, key_of, rule, statement, write_evidence

GOOD = evaluation()
WEAK = evaluation(metrics=GOOD.metrics | {"accuracy": Measure(value=0.91, low=0.89, high=0.93, rows=1000)})
OVERRIDE = {"decision": "override", "reason": "the shop opens tomorrow"}


def decided(tmp_path, found, files, **changes):
    return decide(rule(**changes), ABOUT, read_evidence(write_evidence(tmp_path / "evidence", found, files)))


def both(found=GOOD, **changes) -> dict[str, bytes]:
    return {name: approval(name, found, **changes) for name in ("alice", "bob")}


def test_two_of_three_are_enough(tmp_path):
    proof = decided(tmp_path, GOOD, both())
    assert proof == Proof(read_evidence(tmp_path / "evidence").digest, ("alice", "bob"))


def test_one_of_three_is_not(tmp_path):
    found = decided(tmp_path, GOOD, {"alice": approval("alice", GOOD)})
    assert found == Unproven(("has 1 of 2 approvals (alice)",), read_evidence(tmp_path / "evidence").digest, ("alice",))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"mallory": approval("mallory", GOOD)}, "mallory.json: mallory has no right to approve kiosk"),
        ({"zoe": approval("zoe", GOOD)}, "zoe.json: zoe is not an approver of the policy"),
        (
            {"bob": approval("alice", GOOD)},
            "bob.json: holds the approval of alice; an approver has one file, under his own name",
        ),
        ({"bob": approval("bob", GOOD, key="mallory")}, "bob.json: was not signed by the key of bob"),
        ({"bob": approval("bob", GOOD, version="3")}, "bob.json: is about kiosk version 3"),
        ({"bob": approval("bob", GOOD, model="other")}, "bob.json: is about other version 2"),
        ({"bob": approval("bob", GOOD, bundle="00" * 32)}, f"bob.json: is about another bundle, {'00' * 32}"),
        (
            {"bob": approval("bob", evaluation(seed=1))},
            "bob.json: is about another evaluation, or this one was edited after it was signed",
        ),
        ({"bob": approval("bob", GOOD, decision="override")}, "bob.json: overrides without a reason"),
        ({"bob": b"{}"}, "bob.json: is not an approval of format 1"),
        ({"bob": b"[" * 16_000}, "bob.json: is not an approval of format 1"),
        ({"bob": b" " * 20_000}, "bob.json: is larger than 16384 bytes"),
    ],
)
def test_an_approval_that_does_not_count_is_told(tmp_path, files, said):
    found = decided(tmp_path, GOOD, {"alice": approval("alice", GOOD), **files})
    assert isinstance(found, Unproven)
    assert found.problems == ("has 1 of 2 approvals (alice)", said)


def test_what_does_not_count_takes_nothing_from_what_does(tmp_path):
    proof = decided(tmp_path, GOOD, {**both(), "zoe": b"nothing"})
    assert isinstance(proof, Proof)
    assert (proof.approvers, proof.ignored) == (("alice", "bob"), ("zoe.json: is not an approval of format 1",))


def test_an_edited_statement_was_not_signed(tmp_path):
    files = both()
    fields = json.loads(files["bob"])
    fields["statement"]["time"] = "2027-01-01T00:00:00Z"
    found = decided(tmp_path, GOOD, files | {"bob": json.dumps(fields).encode()})
    assert found.problems == ("has 1 of 2 approvals (alice)", "bob.json: was not signed by the key of bob")


def test_an_evaluation_that_was_edited_after_signing_has_no_approval(tmp_path):
    better = evaluation(metrics=GOOD.metrics | {"accuracy": Measure(value=1.0, low=0.99, high=1.0, rows=1000)})
    found = decided(tmp_path, better, both(GOOD))
    assert found.problems[0] == "has 0 of 2 approvals"
    assert "edited after it was signed" in found.problems[1]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (WEAK, "gate accuracy_min: 0.89 is below 0.9"),
        (
            evaluation(bundle="00" * 32),
            f"the evaluation is of another bundle: kiosk version 2, {'00' * 32}",
        ),
        (
            evaluation(dataset=evaluation().dataset.__class__(sha256="11" * 32, file="old", rows=9)),
            f"the evaluation is on dataset {'11' * 32}, and the policy names {'cd' * 32}",
        ),
        (evaluation(metrics={"accuracy": GOOD.metrics["accuracy"]}), "gate robust_accuracy_min: was not measured"),
        (
            evaluation(attacked=evaluation().attacked.__class__(attack="random-search", radius=0.01, queries=50)),
            "gate robust_accuracy_min: was measured under a weaker attack than radius 0.05 and 50 queries",
        ),
    ],
    ids=["gate", "bundle", "dataset", "not measured", "weaker attack"],
)
def test_an_evaluation_that_will_not_do_needs_an_override(tmp_path, found, said):
    assert decided(tmp_path, found, both(found)).problems == (said,)
    proof = decided(tmp_path, found, both(found, **OVERRIDE))
    assert proof.approvers == ("alice", "bob")
    assert proof.override == "alice: the shop opens tomorrow; bob: the shop opens tomorrow"


def test_an_override_needs_as_many_as_an_approval(tmp_path):
    files = {"alice": approval("alice", WEAK), "bob": approval("bob", WEAK, **OVERRIDE)}
    assert decided(tmp_path, WEAK, files).problems == (
        "gate accuracy_min: 0.89 is below 0.9",
        "has 1 of 2 overrides (bob)",
    )


def test_without_an_evaluation_only_an_override_helps(tmp_path):
    nothing = decided(tmp_path, None, both(None))
    assert nothing.problems == ("has no evaluation; `stockade models evaluate` makes one",)
    assert decided(tmp_path, None, both(None, **OVERRIDE)).override.startswith("alice: ")
    assert decide(rule(), ABOUT, read_evidence(tmp_path / "nowhere")).problems == nothing.problems


def test_an_override_of_nothing_is_none_of_an_evaluation(tmp_path):
    found = decided(tmp_path, WEAK, both(None, **OVERRIDE))
    assert found.problems[0] == "gate accuracy_min: 0.89 is below 0.9"
    assert "another evaluation" in found.problems[1]


def test_a_version_is_exempt_by_its_digest_alone(tmp_path):
    assert decided(tmp_path, None, {}, exempt={"2": BUNDLE}) == Proof(exempt=True)
    assert isinstance(decided(tmp_path, None, {}, exempt={"2": "00" * 32}), Unproven)
    assert isinstance(decided(tmp_path, None, {}, exempt={"1": BUNDLE}), Unproven)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[" * 20_000, encode(GOOD) + b" ", encode(GOOD).replace(b":0,", b":0.0,")]
)
def test_an_evaluation_that_is_none_is_told(tmp_path, data):
    write_evidence(tmp_path / "evidence", None, both())
    (tmp_path / "evidence/evaluation.json").write_bytes(data)
    found = decide(rule(), ABOUT, read_evidence(tmp_path / "evidence"))
    assert found.problems[0].startswith("evaluation.json: is not ")


def test_a_file_that_is_not_one_of_ours_is_told(tmp_path):
    write_evidence(tmp_path / "evidence", None, both())
    (tmp_path / "evidence/evaluation.json").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "evidence/carol.json")
    found = decide(rule(), ABOUT, read_evidence(tmp_path / "evidence"))
    assert found.problems[0].startswith("evaluation.json: cannot be read")
    assert "carol.json: is not a regular file" in found.problems


def test_nothing_that_is_told_moves_a_cursor(tmp_path):
    """What is told stands in the log, at terminals and before an approver's eyes."""
    files = {"bob\x1b[2J": approval("bob", GOOD), os.fsdecode(b"\xff"): b"", "carol": approval("carol", GOOD)}
    found = decided(tmp_path, GOOD, files)
    assert found.problems[1:] == (
        "'bob\\x1b[2J.json': is not the name of an approver",
        "'\\udcff.json': is not the name of an approver",
    )
    assert all(problem.isprintable() for problem in found.problems)
    for field in ("model", "version", "build", "time"):
        with pytest.raises(EvidenceRejected):
            parse_evaluation(encode(evaluation(**{field: "\x1b[2J"})))
    for field in ("approver", "model", "version", "reason", "time"):
        with pytest.raises(EvidenceRejected):
            parse_approval(sign(replace(statement("bob", GOOD), **{field: "\x1b[2J"}), key_of("bob")))

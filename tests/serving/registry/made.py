"""Evidence as tests need it: keys of approvers, an evaluation that passes, approvals of it."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from serving.registry.approval import Statement, key_hex, sign
from serving.registry.evaluation import Attacked, Baseline, Decided, Evaluation, Measure, Measured, digest_of, encode
from serving.registry.gates import Robustness, Thresholds
from serving.registry.proof import About, Rule

BUNDLE, DATASET = "ab" * 32, "cd" * 32
ABOUT = About("kiosk", "2", BUNDLE)
MOMENT = "2026-11-25T21:00:00Z"


def key_of(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())


def public(name: str) -> str:
    return key_hex(key_of(name))


def rule(**changes) -> Rule:
    """Two of three approvers, on one dataset, at least 0.9."""
    fields = {
        "required": 2,
        "approvers": {name: public(name) for name in ("alice", "bob", "carol")},
        "limits": Thresholds(accuracy_min=0.9, robustness=Robustness(0.5, 0.05, 50)),
        "dataset": DATASET,
        "known": frozenset({"alice", "bob", "carol", "mallory"}),
    }
    return Rule(**{**fields, **changes})


def evaluation(**changes) -> Evaluation:
    made = Evaluation(
        format="stockade.evaluation/1",
        model="kiosk",
        version="2",
        bundle=BUNDLE,
        dataset=Measured(sha256=DATASET, file="test.safetensors", rows=1000),
        baseline=Baseline(version="1", bundle="ef" * 32),
        lineage={"data": {}, "recipe": {"seed": 0}},
        metrics={
            "accuracy": Measure(value=0.95, low=0.93, high=0.97, rows=1000),
            "robust_accuracy": Measure(value=0.7, low=0.6, high=0.8, rows=200),
            "disagreement": Measure(value=0.02, low=0.01, high=0.03, rows=1000),
            "cpu_seconds_per_1000": Measure(value=0.36),
        },
        decided={"a": Decided(rows=600, correct=580), "b": Decided(rows=400, correct=370)},
        attacked=Attacked(attack="random-search", radius=0.05, queries=50),
        gates=(),
        seed=0,
        build="0.1.0",
        time=MOMENT,
    )
    return replace(made, **changes)


def statement(approver: str, signed: Evaluation | None, **changes) -> Statement:
    made = Statement(
        approver=approver,
        bundle=BUNDLE,
        decision="approve",
        evaluation=digest_of(encode(signed)) if signed is not None else "",
        model="kiosk",
        time=MOMENT,
        version="2",
    )
    return replace(made, **changes)


def approval(approver: str, signed: Evaluation | None, *, key: str = "", **changes) -> bytes:
    return sign(statement(approver, signed, **changes), key_of(key or approver))


def write_evidence(directory, found: Evaluation | None, files: dict[str, bytes]):
    directory.mkdir(parents=True, exist_ok=True)
    if found is not None:
        (directory / "evaluation.json").write_bytes(encode(found))
    for name, data in files.items():
        (directory / f"{name}.json").write_bytes(data)
    return directory

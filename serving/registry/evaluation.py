"""An evaluation: what was measured of one bundle on one labelled dataset, in canonical JSON.

Canonical: UTF-8, keys sorted, no space, numbers as short as they can be read back, one line feed at the end. So two
files say the same exactly when their bytes are the same, and SHA-256 of the file is what approvers sign.
`gates` are the results under the thresholds of the day; whoever decides judges the metrics again
(`serving.registry.gates`). Pure: bytes in, values or `EvidenceRejected` out.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from serving.registry.errors import EvidenceRejected

EVALUATION_BYTES_MAX = 1024 * 1024

Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Word = Annotated[str, Meta(pattern=r"\A[ -~]{1,256}\Z")]  # it is shown to people: nothing moves their cursor
Problem = Annotated[str, Meta(pattern=r"\A[ -~]{0,256}\Z")]


class Part(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are refused."""


class Measure(Part, frozen=True):
    """A measured number; `low` and `high` bound it with 95 % confidence, where that means something."""

    value: float
    low: float | None = None
    high: float | None = None
    rows: int = 0


class Decided(Part, frozen=True):
    """Rows of one true class, and how many of them the model got right."""

    rows: Annotated[int, Meta(ge=0)]
    correct: Annotated[int, Meta(ge=0)]


class Attacked(Part, frozen=True):
    """How hard the model was attacked when `robust_accuracy` was measured."""

    attack: Word
    radius: float
    queries: int


class Measured(Part, frozen=True):
    """The labelled data: SHA-256 of its file, and its rows."""

    sha256: Digest
    file: Word
    rows: int


class Baseline(Part, frozen=True):
    """The version that was compared with, by the digest of its bundle."""

    version: Word
    bundle: Digest


class GateResult(Part, frozen=True):
    """A gate, its threshold and what stood against it. `found` is None where that was not measured."""

    name: Word
    limit: float
    found: float | None
    passed: bool
    problem: Problem = ""


class Evaluation(Part, frozen=True):
    """What was measured. `bundle` is the digest of its manifest; `lineage` is the manifest's data and recipe."""

    format: Literal["stockade.evaluation/1"]
    model: Word
    version: Word
    bundle: Digest
    dataset: Measured
    baseline: Baseline | None
    lineage: dict[str, Any]
    metrics: dict[Word, Measure]
    decided: dict[str, Decided]
    attacked: Attacked | None
    gates: tuple[GateResult, ...]
    seed: int
    build: Word
    time: Word


def encode(evaluation: Evaluation) -> bytes:
    """Return the canonical bytes."""
    return msgspec.json.encode(evaluation, order="sorted") + b"\n"


def digest_of(data: bytes) -> str:
    """Return what approvers sign of it."""
    return hashlib.sha256(data).hexdigest()


def parse_evaluation(data: bytes) -> Evaluation:
    """Return the evaluation that these bytes are.

    Raises:
        EvidenceRejected: they are none, or not canonical.
    """
    if len(data) > EVALUATION_BYTES_MAX:
        raise EvidenceRejected(f"is larger than {EVALUATION_BYTES_MAX} bytes")
    try:
        evaluation = msgspec.json.decode(data, type=Evaluation)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise EvidenceRejected("is not an evaluation of format 1") from None
    if encode(evaluation) != data:
        raise EvidenceRejected("is not canonical JSON, so it was edited")
    return evaluation

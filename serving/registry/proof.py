"""Whether a version has proven what it must: a rule, a bundle and its evidence in, a proof or the reasons why not out.

A version is proven when

1. the rule exempts this very bundle, by version and digest; or
2. its evaluation is of this bundle, on the dataset that the rule names, passes every gate under the rule's limits, and
   `required` different approvers have signed this evaluation of this bundle; or
3. `required` different approvers have signed an override, with their reasons: it stands in for whatever 2 finds wrong
   with the evaluation, also that there is none, and never for a signature.

An approval counts when it is in the file of its approver, the rule lets him approve, his key signed it, and it is about
this model, version, bundle and evaluation. One that does not is told with the reason, and does not count. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serving.registry.approval import signed_by
from serving.registry.evidence import EVALUATION_FILE
from serving.registry.gates import judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from serving.registry.approval import Approval
    from serving.registry.evaluation import Evaluation
    from serving.registry.evidence import Evidence
    from serving.registry.gates import Thresholds

SHOWN = 12


@dataclass(frozen=True, slots=True)
class About:
    """The version that is to be proven; `bundle` is its digest."""

    model: str
    version: str
    bundle: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What a model's versions must have. `approvers` holds the keys of those who may approve, raw, in hex.

    `known` are all approvers that the policy has, whatever they may approve.
    """

    required: int
    approvers: Mapping[str, str]
    limits: Thresholds
    dataset: str | None = None
    exempt: Mapping[str, str] = field(default_factory=dict)
    known: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Proof:
    """Why a version may be served. `override` holds the reasons of an override, `ignored` what did not count."""

    evaluation: str = ""
    approvers: tuple[str, ...] = ()
    override: str = ""
    exempt: bool = False
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unproven:
    """Why a version may not be served."""

    problems: tuple[str, ...]
    evaluation: str = ""
    approvers: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        return "; ".join(self.problems)


def decide(rule: Rule, about: About, evidence: Evidence) -> Proof | Unproven:
    """Return the proof of a version, or why it has none."""
    if rule.exempt.get(about.version) == about.bundle:
        return Proof(exempt=True)
    counted: dict[str, Approval] = {}
    ignored: list[str] = []
    for file, approval in evidence.approvals:
        problem = objection(rule, about, evidence, file, approval)
        if problem:
            ignored.append(f"{file}.json: {problem}")
        else:
            counted[file] = approval
    ignored += [problem for problem in evidence.problems if not problem.startswith(f"{EVALUATION_FILE}:")]
    faults = tuple(evaluation_faults(rule, about, evidence))
    overriding = {name: each for name, each in counted.items() if each.statement.decision == "override"}
    if not faults and len(counted) >= rule.required:
        return Proof(evidence.digest, tuple(sorted(counted)), ignored=tuple(ignored))
    if faults and len(overriding) >= rule.required:
        names = tuple(sorted(overriding))
        reasons = "; ".join(f"{name}: {overriding[name].statement.reason}" for name in names)
        return Proof(evidence.digest, names, reasons, ignored=tuple(ignored))
    if not faults or overriding:
        counts = counted if not faults else overriding
        what = "approvals" if not faults else "overrides"
        shown = f" ({', '.join(sorted(counts))})" if counts else ""
        faults = (*faults, f"has {len(counts)} of {rule.required} {what}{shown}")
    return Unproven((*faults, *ignored)[:SHOWN], evidence.digest, tuple(sorted(counted)))


def objection(rule: Rule, about: About, evidence: Evidence, file: str, approval: Approval) -> str:
    """Return why an approval does not count, or ""."""
    said = approval.statement
    unnamed = (
        f"{said.approver} has no right to approve {about.model}"
        if said.approver in rule.known
        else f"{said.approver} is not an approver of the policy"
    )
    checks = (
        (said.approver == file, f"holds the approval of {said.approver}; an approver has one file, under his own name"),
        (said.approver in rule.approvers, unnamed),
        (signed_by(approval, rule.approvers.get(said.approver, "")), f"was not signed by the key of {said.approver}"),
        ((said.model, said.version) == (about.model, about.version), f"is about {said.model} version {said.version}"),
        (said.bundle == about.bundle, f"is about another bundle, {said.bundle}"),
        (said.evaluation == evidence.digest, "is about another evaluation, or this one was edited after it was signed"),
        (said.decision != "override" or bool(said.reason.strip()), "overrides without a reason"),
    )
    return next((problem for holds, problem in checks if not holds), "")


def evaluation_faults(rule: Rule, about: About, evidence: Evidence) -> Iterator[str]:
    """Yield what is wrong with the evaluation: there is none, it is of something else, a gate is not passed."""
    yield from (problem for problem in evidence.problems if problem.startswith(f"{EVALUATION_FILE}:"))
    if evidence.evaluation is None:
        if not evidence.digest:
            yield "has no evaluation; `stockade models evaluate` makes one"
        return
    yield from faults_of(rule, about, evidence.evaluation)


def faults_of(rule: Rule, about: About, found: Evaluation) -> Iterator[str]:
    """Yield what is wrong with an evaluation under this rule."""
    if (found.model, found.version, found.bundle) != (about.model, about.version, about.bundle):
        yield f"the evaluation is of another bundle: {found.model} version {found.version}, {found.bundle}"
    if rule.dataset is not None and found.dataset.sha256 != rule.dataset:
        yield f"the evaluation is on dataset {found.dataset.sha256}, and the policy names {rule.dataset}"
    for gate in judge(found.metrics, found.decided, found.attacked, rule.limits):
        if not gate.passed:
            yield f"gate {gate.name}: {gate.problem}"

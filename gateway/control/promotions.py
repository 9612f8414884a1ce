"""Which versions have proven what the policy asks for: the policy and the bundles of a host, beside their evidence.

It reads evidence and decides nothing of its own: the rule is the policy's (`gateway.policy.promotion`), what counts is
`serving.registry.proof`'s. The supervisor asks before any worker does; the verbs of `stockade models` ask the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.policy.promotion import rule_of
from serving.registry.errors import EvidenceRejected
from serving.registry.evidence import directory_of, read_evidence
from serving.registry.proof import About, Proof, Unproven, decide

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from gateway.models.model_set import Key, Listed
    from gateway.policy.policy import ModelPolicy, Policy

REASON_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True)
class Judged:
    """Versions of models that have a `promotion`: those that are proven, and those that are not, with the reasons."""

    proofs: Mapping[Key, Proof] = field(default_factory=dict)
    unproven: Mapping[Key, tuple[Listed, Unproven]] = field(default_factory=dict)


def judge_versions(policy: Policy, versions: Iterable[Listed], approvals: Path) -> Judged:
    """Judge these versions by the policy. Blocks: it reads their evidence below `approvals`."""
    proofs: dict[Key, Proof] = {}
    unproven: dict[Key, tuple[Listed, Unproven]] = {}
    for listed in versions:
        model = policy.models.get(listed.name)
        if model is None or model.promotion is None:
            continue
        rule = rule_of(model.promotion, policy.approvers)
        try:
            evidence = read_evidence(directory_of(approvals, listed.name, listed.version))
            found = decide(rule, About(listed.name, listed.version, listed.digest), evidence)
        except EvidenceRejected as problem:
            found = Unproven((str(problem),))
        if isinstance(found, Proof):
            proofs[listed.key] = found
        else:
            unproven[listed.key] = listed, found
    return Judged(proofs, unproven)


def named_versions(model: ModelPolicy) -> Iterator[tuple[str, str]]:
    """Yield the versions that a policy puts in force, each with the key that names it."""
    yield "serve", model.serve
    if model.release is not None:
        for version in model.release.versions:
            if version != model.serve:
                yield "release", version


def newly_named(policy: Policy, before: Policy) -> set[Key]:
    """Return the versions that a policy puts in force, and the one before did not."""

    def keys(of: Policy) -> set[Key]:
        return {(name, version) for name, model in of.models.items() for _, version in named_versions(model)}

    return keys(policy) - keys(before)


def refusals(policy: Policy, judged: Judged) -> list[tuple[str, Listed, Unproven]]:
    """Return why a policy cannot be put in force: a sentence for each version that it names and that is not proven."""
    found = []
    for name, model in policy.models.items():
        for where, version in named_versions(model):
            if (name, version) in judged.unproven:
                listed, unproven = judged.unproven[name, version]
                sentence = f"models.{name}.{where}: version {version!r} may not be served: {unproven.sentence}"
                found.append((sentence, listed, unproven))
    return found


def proof_entry(listed: Listed, proof: Proof) -> dict[str, Any]:
    """Return what the log says of a version that is proven."""
    return _entry("promoted", listed, proof.evaluation, proof.approvers, override=proof.override, exempt=proof.exempt)


def unproven_entry(listed: Listed, unproven: Unproven) -> dict[str, Any]:
    """Return what the log says of a version that was refused."""
    reason = unproven.sentence[:REASON_CHARACTERS_MAX]
    return _entry("rejected", listed, unproven.evaluation, unproven.approvers, reason=reason)


def _entry(action: str, listed: Listed, evaluation: str, approvers: tuple[str, ...], **more: Any) -> dict[str, Any]:
    fields = {"action": action, "name": listed.name, "version": listed.version, "digest": listed.digest}
    known = {"evaluation": evaluation, "approvers": list(approvers), **more}
    if known.get("override"):
        known["override"] = known["override"][:REASON_CHARACTERS_MAX]
    return {**fields, **{name: value for name, value in known.items() if value}}

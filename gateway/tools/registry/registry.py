"""What the verbs of `stockade models` work with: a host's files, its bundles, and the evidence beside them.

Everything is read from the files, as the gateway would read them; no running gateway is asked. The verbs are in
`gateway.tools.registry.verbs`, what they print in `gateway.tools.registry.view`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from defenses.errors import DefenseError
from gateway.config.document import FileRejected
from gateway.config.load import load_config
from gateway.config.place import place_of
from gateway.control.promotions import judge_versions, named_versions, refusals
from gateway.models.model_set import MODELS, Listed, read_models
from gateway.policy.edit import edit
from gateway.policy.load import load_policy, parse_policy, sign_checked
from gateway.policy.promotion import rule_of
from gateway.policy.signature import signature_path
from gateway.tools.terminal import guarded
from serving.bundles.bundle import load_bundle
from serving.bundles.catalog import find_bundles
from serving.errors import BundleRejected, ServingError
from serving.registry.approval import REASON_CHARACTERS_MAX, Statement, key_hex, parse_approval, sign
from serving.registry.errors import RegistryError
from serving.registry.evidence import directory_of, read_evidence, write_file
from serving.registry.proof import About, faults_of
from serving.train.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from gateway.config.config import Config
    from gateway.control.promotions import Judged
    from gateway.policy.policy import ModelPolicy, Policy
    from serving.bundles.bundle import Bundle
    from serving.registry.evidence import Evidence
    from serving.registry.proof import Rule


class RegistryRefused(Exception):
    """A verb does nothing, and says why."""


saying = guarded((RegistryRefused,), (FileRejected, ServingError, RegistryError, TrainingError, DefenseError))
"""Decorates what runs a command of the registry."""


@dataclass(frozen=True, slots=True)
class Registry:
    """The files of a host. `policy` is the signed one."""

    config: Config
    policy: Policy

    def model(self, name: str) -> ModelPolicy:
        """Return what the policy says of a model. Raises RegistryRefused."""
        if name not in self.policy.models:
            there = ", ".join(sorted(self.policy.models))
            raise RegistryRefused(f"{name!r} is not a model of the policy; there are: {there}")
        return self.policy.models[name]

    def rule(self, name: str) -> Rule:
        """Return what the versions of a model must have proven. Raises RegistryRefused."""
        promotion = self.model(name).promotion
        if promotion is None:
            raise RegistryRefused(f"models.{name} has no `promotion` in the policy, so nothing is to be proven")
        return rule_of(promotion, self.policy.approvers)

    def bundle(self, name: str, version: str) -> Bundle:
        """Return a verified bundle. Raises RegistryRefused, BundleRejected."""
        for directory in find_bundles(self.config.bundles.directory):
            if (directory.parent.name, directory.name) == (name, version):
                return load_bundle(directory, self.config.bundles.trusted_keys)
        raise RegistryRefused(f"there is no bundle {name}/{version} in {self.config.bundles.directory}")

    def evidence(self, name: str, version: str) -> Evidence:
        """Return the evidence of a version. Raises EvidenceRejected."""
        return read_evidence(self.directory(name, version))

    def directory(self, name: str, version: str) -> Path:
        """Return where the evidence of a version lies."""
        return directory_of(self.config.bundles.evidence, name, version)

    def judged(self, policy: Policy, versions: list[Listed]) -> Judged:
        """Judge versions by a policy."""
        return judge_versions(policy, versions, self.config.bundles.evidence)

    def versions(self) -> Iterator[Version]:
        """Yield every version that is there."""
        unloaded = read_models(place_of(self.config).memory.with_name(MODELS)).unloaded
        for directory in find_bundles(self.config.bundles.directory):
            name, number = directory.parent.name, directory.name
            try:
                bundle = load_bundle(directory, self.config.bundles.trusted_keys)
            except BundleRejected as problem:
                yield Version(name, number, "rejected", "", str(problem))
                continue
            listed = Listed(bundle.name, bundle.version, bundle.digest, f"{name}/{number}")
            yield self.version(listed, out=listed.key in unloaded)

    def version(self, listed: Listed, *, out: bool) -> Version:
        """Return how a version stands."""
        judged = self.judged(self.policy, [listed])
        model = self.policy.models.get(listed.name)
        state = state_of(model, listed.version)
        proof, evidence = judged.proofs.get(listed.key), ""
        if proof is not None:
            evidence = "exempt" if proof.exempt else ", ".join(proof.approvers)
            evidence = f"override by {evidence} ({proof.override})" if proof.override else evidence
        elif listed.key in judged.unproven:
            evidence, state = judged.unproven[listed.key][1].sentence, "unapproved"
        elif model is not None:
            evidence = "not asked for"
        return Version(listed.name, listed.version, "unloaded" if out else state, listed.digest, evidence)


@dataclass(frozen=True, slots=True)
class Version:
    """A version as `stockade models list` shows it. `evidence` says by whose word it may be served, or why not."""

    model: str
    version: str
    state: str
    digest: str
    evidence: str


def state_of(model: ModelPolicy | None, version: str) -> str:
    """Return what the policy does with a version."""
    if model is None:
        return "not in the policy"
    release = model.release
    if version == model.serve:
        return "served"
    if release is not None and release.canary is not None and release.canary.version == version:
        return "canary"
    if release is not None and release.shadow is not None and release.shadow.version == version:
        return "shadow"
    if release is not None and version in (release.weights or {}):
        return "weighted"
    return "ready"


def open_registry(file: Path) -> Registry:
    """Return the files of a host. Raises FileRejected, OSError."""
    config = load_config(file)
    return Registry(config, load_policy(config.policy.file, config.policy.public_key))


def parse_version(text: str) -> tuple[str, str]:
    """Return name and version of "NAME/VERSION". Raises RegistryRefused."""
    name, slash, version = text.partition("/")
    if not (name and slash and version) or "/" in version:
        raise RegistryRefused(f"{text!r} is not NAME/VERSION, such as kiosk/2")
    return name, version


def approve(
    registry: Registry, about: About, approver: str, key: Ed25519PrivateKey, *, override: str | None, time: str
) -> Path:
    """Sign the evaluation of a version, or an override, and put the approval beside it. Returns its file.

    Raises:
        RegistryRefused: the signature would not count.
        EvidenceRejected, OSError.
    """
    if len(override or "") > REASON_CHARACTERS_MAX or not (override is None or override.strip()):
        raise RegistryRefused(f"a reason has 1 to {REASON_CHARACTERS_MAX} characters")
    rule = registry.rule(about.model)
    if rule.approvers.get(approver) != key_hex(key):
        known = "has another key there" if approver in rule.approvers else "is not among its approvers"
        raise RegistryRefused(f"the policy says who may approve {about.model}, and {approver} {known}")
    evidence = registry.evidence(about.model, about.version)
    if override is None:
        if evidence.evaluation is None:
            raise RegistryRefused("there is no evaluation to approve; `stockade models evaluate` makes one")
        if faults := list(faults_of(rule, about, evidence.evaluation)):
            raise RegistryRefused(f"{'; '.join(faults)}; to let it pass all the same, sign with --override REASON")
    statement = Statement(
        approver=approver,
        bundle=about.bundle,
        decision="approve" if override is None else "override",
        evaluation=evidence.digest,
        model=about.model,
        reason=override or "",
        time=time,
        version=about.version,
    )
    file = registry.directory(about.model, about.version) / f"{approver}.json"
    data = sign(statement, key)
    parse_approval(data)  # a reason may hold what the gateway would not read
    write_file(file, data)
    return file


def rewrite(registry: Registry, model: str, serve: str, release: Mapping[str, Any] | None, key: Path | None) -> Policy:
    """Write the next revision of the policy, with this version in `serve` and this release, and sign it with a key.

    Nothing is written unless the policy is valid, every version that it names is there and proven, and the key fits.

    Raises:
        RegistryRefused: a version is not there, or not proven.
        FileRejected, ServingError, OSError.
    """
    source = registry.config.policy
    file = source.file.resolve()
    new = edit(file.read_text(encoding="utf-8"), source.file, model, serve, release)
    policy = parse_policy(new.text.encode(), source.file)
    named = [registry.bundle(model, version) for _, version in named_versions(policy.models[model])]
    judged = registry.judged(policy, [Listed(each.name, each.version, each.digest, "") for each in named])
    if lacking := refusals(policy, judged):
        raise RegistryRefused("\n".join(sentence for sentence, _, _ in lacking))
    write_policy(registry, new.text, key)
    return policy


def write_policy(registry: Registry, text: str, key: Path | None) -> None:
    """Put a valid policy in place of the one in the file, and sign it with a key. Raises FileRejected, OSError."""
    source = registry.config.policy
    file = source.file.resolve()
    draft = file.with_name(f".{file.name}.next")
    try:
        draft.write_text(text, encoding="utf-8")
        shutil.copymode(file, draft)
        if key is not None:
            sign_checked(draft, key, source.public_key)
        draft.replace(file)  # a gateway that sees this waits for the signature
        if key is not None:
            signature_path(draft).replace(signature_path(file))
    finally:
        draft.unlink(missing_ok=True)
        signature_path(draft).unlink(missing_ok=True)

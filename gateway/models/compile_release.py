"""From the policy's releases to what the pipeline asks: who is answered by which version, and what is compared.

A worker compiles a policy without knowing how far its canaries are; `with_standings` brings that in, when the policy is
put in force and whenever the host says that a canary has moved. A standing belongs to one canary as the policy words it
(its fingerprint): another wording begins without a share, until the host gives it one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway.config.document import PolicyRejected
from gateway.models.rules import Mirror
from gateway.models.split import Split, split_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from gateway.models.rules import Active, ModelRules
    from gateway.models.served import Served
    from gateway.policy.policy import ModelPolicy, Policy
    from serving.bundles.bundle import Bundle

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a canary is: its share of the principals, and whether it is still being compared."""

    fingerprint: str
    share: float
    running: bool


def fingerprint(model: ModelPolicy) -> str:
    """Return what a canary's progress belongs to: `serve` and all that its section says; empty without a canary."""
    if model.release is None or model.release.canary is None:
        return ""
    # Without defaults: keys that a later build knows must not bring back what was taken back.
    said = model.release.canary.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    meant = {"serve": model.serve, "canary": said}
    return hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()


def standing_of(name: str, model: ModelPolicy, standings: Mapping[str, Standing]) -> Standing:
    """Return the standing of a model's canary as the policy words it, and with a share it names; else: no share yet."""
    mark = fingerprint(model)
    known = standings.get(name)
    named = (0.0, *model.release.canary.steps) if model.release is not None and model.release.canary is not None else ()
    if known is not None and known.fingerprint == mark and known.share in named:
        return known
    return Standing(mark, 0.0, running=True)


def weights_of(name: str, model: ModelPolicy, standings: Mapping[str, Standing]) -> dict[str, float]:
    """Return the weights in force of a model's versions."""
    release = model.release
    if release is not None and release.weights is not None:
        return dict(release.weights)
    if release is not None and release.canary is not None:
        share = standing_of(name, model, standings).share
        return {model.serve: 1.0 - share, release.canary.version: share}
    return {model.serve: 1.0}


def splits_of(policy: Policy, standings: Mapping[str, Standing], unloaded: Collection[Key] = ()) -> dict[str, Split]:
    """Return the split of each model that has one, among the versions that are in service."""
    return {
        name: split_of(name, in_service(name, model, weights_of(name, model, standings), unloaded), model.release.salt)
        for name, model in policy.models.items()
        if model.release is not None and (model.release.weights is not None or model.release.canary is not None)
    }


def in_service(name: str, model: ModelPolicy, weights: dict[str, float], unloaded: Collection[Key]) -> dict[str, float]:
    """Return the weights without the versions that are out of service: the others answer their callers.

    The version in `serve` keeps its own, who are refused: a canary is not given more than it was to have. Where nothing
    is left, all keep theirs.
    """
    left = {
        version: weight
        for version, weight in weights.items()
        if version == model.serve or (name, version) not in unloaded
    }
    return left if any(left.values()) else weights


def require_versions(policy: Policy, served: Mapping[Key, Served]) -> None:
    """Return if each version of a release is there and takes and gives what the version in `serve` does.

    Raises:
        PolicyRejected: one does not; where nothing is served, nothing is asked.
    """
    for name, model in policy.models.items():
        for version in model.release.versions if served and model.release is not None else ():
            if (name, version) not in served:
                there = ", ".join(other for found, other in served if found == name)
                raise PolicyRejected(
                    [f"models.{name}.release: there is no bundle of version {version!r} (there: {there})"]
                )
            old, new = served[name, model.serve].bundle, served[name, version].bundle
            if offered(model, old) != offered(model, new):
                problem = f"version {version!r} has other inputs, outputs or classes than version {model.serve!r}"
                raise PolicyRejected([f"models.{name}.release: {problem}; give it a name of its own"])


def offered(model: ModelPolicy, bundle: Bundle) -> tuple[object, ...]:
    """Return what clients see of a version: inputs, classes, and the outputs that they may have."""
    outputs = [spec for spec in bundle.outputs if model.outputs is None or spec.name in model.outputs]
    return bundle.inputs, bundle.class_names, outputs


def with_mirrors(models: Mapping[Key, ModelRules], policy: Policy) -> dict[Key, ModelRules]:
    """Return the rules with what is run beside each: the shadow, or the other version of a canary."""
    found = dict(models)
    for (name, version), rules in models.items():
        release = policy.models[name].release
        if release is None:
            continue
        other, rate = "", 0.0
        if release.shadow is not None and version != release.shadow.version:
            other, rate = release.shadow.version, release.shadow.rate
        elif release.canary is not None and version in {policy.models[name].serve, release.canary.version}:
            serve = policy.models[name].serve
            other, rate = release.canary.version if version == serve else serve, release.canary.compare_rate
        if other and rules.prediction is not None and models[name, other].prediction is not None:
            found[name, version] = replace(rules, mirror=Mirror(models[name, other], rate, rules.prediction))
        elif other and release.shadow is not None:
            raise PolicyRejected(
                [f"models.{name}.release.shadow: the bundles have no prediction that could be compared"]
            )
    return found


def with_standings(active: Active, policy: Policy, standings: Mapping[str, Standing]) -> Active:
    """Return the policy with its canaries where they stand; what is over or out of service is compared no more."""
    over = {
        name
        for name, model in policy.models.items()
        if fingerprint(model) and not standing_of(name, model, standings).running
    }
    models = {
        key: replace(rules, mirror=None) if key[0] in over or absent(rules.mirror) else rules
        for key, rules in active.models.items()
    }
    unloaded = {key for key, rules in active.models.items() if rules.served.unloaded}
    return replace(active, models=models, splits=splits_of(policy, standings, unloaded))


def absent(mirror: Mirror | None) -> bool:
    """Say whether a version is to be compared with one that is out of service."""
    return mirror is not None and mirror.rules.served.unloaded

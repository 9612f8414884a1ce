"""The bundles, and the policy against them, as `stockade check` looks at them: what serving would do, without engines.

Every bundle is verified and loaded, as the gateway does at its start, the policy is compiled for them, and versions
that it names are held to the proof that it asks for. No graph is run, no server that runs models is asked, and no
issuer's keys are fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from gateway.auth.isolation import ISOLATIONS, read_isolations
from gateway.config.config import Config
from gateway.config.document import FileRejected, PolicyRejected, unusable
from gateway.config.place import place_of
from gateway.control.promotions import judge_versions, refusals
from gateway.models.compile import compile_policy
from gateway.models.model_set import MODELS, Key, Listed, read_models
from gateway.models.models import out_of_service
from gateway.policy.file import Memory
from gateway.policy.issuers import without_keys
from gateway.policy.policy import Policy
from gateway.tools.check.finding import Finding
from serving.bundles.bundle import Bundle, load_bundle, read_keys
from serving.bundles.catalog import find_bundles
from serving.errors import BundleDuplicate, BundleRejected, Rejection

WHERE = "bundles.directory"
STATE = "audit.state_directory"
NO_PEPPER = bytes(32)  # nobody is let in by what is compiled here

Bundles = Mapping[Key, Bundle]


def bundle_findings(config: Config) -> tuple[Bundles | None, list[Finding]]:
    """Verify every bundle. Returns them, or None where one cannot be used, with all that was found."""
    findings = [*_out_of_service(config), *_kept_out(config)]
    root = config.bundles.directory
    try:
        read_keys(config.bundles.trusted_keys)
        directories = find_bundles(root) if root.is_dir() else None
    except BundleRejected as problem:
        if problem.reason is not Rejection.KEY_UNUSABLE:  # `check_files` says what is wrong with keys
            findings.append(Finding("error", WHERE, str(problem)))
        return None, findings
    if directories is None:
        return None, findings
    bundles: dict[Key, Bundle] = {}
    broken = []
    for directory in directories:
        try:
            bundle = load_bundle(directory, config.bundles.trusted_keys)
        except BundleRejected as problem:
            broken.append(str(problem))
            continue
        if (bundle.name, bundle.version) in bundles:
            broken.append(f"{directory}: {BundleDuplicate(bundle.name, bundle.version)}")
        bundles[bundle.name, bundle.version] = bundle
    findings += [Finding("error", WHERE, problem) for problem in broken]
    return None if broken else bundles, findings


def policy_and_bundles(policy: Policy, config: Config, bundles: Bundles | None, now: datetime) -> Iterator[Finding]:
    """Compile the policy for the bundles, and see whether it may replace the one that was last in force."""
    file = config.policy.file
    try:
        Memory(place_of(config).memory).require_newest(policy, file)
    except FileRejected as rejected:
        yield from (Finding("error", str(file), line) for line in rejected.lines)
    except OSError as problem:
        yield Finding("error", STATE, unusable(problem))
    if bundles is None:
        return
    if not bundles and policy.models:
        there = config.bundles.directory
        advice = f"copy their signed bundles to {there}/<name>/<version>"
        yield Finding("error", WHERE, f"{there} holds no bundle, so nobody is answered: {advice}")
    served = {key: out_of_service(bundle, config) for key, bundle in bundles.items()}
    try:
        compile_policy(policy, served, NO_PEPPER, without_keys(policy.issuers), int(now.timestamp() * 1_000_000_000))
    except PolicyRejected as rejected:
        yield from (Finding("error", str(file), line) for line in rejected.lines)
    versions = [Listed(each.name, each.version, each.digest, "") for each in bundles.values()]
    lacking = refusals(policy, judge_versions(policy, versions, config.bundles.evidence))
    yield from (Finding("error", str(file), sentence) for sentence, _, _ in lacking)


def _out_of_service(config: Config) -> Iterator[Finding]:
    file = place_of(config).memory.with_name(MODELS)
    try:
        unloaded = sorted(read_models(file).unloaded)
    except PolicyRejected as problem:
        yield Finding("error", STATE, str(problem))
        return
    except OSError as problem:
        yield Finding("error", STATE, unusable(problem))
        return
    for name, version in unloaded:
        out = f"somebody took {name} version {version} out of service; it answers once it is loaded again"
        yield Finding("warning", "bundles.directory", out)


def _kept_out(config: Config) -> Iterator[Finding]:
    try:
        held = read_isolations(place_of(config).memory.with_name(ISOLATIONS)).listed
    except PolicyRejected as problem:
        yield Finding("error", STATE, str(problem))
        return
    except OSError as problem:
        yield Finding("error", STATE, unusable(problem))
        return
    for one in held:
        who = f"principal {one.principal} of tenant {one.tenant}" if one.principal else f"tenant {one.tenant}"
        yield Finding(
            "warning", "policy.file", f"an operator keeps {who} out: {one.reason}; see `stockade tenants list`"
        )

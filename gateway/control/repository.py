"""The models of a host, in the supervisor: which bundles it knows, and putting versions into and out of service.

`Repository` knows bundles, the file that says so, and no processes. `change` is what a client's load or unload comes
to: every worker of the host follows, or none; then it is in the log, with the request that asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from gateway.config.document import PolicyRejected
from gateway.control.promotions import Judged, judge_versions, refusals
from gateway.models.model_set import Listed, ModelSet, read_models
from gateway.models.models import load_bundles
from ops.process.durable import keep_file
from serving.bundles.bundle import load_bundle
from serving.bundles.catalog import find_bundles
from serving.errors import BundleRejected, Rejection

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from gateway.config.config import Config
    from gateway.models.model_set import Key
    from gateway.policy.policy import Policy
    from ops.process.logging import Log
    from serving.bundles.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client wants of a model; an empty version means all that he has the right for."""

    action: Literal["load", "unload"]
    model: str
    version: str
    principal: str
    request: str

    @property
    def loads(self) -> bool:
        """Say whether it is to be put into service."""
        return self.action == "load"

    @property
    def right(self) -> str:
        """Return what the policy calls this."""
        return "RepositoryModelLoad" if self.loads else "RepositoryModelUnload"


@dataclass(slots=True)
class Repository:
    """The bundles of a host by their directories, and what `file` says of them. `draft` is for what may be refused.

    `judged` says which versions have the proof that the policy in force asks for. One without is not among the models.
    """

    config: Config
    file: Path
    draft: Path
    bundles: dict[str, Bundle] = field(default_factory=dict)
    models: ModelSet = field(default_factory=ModelSet)
    judged: Judged = field(default_factory=Judged)

    def open(self, log: Log) -> None:
        """Load every bundle that is there; what was out of service before stays so.

        Raises:
            ServingError: one of them will not do.
            PolicyRejected: nobody can tell what was out of service.
            OSError: it cannot be written down.
        """
        root = self.config.bundles.directory
        unloaded = read_models(self.file).unloaded
        self.bundles = {str(path.relative_to(root)): bundle for path, bundle in load_bundles(self.config, log).items()}
        self.keep(self.having({}, unloaded), {})
        for key in sorted(unloaded):
            log("model-out-of-service", level="warning", model=key[0], version=key[1])

    def require_proven(self, policy: Policy) -> None:
        """Return if every version that a policy names, and that is here, has the proof that it asks for.

        Raises:
            PolicyRejected: one has not.
        """
        judged = self.judge(policy, self.models.listed)
        self.judged = Judged(unproven={**self.judged.unproven, **judged.unproven})  # told once there is a log
        if found := refusals(policy, judged):
            raise PolicyRejected(sentence for sentence, _, _ in found)

    def admit(self, policy: Policy, log: Log) -> None:
        """At the start: leave out what has not the proof that the policy asks for. Raises OSError."""
        judged = self.judge(policy, self.models.listed)
        self.keep(self.having({}, without=judged.unproven), {})
        for listed, unproven in judged.unproven.values():
            facts = {"model": listed.name, "version": listed.version, "problem": unproven.sentence}
            log("model-rejected", level="warning", **facts)
        before = {key: told for key, told in self.judged.unproven.items() if key not in judged.proofs}
        self.judged = Judged(judged.proofs, {**before, **judged.unproven})

    def judge(self, policy: Policy, versions: Iterable[Listed]) -> Judged:
        """Say which of these versions have the proof that a policy asks for. Blocks: it reads evidence."""
        return judge_versions(policy, versions, self.config.bundles.evidence)

    def having(
        self,
        found: Mapping[str, Bundle],
        unloaded: frozenset[Key] | None = None,
        without: Collection[Key] = (),
    ) -> ModelSet:
        """Return the models with what was found besides; out of service is what was so before, or `unloaded`."""
        unloaded = self.models.unloaded if unloaded is None else unloaded
        known = sorted({**self.bundles, **found}.items())
        listed = (Listed(each.name, each.version, each.digest, at) for at, each in known)
        return ModelSet(tuple(one for one in listed if one.key not in without), unloaded)

    def keep(self, models: ModelSet, found: Mapping[str, Bundle]) -> None:
        """Write down, durably, what is in force from now on. Raises OSError."""
        if models != self.models or not self.file.exists():
            keep_file(self.file, models.to_json())
        self.models = models
        there = {listed.directory for listed in models.listed}
        self.bundles = {at: bundle for at, bundle in {**self.bundles, **found}.items() if at in there}

    def needed_by(self, policy: Policy) -> dict[str, Bundle]:
        """Return the bundles that a policy names and nobody has loaded yet, as far as they are there.

        Raises:
            BundleRejected: one of them will not do.
        """
        found: dict[str, Bundle] = {}
        for name, model in policy.models.items():
            for version in {model.serve, *(model.release.versions if model.release is not None else ())}:
                found |= self.new_ones(name, version)
        return found

    def new_ones(self, model: str, version: str = "") -> dict[str, Bundle]:
        """Return bundles that lie in `model/version` and that nobody has loaded yet; without a version, all of a model.

        Raises:
            BundleRejected: one of them will not do.
        """
        root = self.config.bundles.directory
        known = {listed.key for listed in self.models.listed}
        found: dict[str, Bundle] = {}
        for directory in find_bundles(root):
            said = directory.parent.name, directory.name
            if said[0] != model or version not in ("", said[1]) or said in known:
                continue
            bundle = found["/".join(said)] = load_bundle(directory, self.config.bundles.trusted_keys)
            if (bundle.name, bundle.version) != said:
                problem = f"it is version {bundle.version} of {bundle.name}, and its directory says otherwise"
                raise BundleRejected(Rejection.NAME, "/".join(said), problem)
        return found

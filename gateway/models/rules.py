"""The policy in force, compiled for the models that are served: who may call, and what holds for each model version.

`Active` is one compiled version of the policy. A reload builds a new one beside it and swaps the reference, so a
request sees a single policy from its first header to its record. Everything here is immutable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from gateway.auth.principal import NOTHING, PUBLIC, Presented, Principal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from defenses.budget.calibration import Calibrated
    from defenses.budget.hardening import HardeningRule
    from defenses.budget.output import OutputRule
    from defenses.budget.policy import ScreenRule
    from defenses.labels.feedback import Consistency
    from gateway.admission.budget import Budget
    from gateway.auth.rights import Rights
    from gateway.models.metering import BudgetRules
    from gateway.models.rotation import Rotations
    from gateway.models.served import Served
    from gateway.models.split import Split
    from gateway.models.watching import WatchRules
    from serving.bundles.manifest import TensorSpec

Level = Literal["local", "replica", "witnessed"]
"""Where a record has to be durable before its answer may leave."""


class Chain(Protocol):
    """Turns what a caller presents into a principal, or raises why not."""

    def authenticate(self, presented: Presented, now_ns: int) -> Principal: ...


@dataclass(frozen=True, slots=True)
class ScreenInForce:
    """A calibrated screen with what the record says of it; the digest is taken once."""

    calibrated: Calibrated
    digest: str
    technique: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept of one model, and for how long."""

    answers_max: int
    items_max: int
    window_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class FeedbackRules:
    """What the policy says about labels of one model version; `consistency` is what its bundle brings.

    `latent` and `prediction` are outputs. Of a request with more than `rows_max` rows, only those first are remembered.
    """

    consistency: Consistency
    latent: str
    prediction: str
    classes: tuple[str, ...]
    inconsistent_alpha: float
    rows_max: int
    bounds: Bounds
    trusted: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Mirror:
    """What is run beside a version, on this share of its batches, to compare. Its answers go nowhere.

    `prediction` is the output of both that is compared.
    """

    rules: ModelRules
    rate: float
    prediction: str


@dataclass(frozen=True, slots=True, eq=False)
class ModelRules:
    """What the policy says about one model version. `prediction` is the output that is hardened, if there is one.

    `reserved` holds the roles that may have an output which not everybody may. `on_request` are outputs that nobody
    gets who does not ask for them by name.
    """

    served: Served
    outputs: tuple[TensorSpec, ...]
    datatypes: Mapping[str, str]
    cost_per_row: int
    screens: Mapping[str, ScreenInForce]
    screen_rules: Mapping[str, ScreenRule]
    prediction: str | None
    hardening: HardeningRule | None
    harden_flagged: bool
    reveal_verdict: bool
    capture: str
    capture_rate: float
    mirror: Mirror | None = None
    reserved: Mapping[str, frozenset[str]] = field(default_factory=dict)
    on_request: frozenset[str] = frozenset()
    feedback: FeedbackRules | None = None
    watch: WatchRules | None = None
    budget: BudgetRules | None = None
    output: OutputRule | None = None
    rotations: Rotations | None = None
    acknowledge: Level = "local"

    def outputs_for(self, roles: frozenset[str]) -> tuple[TensorSpec, ...]:
        """Return the outputs that a caller with these roles may have; at least one."""
        if not self.reserved:
            return self.outputs
        return tuple(spec for spec in self.outputs if not roles.isdisjoint(self.reserved.get(spec.name, roles)))

    def given(self, outputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        """Return those of a caller's outputs that it gets without asking for any in particular; at least one."""
        if not self.on_request:
            return outputs
        return tuple(spec for spec in outputs if spec.name not in self.on_request)


@dataclass(frozen=True, slots=True)
class Active:
    """One compiled version of the policy. Immutable; requests hold on to the one they began with."""

    digest: str
    revision: int
    chain: Chain
    rights: Rights
    public_methods: frozenset[str]
    budgets: Mapping[str, Budget]
    models: Mapping[tuple[str, str], ModelRules]
    default_versions: Mapping[str, str]
    tenant_capture: Mapping[str, str]
    splits: Mapping[str, Split]
    feedback_keys: Mapping[str, frozenset[bytes]] = field(default_factory=dict)

    def authenticate(self, presented: Presented, right: str, now_ns: int) -> Principal:
        """Return who is calling; a method that the policy made public may be called by nobody in particular."""
        if right in self.public_methods and presented == NOTHING:
            return PUBLIC
        return self.chain.authenticate(presented, now_ns)

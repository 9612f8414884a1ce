"""From the policy file to what the pipeline asks: identities, rights, budgets and rules, as plain tables.

A reload runs this beside the policy in force: whatever is wrong with the new one, from a screen that a bundle does not
bring to a version that is not served, is PolicyRejected here, and nothing has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from defenses.budget.hardening import HardeningRule
from defenses.budget.policy import Action, Mode, calibrated_rule
from defenses.budget.steps import Step
from defenses.errors import DefenseError
from defenses.screens.evidence import COMPONENTS as EVIDENCE_OUTPUTS
from defenses.screens.evidence import load_evidence
from defenses.screens.trigger import OUTPUTS as TRIGGER_OUTPUTS
from defenses.screens.trigger import load_trigger
from gateway.admission.budget import compile_budget
from gateway.admission.limiter import Limits
from gateway.auth.api_key import ApiKey, ApiKeys
from gateway.auth.chain import Chain
from gateway.auth.errors import IdentitySetupError
from gateway.auth.jwt import Tokens
from gateway.auth.mtls import Certificates
from gateway.auth.principal import PUBLIC, Account
from gateway.auth.rights import Grant, Rights
from gateway.config.document import PolicyRejected
from gateway.models.compile_budget import budget_rules
from gateway.models.compile_feedback import feedback_keys_of, feedback_rules
from gateway.models.compile_output import ABSTAINED, output_rule_of
from gateway.models.compile_release import require_versions, splits_of, with_mirrors
from gateway.models.rotation import WIDTH_MAX, open_rotations
from gateway.models.rules import Active, ModelRules, ScreenInForce
from gateway.models.watching import WatchRules
from serving.bundles.manifest import PROTOTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from defenses.budget.calibration import Calibrated
    from defenses.budget.policy import ScreenRule
    from gateway.admission.budget import Budget
    from gateway.auth.jwt import Issuer
    from gateway.models.rotation import Rotations
    from gateway.models.served import Served
    from gateway.policy.policy import LimitSet, ModelPolicy, Policy
    from gateway.policy.watch import Watch, WatchStep
    from serving.bundles.bundle import Bundle
    from serving.bundles.manifest import TensorSpec

PREDICTION = "probabilities"  # the output that hardening is for
PREDICTION_DIMS = EMBEDDING_DIMS = 2
SCREENS: Mapping[str, Callable[[Mapping[str, Any]], Calibrated]] = {
    "evidence": load_evidence,
    "trigger": load_trigger,
}
SCREEN_OUTPUTS: Mapping[str, tuple[str, ...]] = {"evidence": EVIDENCE_OUTPUTS, "trigger": TRIGGER_OUTPUTS}
PROTOTYPE_OUTPUTS = frozenset({"prototypes", "prototype_distances"})  # a version may have none: they are an extra
FLOATS = frozenset({"FP16", "FP32", "FP64"})
PUBLIC_LIMITS = Limits(
    request_interval_ns=20_000_000, request_burst=100, cost_interval_ns=20_000_000, cost_burst=100, in_flight_max=32
)


def compile_policy(
    policy: Policy, served: Mapping[tuple[str, str], Served], pepper: bytes, issuers: Iterable[Issuer], now_ns: int
) -> Active:
    """Return the policy as tables.

    Raises:
        PolicyRejected: it cannot be put in force with these models and keys.
    """
    try:
        defaults = default_versions(policy, served)
        require_versions(policy, served)
        models = {
            (name, version): rules_of(policy.models[name], one, pepper)
            for (name, version), one in served.items()
            if name in policy.models
        }
        return Active(
            digest=policy.digest,
            revision=policy.revision,
            chain=chain_of(policy, pepper, issuers, now_ns),
            rights=rights_of(policy),
            public_methods=frozenset(policy.unsafe_public_methods),
            budgets=budgets_of(policy),
            models=with_mirrors(models, policy),
            default_versions=defaults,
            tenant_capture={name: tenant.capture for name, tenant in policy.tenants.items()},
            splits=splits_of(policy, {}),
            feedback_keys=feedback_keys_of(policy),
        )
    except (IdentitySetupError, DefenseError, ValueError) as problem:
        raise PolicyRejected([str(problem)]) from problem


def chain_of(policy: Policy, pepper: bytes, issuers: Iterable[Issuer], now_ns: int) -> Chain:
    """Return who is known by which credential."""
    accounts = {
        name: Account(
            name=name,
            tenant=principal.tenant,
            priority_class=policy.class_of(name),
            lane=policy.lane_of(name),
            roles=frozenset(principal.roles),
        )
        for name, principal in policy.principals.items()
    }
    keys = [
        ApiKey(key.id, bytes.fromhex(key.hmac), accounts[name], key.expires_ns, revoked=key.revoked)
        for name, key in policy.api_keys()
    ]
    subjects = {(subject.issuer, subject.subject): accounts[name] for name, subject in policy.subjects()}
    certificates = Certificates((certificate, accounts[name]) for name, certificate in policy.certificate_names())
    return Chain([ApiKeys(pepper, keys, now_ns), Tokens(issuers, subjects), certificates])


def rights_of(policy: Policy) -> Rights:
    """Return who may do what."""
    grants = {
        role: [Grant(grant.methods, grant.models, grant.versions) for grant in given]
        for role, given in policy.roles.items()
    }
    holders = {name: frozenset(principal.roles) for name, principal in policy.principals.items()}
    if policy.unsafe_public_methods:
        grants[PUBLIC.name] = [Grant(policy.unsafe_public_methods)]
        holders[PUBLIC.name] = frozenset({PUBLIC.name})
    return Rights(grants, holders)


def budgets_of(policy: Policy) -> dict[str, Budget]:
    """Return how much each principal may have."""
    budgets = {PUBLIC.name: compile_budget(PUBLIC.name, PUBLIC.tenant, PUBLIC.lane, PUBLIC_LIMITS, PUBLIC_LIMITS)}
    for name, principal in policy.principals.items():
        own, shared = policy.limits_of(name)
        budgets[name] = compile_budget(name, principal.tenant, policy.lane_of(name), limits(own), limits(shared))
    return budgets


def limits(found: LimitSet) -> Limits:
    """Return a limit set of the policy as the limiter's."""
    return Limits(
        request_interval_ns=found.request_interval_ns,
        request_burst=found.request_burst,
        cost_interval_ns=found.cost_interval_ns,
        cost_burst=found.cost_burst,
        in_flight_max=found.in_flight_max,
        queries_per_day=found.queries_per_day,
    )


def default_versions(policy: Policy, served: Mapping[tuple[str, str], Served]) -> dict[str, str]:
    """Return the version that a request without one means; where models are served at all, each must have it."""
    for name, model in policy.models.items():
        if served and (name, model.serve) not in served:
            there = ", ".join(version for other, version in served if other == name) or "none"
            raise PolicyRejected(
                [f"models.{name}.serve: there is no bundle of version {model.serve!r} (there: {there})"]
            )
    return {name: model.serve for name, model in policy.models.items()}


def rules_of(model: ModelPolicy, served: Served, pepper: bytes) -> ModelRules:
    """Return how one model version is screened and answered. Secrets of its tenants follow from the pepper."""
    bundle = served.bundle
    screens = {name: screen_of(name, bundle) for name in model.screens}
    missing = set(model.outputs or ()) - {spec.name for spec in bundle.outputs} - PROTOTYPE_OUTPUTS
    if missing:
        raise PolicyRejected([f"models.{bundle.name}.outputs: the bundle has no output {min(missing)!r}"])
    prediction = prediction_of(bundle.outputs)
    on_request = frozenset(bundle.manifest["roles"].get(PROTOTYPES, ()))
    named = {spec.name for spec in bundle.outputs} - on_request if model.outputs is None else {*model.outputs}
    outputs = tuple(spec for spec in bundle.outputs if spec.name in named or spec.name in model.reserved)
    reserved = reserved_of(model, bundle, outputs, on_request)
    output = output_rule_of(model.output, bundle, prediction, [spec for spec in outputs if spec.name not in reserved])
    if output is not None:
        outputs = (*outputs, ABSTAINED)
    return ModelRules(
        served=served,
        outputs=outputs,
        reserved=reserved,
        on_request=on_request,
        datatypes={spec.name: spec.datatype for spec in outputs},
        cost_per_row=model.cost_per_row,
        screens=screens,
        screen_rules=screen_rules_of(model, screens),
        prediction=prediction,
        hardening=hardening_of(model, bundle, prediction),
        harden_flagged=model.harden is not None and model.harden.when == "flagged",
        output=output,
        rotations=rotations_of(model, bundle, prediction, pepper) if model.rotate else None,
        reveal_verdict=model.reveal_verdict,
        acknowledge=model.acknowledge,
        capture=model.capture,
        capture_rate=model.capture_rate or 0.0,
        feedback=feedback_rules(model.feedback, bundle, prediction, needed=bundle.version == model.serve)
        if model.feedback
        else None,
        watch=watch_rules(model.watch, served) if model.watch else None,
        budget=budget_rules(model.budget, bundle, prediction) if model.budget else None,
    )


def screen_rules_of(model: ModelPolicy, screens: Mapping[str, ScreenInForce]) -> dict[str, ScreenRule]:
    """Return what becomes of what each screen says."""
    return {
        name: calibrated_rule(
            Mode(rule.mode),
            screens[name].calibrated.calibration,
            flag_fpr_max=rule.flag_alpha,
            refuse_fpr_max=rule.refuse_alpha or 0.0,
        )
        for name, rule in model.screens.items()
    }


def hardening_of(model: ModelPolicy, bundle: Bundle, prediction: str | None) -> HardeningRule | None:
    """Return how predictions are hardened, if they are. Raises PolicyRejected where there is none to harden."""
    if model.harden is None:
        return None
    if prediction is None:
        problem = f"the bundle has no output {PREDICTION!r} of rows x classes in floats, which is what is hardened"
        raise PolicyRejected([f"models.{bundle.name}.harden: {problem}"])
    return HardeningRule(model.harden.top_k, model.harden.temperature, model.harden.decimals)


def watch_rules(watch: Watch, served: Served) -> WatchRules:
    """Return what becomes of accounts whose questions look like an attack."""
    if served.watching is None:
        problem = "the bundle has no calibration of a watch; make it with `stockade defenses calibrate`"
        raise PolicyRejected([f"models.{served.bundle.name}.watch: {problem}"])

    def steps(named: Iterable[WatchStep]) -> tuple[Step, ...]:
        return tuple(Step.at(step.alpha, Action[step.answer.upper()], step.lasts_ms * 1_000_000) for step in named)

    return WatchRules(
        mode=Mode(watch.mode),
        flag_alpha=watch.flag_alpha,
        consistent=None if watch.consistent == "off" else Mode(watch.consistent),
        steps=steps(watch.steps),
        by_class={name: steps(named) for name, named in watch.classes.items()},
    )


def reserved_of(
    model: ModelPolicy, bundle: Bundle, outputs: Iterable[TensorSpec], on_request: frozenset[str]
) -> dict[str, frozenset[str]]:
    """Return which roles may have an output that not everybody may."""
    where, names = f"models.{bundle.name}.reserved", {spec.name for spec in outputs}
    if missing := model.reserved.keys() - names - PROTOTYPE_OUTPUTS:
        raise PolicyRejected([f"{where}: the bundle has no output {min(missing)!r}"])
    if not names - on_request - model.reserved.keys():
        raise PolicyRejected([f"{where}: nothing is left for anybody else; keep the model to a role by its grants"])
    return {output: frozenset(roles) for output, roles in model.reserved.items()}


def rotations_of(model: ModelPolicy, bundle: Bundle, prediction: str | None, pepper: bytes) -> Rotations:
    """Return by what tenants' embeddings are turned. Raises PolicyRejected for an output that is none."""
    where = f"models.{bundle.name}.rotate"
    embeddings = {
        spec.name: spec.shape[1]
        for spec in bundle.outputs
        if spec.datatype in FLOATS and len(spec.shape) == EMBEDDING_DIMS and spec.name != prediction
    }
    for name in model.rotate:
        if not 2 <= embeddings.get(name, 0) <= WIDTH_MAX:
            problem = f"is no output of the bundle of rows x numbers, 2 to {WIDTH_MAX}, that is not its prediction"
            raise PolicyRejected([f"{where}: {name!r} {problem}"])
    return open_rotations(bundle.name, {name: embeddings[name] for name in model.rotate}, pepper)


def prediction_of(outputs: Iterable[TensorSpec]) -> str | None:
    """Return the output that is hardened and measured as a prediction, None when the model has no such output."""
    for spec in outputs:
        if spec.name == PREDICTION and len(spec.shape) == PREDICTION_DIMS and spec.datatype in FLOATS:
            return PREDICTION
    return None


def screen_of(name: str, bundle: Bundle) -> ScreenInForce:
    """Return a screen with the calibration that the bundle brings for it."""
    where = f"models.{bundle.name}.screens"
    if name not in SCREENS:
        raise PolicyRejected([f"{where}: there is no screen {name!r} (there: {', '.join(SCREENS)})"])
    there = {spec.name for spec in bundle.outputs}
    if missing := [output for output in SCREEN_OUTPUTS.get(name, ()) if output not in there]:
        problem = f"{name} reads the outputs {', '.join(SCREEN_OUTPUTS[name])}, and the bundle has no {missing[0]!r}"
        raise PolicyRejected([f"{where}: {problem}; a model that runs elsewhere needs an encoder for it"])
    try:
        calibrated = SCREENS[name](bundle.calibration)
    except DefenseError as problem:
        raise PolicyRejected([f"{where}: the bundle has no calibration that {name} can use: {problem}"]) from problem
    return ScreenInForce(calibrated, calibrated.screen.digest, calibrated.screen.technique)

"""What can be wrong with a policy whose every part is well-formed: names that do not exist, identities used twice,
rights that mean nothing. Pure; each rule yields all its faults, so one look at the answer is enough to mend the file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.config.document import Fault, Location
from gateway.policy.budget import budget_faults
from gateway.policy.feedback import feedback_faults, label_faults
from gateway.policy.output import output_faults
from gateway.policy.promotion import approver_faults, promotion_faults
from gateway.policy.release import release_faults
from gateway.policy.watch import watch_faults

if TYPE_CHECKING:
    from gateway.policy.policy import ModelPolicy, Policy, Principal

MODEL_METHODS = frozenset(
    {
        "Feedback",
        "ModelConfig",
        "ModelInfer",
        "ModelMetadata",
        "ModelReady",
        "ModelStatistics",
        "ModelStreamInfer",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
    }
)
"""What is about one model: methods of `inference.GRPCInferenceService`, and `stockade.v1.Feedback`."""
PUBLIC_METHODS = frozenset({"ServerLive", "ServerReady", "ServerMetadata", "Health", "Reflection"})
"""What can be offered without a credential: nothing in it touches a model or a tenant."""
CONTROL_METHODS = frozenset({"Admin", "Audit", "Erasure", "LegalHold", "Payloads"})
"""The services of the admin port."""
METHODS = MODEL_METHODS | PUBLIC_METHODS | CONTROL_METHODS | {"RepositoryIndex", "TraceSetting", "LogSettings"}
"""Everything a role can grant: methods of the inference service by name, the other services as a whole."""

_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+", re.ASCII)
_DNS = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII)
_LIVE_KEYS_MAX = 2
_BURST_NS_MAX = 30 * 86_400 * 1_000_000_000
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def _missing(name: str, known: Iterable[str], what: str) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    advice = (
        f"did you mean `{near[0]}`?"
        if near
        else f"add it, or name one of: {', '.join(names[:8]) or '(there are none)'}"
    )
    return f"{name!r} is not {what}; {advice}"


def _unknown_method(name: str) -> str:
    near = difflib.get_close_matches(name, METHODS, n=1)
    advice = f"did you mean `{near[0]}`?" if near else f'the methods are {", ".join(sorted(METHODS))} and "*"'
    return f"{name!r} is not a method; {advice}"


def _grants(policy: Policy) -> Iterator[Fault]:
    for role, grants in policy.roles.items():
        for index, grant in enumerate(grants):
            at: Location = ("roles", role, index)
            for position, method in enumerate(grant.methods):
                if method != "*" and method not in METHODS:
                    yield Fault((*at, "methods", position), _unknown_method(method))
            for position, model in enumerate(grant.models):
                if model != "*" and model not in policy.models:
                    yield Fault((*at, "models", position), _missing(model, policy.models, "a model of this policy"))
            if not grant.models and (about := [name for name in grant.methods if name == "*" or name in MODEL_METHODS]):
                yield Fault((*at, "models"), f'is missing, and {about[0]!r} is about a model; name models, or ["*"]')


def _limits(policy: Policy) -> Iterator[Fault]:
    for name, limits in policy.limits.items():
        for what, interval_ns, burst in (
            ("request_burst", limits.request_interval_ns, limits.request_burst),
            ("cost_burst", limits.cost_interval_ns, limits.cost_burst),
        ):
            if interval_ns * burst > _BURST_NS_MAX:
                problem = f"{burst} takes longer than 30 days to come back at this rate"
                yield Fault(("limits", name, what), f"{problem}; lower the burst or raise the rate")


def _shared_limits(policy: Policy) -> Iterator[Fault]:
    shared = policy.shared_limits
    if shared.when_down == "local_share" and shared.share is None:
        problem = "is missing, and `when_down` is `local_share`; write a share such as 0.25 for four gateways"
        yield Fault(("shared_limits", "share"), problem)
    if shared.when_down != "local_share" and shared.share is not None:
        yield Fault(("shared_limits", "share"), "means nothing unless `when_down` is `local_share`; remove it")


def _references(policy: Policy) -> Iterator[Fault]:
    for name, tenant in policy.tenants.items():
        yield from _refers(("tenants", name, "limits"), tenant.limits, policy.limits, "a limit set")
        yield from _refers(("tenants", name, "class"), tenant.priority_class, policy.classes, "a class")
    for name, principal in policy.principals.items():
        at: Location = ("principals", name)
        yield from _refers((*at, "tenant"), principal.tenant, policy.tenants, "a tenant")
        yield from _refers((*at, "limits"), principal.limits, policy.limits, "a limit set")
        for index, role in enumerate(principal.roles):
            yield from _refers((*at, "roles", index), role, policy.roles, "a role")
        for index, subject in enumerate(principal.subjects):
            yield from _refers((*at, "subjects", index, "issuer"), subject.issuer, policy.issuers, "an issuer")


def _refers(at: Location, name: str, known: Mapping[str, object], what: str) -> Iterator[Fault]:
    if name not in known:
        yield Fault(at, _missing(name, known, what))


def _credentials(principal: Principal) -> Iterator[tuple[Location, tuple[str, ...]]]:
    """(place below the principal, identity) of everything it can prove who it is with."""
    for index, key in enumerate(principal.api_keys):
        yield ("api_keys", index, "id"), ("API key id", key.id)
        yield ("api_keys", index, "hmac"), ("API key with the HMAC", key.hmac)
    for index, public in enumerate(principal.feedback_keys):
        yield ("feedback_keys", index), ("feedback key", public)
    for index, subject in enumerate(principal.subjects):
        yield ("subjects", index), ("subject", subject.issuer, subject.subject)
    for index, spiffe in enumerate(principal.spiffe):
        yield ("spiffe", index), ("SPIFFE id", spiffe)
    for index, name in enumerate(principal.dns):
        yield ("dns", index), ("DNS name", name)


def _identities(policy: Policy) -> Iterator[Fault]:
    """An identity belongs to one principal; a principal has one at least, and at most two live API keys."""
    owners: dict[tuple[str, ...], str] = {}
    for name, principal in policy.principals.items():
        at: Location = ("principals", name)
        found = list(_credentials(principal))
        if all(identity[0] == "feedback key" for _, identity in found):  # it signs, and lets nobody in
            yield Fault(at, "has no way to prove who it is; add `api_keys`, `subjects`, `spiffe` or `dns`")
        for place, identity in found:
            if identity in owners:
                shown = f"the {identity[0]} {'/'.join(identity[1:])}"
                yield Fault(
                    (*at, *place), f"{shown} already belongs to {owners[identity]!r}; an identity has one owner"
                )
            owners.setdefault(identity, name)
        if sum(not key.revoked for key in principal.api_keys) > _LIVE_KEYS_MAX:
            yield Fault((*at, "api_keys"), f"has more than {_LIVE_KEYS_MAX} live keys; revoke or remove the oldest")


def _names(policy: Policy) -> Iterator[Fault]:
    for name, principal in policy.principals.items():
        for index, spiffe in enumerate(principal.spiffe):
            if _SPIFFE.fullmatch(spiffe) is None:
                at: Location = ("principals", name, "spiffe", index)
                yield Fault(at, f'{spiffe!r} is not a SPIFFE id; write "spiffe://example.org/name"')
        for index, host in enumerate(principal.dns):
            if _DNS.fullmatch(host) is None:
                at = ("principals", name, "dns", index)
                yield Fault(at, f"{host!r} is not a DNS name in lower case; write it out, without a wildcard")


def _issuers(policy: Policy) -> Iterator[Fault]:
    seen: dict[tuple[str, str], str] = {}
    for name, issuer in policy.issuers.items():
        at: Location = ("issuers", name)
        url = urlsplit(issuer.url_or_file) if issuer.jwks_url else None
        if url is not None and url.scheme != "https" and not (url.scheme == "http" and url.hostname in _LOOPBACK):
            yield Fault(
                (*at, "url_or_file"), "keys fetched without TLS can be replaced on the way; use https or a file"
            )
        if (issuer.issuer, issuer.audience) in seen:
            other = seen[issuer.issuer, issuer.audience]
            yield Fault((*at, "issuer"), f"is the same issuer and audience as {other!r}; keep one of the two")
        seen.setdefault((issuer.issuer, issuer.audience), name)


def _answers(at: Location, model: ModelPolicy, policy: Policy) -> Iterator[Fault]:
    """What is said of accounts, of what may leave, and of labels that come back."""
    if model.watch is not None:
        yield from watch_faults((*at, "watch"), model.watch, policy.classes, hardens=model.harden is not None)
    if model.budget is not None:
        yield from budget_faults((*at, "budget"), model.budget, policy.classes)
    if model.output is not None:
        yield from output_faults((*at, "output"), model.output)
    if model.feedback is not None:
        yield from feedback_faults((*at, "feedback"), model.feedback, policy.principals)


def _models(policy: Policy) -> Iterator[Fault]:
    for name, model in policy.models.items():
        at: Location = ("models", name)
        for screen, rule in model.screens.items():
            if rule.refuse_alpha is not None and rule.refuse_alpha > rule.flag_alpha:
                problem = f"{rule.refuse_alpha} is above `flag` ({rule.flag_alpha})"
                yield Fault((*at, "screens", screen, "refuse"), f"{problem}; a row worth refusing is worth flagging")
        if model.capture == "sampled" and model.capture_rate is None:
            yield Fault((*at, "capture_rate"), "is missing, and `capture` is `sampled`; write a share such as 0.01")
        if model.capture != "sampled" and model.capture_rate is not None:
            yield Fault((*at, "capture_rate"), "means nothing unless `capture` is `sampled`; remove it")
        yield from _reserved((*at, "reserved"), model, policy.roles)
        yield from _rotated((*at, "rotate"), model)
        yield from _answers(at, model, policy)
        if model.release is not None:
            yield from release_faults((*at, "release"), model.serve, model.release)
            if (canary := model.release.canary) is not None:
                yield from label_faults((*at, "release", "canary"), model.feedback, canary)
        if model.promotion is not None:
            yield from promotion_faults((*at, "promotion"), model.promotion, policy.approvers)


def _approvers(policy: Policy) -> Iterator[Fault]:
    yield from approver_faults(policy.approvers)


def _reserved(at: Location, model: ModelPolicy, roles: Mapping[str, object]) -> Iterator[Fault]:
    for output, holders in model.reserved.items():
        if model.outputs is not None and output not in model.outputs:
            yield Fault((*at, output), "is none of `outputs`, so nobody has it; add it there or remove it here")
        for index, role in enumerate(holders):
            yield from _refers((*at, output, index), role, roles, "a role")


def _rotated(at: Location, model: ModelPolicy) -> Iterator[Fault]:
    for index, output in enumerate(model.rotate):
        if model.outputs is not None and output not in model.outputs:
            yield Fault((*at, index), f"{output!r} is none of `outputs`, so nobody has it; add it there or remove it")
        if output in model.rotate[:index]:
            yield Fault((*at, index), f"{output!r} is there twice")


def _public_methods(policy: Policy) -> Iterator[Fault]:
    for index, method in enumerate(policy.unsafe_public_methods):
        if method not in PUBLIC_METHODS:
            allowed = ", ".join(sorted(PUBLIC_METHODS))
            yield Fault(("unsafe_public_methods", index), f"{method!r} cannot be public; only these can: {allowed}")


RULES: tuple[Callable[[Policy], Iterable[Fault]], ...] = (
    _grants,
    _limits,
    _shared_limits,
    _references,
    _identities,
    _names,
    _issuers,
    _models,
    _approvers,
    _public_methods,
)

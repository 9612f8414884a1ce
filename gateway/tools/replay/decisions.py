"""Level R1: what was decided, decided again from what the entries hold, by the code that decided it.

identity   the credential belongs to this principal of the policy, and was good at that time
right      whether the method was theirs to call
limits     every spend (`gateway.tools.replay.limits`)
route      the version was theirs to use, and the one that the policy gives them unless they named it
screens    from the recorded p-value to the verdict, and level, mode and digest of the screen
decision   from all that to what became of the request

Facts of the time are inputs: p-values, evidence and steps of accounts, what a budget said, and what ended a request
that was not judged (a deadline, a full queue, a caller who hung up). That the p-values follow from what was sent is
level R2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from msgspec import UnsetType

from defenses.budget.policy import Action, Mode, decide, micro
from defenses.extraction.budget import BudgetStep
from gateway import errors
from gateway.auth.principal import PUBLIC
from gateway.edge.methods import data_methods
from gateway.models.compile_release import fingerprint
from gateway.models.metering import ACTIONS as BUDGET_ACTIONS
from gateway.request.batch import outcome_of
from gateway.request.item import Answer
from gateway.request.judgement import VERDICTS
from gateway.tools.replay import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gateway.auth.principal import Principal
    from gateway.models.rules import ModelRules
    from gateway.tools.replay.history import Findings, History, Recorded
    from gateway.tools.replay.rulebooks import Rulebook, Rulebooks
    from ops.audit.log.schemas.requests import Model, Request, Screen

RIGHTS = {path: method.right for path, method in data_methods(reflection=True).items()}
BEFORE_RIGHT = frozenset({"ISOLATED", "METHOD_UNIMPLEMENTED", "CREDENTIAL_EXPIRED", "CREDENTIAL_INVALID"})
JUDGED = frozenset({"OK", "INPUT_REJECTED", "RATE_LIMITED", "QUOTA_EXCEEDED"})
PART = 16_384


class Verdicts(NamedTuple):
    """What the stateless screens come to for one request: by name, and the action they ask for together."""

    screens: dict[str, str]
    action: Action


def decisions_again(history: History, books: Rulebooks, found: Findings, progress: Callable[[int, int], None]) -> None:
    """Do every decision of the chosen requests again, and write down what came of it."""
    for one, came in limits.replayed(history, books):
        if one.chosen and isinstance(came, str):
            found.skip("limits", came)
        elif one.chosen:
            found.compare(one, "limits", *came)
    chosen = [one for one in history.records if one.chosen]
    groups: dict[tuple[str, str], list[Recorded]] = {}
    for done, one in enumerate(chosen, 1):
        book = books.of(one.entry.policy)
        if isinstance(book, str):
            for step in ("identity", "right", "route", "screens", "decision"):
                found.skip(step, book)
        else:
            admitted_again(one, book, found)
            if not isinstance(one.entry.batch, UnsetType):
                groups.setdefault((one.entry.policy, one.model), []).append(one)
        if done % PART == 0:
            progress(done, len(chosen))
    for (digest, _), group in groups.items():
        book = books.of(digest)
        assert not isinstance(book, str), "it was there a moment ago"
        judged_again(group, book, found)
    progress(len(chosen), len(chosen))


def admitted_again(one: Recorded, book: Rulebook, found: Findings) -> None:
    """Compare who it was, what they might call, and which version they came to."""
    entry = one.entry
    if isinstance(entry.auth, UnsetType):
        return
    who = identity_of(entry, book)
    if isinstance(who, str):
        found.differ(one, "identity", entry.auth.credential, who)
        return
    if entry.auth.method == "jwt":
        found.skip("identity", "tokens are not in the log")
    else:
        found.compare(one, "identity", True, True)
    right = RIGHTS.get(entry.method, "")
    if entry.reason in BEFORE_RIGHT or not right:
        found.skip("right", "it was not asked for")
    else:
        recorded = entry.reason != "METHOD_FORBIDDEN"
        found.compare(one, "right", recorded, book.active.rights.may_call(who, right))
    if not isinstance(entry.model, UnsetType):
        routed_again(one, entry.model, who, book, found)
    elif entry.reason == "MODEL_UNKNOWN":
        found.skip("route", "the entry does not say which model was asked for")


def routed_again(one: Recorded, model: Model, who: Principal, book: Rulebook, found: Findings) -> None:
    """Compare which version they came to."""
    entry, right = one.entry, RIGHTS.get(one.entry.method, "")
    permitted = book.active.rights.may_use(who, right, model.name, model.version)
    if (model.name, model.version) not in book.active.models or not permitted:
        found.differ(one, "route", one.model, "MODEL_UNKNOWN")
    elif entry.pinned is True:
        found.compare(one, "route", one.model, one.model)
    elif (drawn := version_drawn(entry, who, right, book)) is None:
        found.skip("route", "how far the canary was is not rebuilt")
    elif drawn != model.version and not has_clock(entry):
        found.skip("route", "the entry does not say whether the version was named")
    else:
        found.compare(one, "route", one.model, f"{model.name}/{drawn}")


def has_clock(entry: Request) -> bool:
    """Say whether whoever wrote the entry wrote down as well that a version was named."""
    return not isinstance(entry.limits, UnsetType) and not isinstance(entry.limits[0].clock_ns, UnsetType)


def identity_of(entry: Request, book: Rulebook) -> Principal | str:
    """Return who the entry says it was, as the policy has them, or what speaks against it."""
    auth = entry.auth
    assert not isinstance(auth, UnsetType), "it says who it was"
    name = book.names.get((auth.tenant, auth.principal))
    if name is None:
        return "nobody of this pseudonym"
    if name == PUBLIC.name:
        return PUBLIC
    held = book.policy.principals[name]
    if auth.method == "api_key":
        key = next((key for key in held.api_keys if key.id == auth.credential), None)
        if key is None or key.revoked or (key.expires_ns is not None and int(entry.time_ns) >= key.expires_ns):
            return "the key is not theirs" if key is None else "the key was revoked or had expired"
    elif auth.method == "mtls" and auth.credential not in {*held.spiffe, *held.dns}:
        return "the certificate is not theirs"
    elif auth.method == "jwt" and not held.subjects:
        return "they have no tokens"
    return book.account(name).through(auth.method, auth.credential, None)


def version_drawn(entry: Request, who: Principal, right: str, book: Rulebook) -> str | None:
    """Return the version that the policy gives to who names none; None where that depends on a canary."""
    assert not isinstance(entry.model, UnsetType), "it came to a model"
    name, active = entry.model.name, book.active
    if fingerprint(book.policy.models[name]):
        return None
    split = active.splits.get(name)
    if split is not None and active.rights.may_use(who, right, name, drawn := split.version_for(who.name)):
        return drawn
    return active.default_versions.get(name, "")


def judged_again(group: Sequence[Recorded], book: Rulebook, found: Findings) -> None:
    """Compare the verdicts and the decisions of requests for one version under one policy."""
    model = group[0].entry.model
    assert not isinstance(model, UnsetType), "it was judged"
    rules = book.active.models.get((model.name, model.version))
    if rules is None or rules.served.bundle.digest != model.digest:
        why = "the bundle that was served is not here"
        for step in ("screens", "decision"):
            for _ in group:
                found.skip(step, why)
        return
    for one, verdicts in zip(group, screened(group, rules), strict=True):
        if isinstance(verdicts, str):
            found.differ(one, "screens", names_of(one.entry), verdicts)
            continue
        recorded = {screen.name: shown(screen) for screen in recorded_screens(one.entry)}
        found.compare(one, "screens", recorded, verdicts.screens)
        decision = decided(one.entry, verdicts.action, rules)
        if isinstance(decision, str):
            found.skip("decision", decision)
        else:
            found.compare(one, "decision", (one.entry.decision, one.entry.reason), decision)


def recorded_screens(entry: Request) -> list[Screen]:
    """Return what the entry says of screens."""
    return [] if isinstance(entry.screens, UnsetType) else entry.screens


def names_of(entry: Request) -> str:
    """Return which screens have judged a request."""
    return ", ".join(screen.name for screen in recorded_screens(entry)) or "none"


def shown(screen: Screen) -> str:
    """Return what is compared of a screen's verdict."""
    return f"{screen.verdict} at {screen.threshold_micro} by {screen.mode} {screen.digest[:12]} {screen.technique}"


def screened(group: Iterable[Recorded], rules: ModelRules) -> list[Verdicts | str]:
    """Judge the recorded p-values of requests for one model anew, all at once; a text where one is missing.

    A recorded p-value has six digits; those of a calibration of n rows are k / (n + 1), so which it was is known again.
    """
    group = list(group)
    found = [{screen.name: screen for screen in recorded_screens(one.entry)} for one in group]
    p_values = {}
    for name, screen in rules.screens.items():
        steps = screen.calibrated.calibration.rows + 1
        recorded = np.array([one[name].p_micro if name in one else 0 for one in found], np.int64)
        exact = np.rint(recorded * steps / 1e6) / steps
        p_values[name] = np.where(micro(exact) == recorded, exact, recorded / 1e6)
    decisions = decide(p_values, rules.screen_rules, rows=len(group), harden_flagged=rules.harden_flagged)
    texts: list[dict[str, str]] = [{} for _ in group]
    for view in decisions.screens:
        facts = rules.screens[view.name]
        tail = f"by {view.mode.value} {facts.digest[:12]} {facts.technique}"
        for text, verdict, threshold in zip(texts, view.verdicts.tolist(), view.threshold_micro.tolist(), strict=True):
            text[view.name] = f"{VERDICTS[verdict]} at {threshold} {tail}"
    judged: list[Verdicts | str] = []
    for one, text, action in zip(found, texts, decisions.action.tolist(), strict=True):
        missing = [name for name in rules.screens if name not in one]
        text |= {name: watched_text(screen, rules) for name, screen in one.items() if name not in rules.screens}
        judged.append(f"no p-value of {missing[0]}" if missing else Verdicts(text, Action(action)))
    return judged


def watched_text(screen: Screen, rules: ModelRules) -> str:
    """Return what the policy says of a recorded p-value of the watch."""
    watching = rules.served.watching
    if rules.watch is None or watching is None or screen.name not in watching.watch.techniques:
        return "no such screen"
    threshold = round(rules.watch.flag_alpha * 1_000_000)
    verdict = screen.verdict if screen.p_micro == threshold else VERDICTS[screen.p_micro < threshold]
    digest, technique = watching.watch.digests[screen.name], watching.watch.techniques[screen.name]
    return f"{verdict} at {threshold} by {rules.watch.mode.value} {digest[:12]} {technique}"


def decided(entry: Request, action: Action, rules: ModelRules) -> tuple[str, str] | str:
    """Return decision and reason that follow from the screens' action and the recorded steps, or why none does."""
    if not isinstance(entry.cached, UnsetType):
        return "an answer was given again"
    if entry.reason not in JUDGED:
        return f"it ended with {entry.reason}"
    step = Action.ALLOW
    repeated = False
    if not isinstance(entry.account, UnsetType) and rules.watch is not None:
        if rules.watch.mode == Mode.ENFORCE:
            step = Action[entry.account.step.upper()]
        always = rules.watch.consistent == Mode.ENFORCE
        repeated = entry.account.repeats > 0 and (always or max(action, step) >= Action.NEIGHBOUR)
    action = max(action, step)
    if not isinstance(entry.budget, UnsetType) and rules.budget is not None and rules.budget.mode == Mode.ENFORCE:
        spent = BudgetStep[entry.budget.step.upper()]
        if spent == BudgetStep.REFUSE:
            return "refuse", "QUOTA_EXCEEDED"
        action = max(action, BUDGET_ACTIONS[spent])
    came = outcome_of(action, sound=True, body=b"", rules=rules, repeated=repeated)
    return (came.decision, "OK") if isinstance(came, Answer) else ("refuse", errors.row_of(came).reason)

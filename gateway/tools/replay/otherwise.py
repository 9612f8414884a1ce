"""Level R3: what would become of the same requests under another policy, or with another version of a model.

The steps are those of a request, in their order; the first that says no ends it. What was recorded is taken where the
other policy changes nothing, so that what differs follows from the change alone:

- Limits are spent again, with the recorded clocks, only of those whose limits are others; their buckets begin full.
- p-values are the recorded ones. A screen that has none, or another version, is run on the payload that was kept.
- Steps of accounts, and what a budget said, stay as they were: they are the state of the time.
- What became of a request later than where it was refused is not in the log. If it were not refused there, it is
  "admitted", and no more is known.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import UnsetType

from defenses.budget.policy import Action
from gateway import errors
from gateway.admission.budget import refusal_of
from gateway.admission.memory import MemoryLimiter
from gateway.tools.replay.decisions import (
    RIGHTS,
    Verdicts,
    decided,
    identity_of,
    recorded_screens,
    screened,
    version_drawn,
)
from gateway.tools.replay.limits import charges_of, principal_of, spends_of
from gateway.tools.replay.outputs import asker_of, compute, top_classes
from gateway.tools.replay.rulebooks import NotReplayed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.auth.principal import Principal
    from gateway.models.rules import ModelRules
    from gateway.policy.policy import Policy
    from gateway.tools.replay.history import History, Recorded
    from gateway.tools.replay.rulebooks import Payloads, Rulebook, Rulebooks
    from ops.audit.log.schemas.requests import Model

CHANGES_MAX = 10_000  # kept; all are counted
ADMITTED = "admitted"


@dataclass(frozen=True, slots=True)
class Change:
    """One request that would come out otherwise. `cause` is the step that makes it so; for a screen, its name."""

    index: int
    id: str
    tenant: str
    model: str
    cause: str
    recorded: str
    otherwise: str


@dataclass(slots=True)
class Changes:
    """What would be otherwise. `same` and `unknown` count the rest, the second by why."""

    same: int = 0
    total: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    listed: list[Change] = field(default_factory=list)
    by_tenant: Counter[str] = field(default_factory=Counter)
    by_model: Counter[str] = field(default_factory=Counter)
    by_cause: Counter[str] = field(default_factory=Counter)
    by_kind: Counter[str] = field(default_factory=Counter)

    def add(self, one: Recorded, outcome: Outcome) -> None:
        """Count one request."""
        recorded = outcome.recorded or recorded_outcome(one)
        if outcome.text == recorded:
            self.same += 1
            return
        self.total += 1
        self.by_tenant[one.tenant] += 1
        self.by_model[one.model] += 1
        self.by_cause[outcome.cause] += 1
        self.by_kind[f"{recorded} → {outcome.text}" if outcome.cause != "class" else "another class"] += 1
        if len(self.listed) < CHANGES_MAX:
            entry = one.entry
            self.listed.append(
                Change(one.index, entry.id, one.tenant, one.model, outcome.cause, recorded, outcome.text)
            )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What would become of a request, and which step makes it so. `recorded`: what to compare it with, if not that."""

    text: str
    cause: str
    recorded: str = ""


def recorded_outcome(one: Recorded) -> str:
    """Return what became of a request, as it is compared."""
    entry = one.entry
    return f"{entry.decision} {entry.reason}" if entry.reason != "OK" else entry.decision


def otherwise(
    history: History,
    books: Rulebooks,
    payloads: Payloads,
    *,
    policy: Policy | None,
    versions: Mapping[str, str],
    progress: Callable[[int, int], None],
) -> Changes:
    """Say of each chosen request what would become of it. Raises PolicyRejected, UnknownVersion."""
    other = None if policy is None else books.bind(policy)
    books.require(versions)
    limited = {} if other is None else limited_otherwise(history, books, other)
    changes = Changes()
    chosen = [one for one in history.records if one.chosen]
    for done, one in enumerate(chosen, 1):
        try:
            book = books.need(one.entry.policy)
            changes.add(
                one,
                outcome_of(
                    one, book, other or book, versions=versions, limited=limited.get(one.index), payloads=payloads
                ),
            )
        except NotReplayed as why:
            changes.unknown[str(why)] += 1
        if done % 256 == 0 or done == len(chosen):
            progress(done, len(chosen))
    return changes


def outcome_of(  # noqa: PLR0911  in the order of the steps; each may end it
    one: Recorded,
    book: Rulebook,
    other: Rulebook,
    *,
    versions: Mapping[str, str],
    limited: str | None,
    payloads: Payloads,
) -> Outcome:
    """Follow one request through the steps. `limited`: why the other limits refuse it, or ADMITTED."""
    entry, as_it_was = one.entry, Outcome(recorded_outcome(one), "")
    if isinstance(entry.auth, UnsetType):
        return as_it_was
    who = identity_of(entry, other)
    if isinstance(who, str):
        return Outcome("refuse CREDENTIAL_INVALID", "identity")
    right = RIGHTS.get(entry.method, "")
    if entry.reason in {"ISOLATED", "METHOD_UNIMPLEMENTED"}:
        return as_it_was
    if not other.active.rights.may_call(who, right):
        return Outcome("refuse METHOD_FORBIDDEN", "right")
    if entry.reason == "METHOD_FORBIDDEN":
        return Outcome(ADMITTED, "right")
    if limited is not None:
        return Outcome(limited if limited == ADMITTED else f"refuse {limited}", "limits")
    if isinstance(entry.model, UnsetType):
        return as_it_was
    chosen = version_otherwise(one, entry.model, who, right, other=other, versions=versions)
    if (entry.model.name, chosen) not in other.active.models or not other.active.rights.may_use(
        who, right, entry.model.name, chosen
    ):
        return Outcome("refuse MODEL_UNKNOWN", "route")
    if isinstance(entry.batch, UnsetType):
        return as_it_was
    return judged_otherwise(one, other.active.models[entry.model.name, chosen], book, payloads)


def version_otherwise(
    one: Recorded, model: Model, who: Principal, right: str, *, other: Rulebook, versions: Mapping[str, str]
) -> str:
    """Return the version that would answer."""
    if model.name in versions:
        return versions[model.name]
    if model.name not in other.policy.models or one.entry.pinned is True:
        return model.version
    return version_drawn(one.entry, who, right, other) or model.version


def judged_otherwise(one: Recorded, rules: ModelRules, book: Rulebook, payloads: Payloads) -> Outcome:
    """Judge a request under these rules: its recorded p-values, or its payload where they do not do."""
    model = one.entry.model
    assert not isinstance(model, UnsetType), "it was judged"
    same_model = rules.served.bundle.digest == model.digest
    [verdicts] = screened([one], rules) if same_model else ["another version"]
    if isinstance(verdicts, str):
        return computed_otherwise(one, rules, book, payloads, another=not same_model)
    decision = decided(one.entry, verdicts.action, rules)
    if isinstance(decision, str):
        return Outcome(recorded_outcome(one), "")
    return Outcome(text_of(decision), cause_of(one, verdicts, rules))


def computed_otherwise(
    one: Recorded, rules: ModelRules, book: Rulebook, payloads: Payloads, *, another: bool
) -> Outcome:
    """Run a request's payload, alone. With another version, say as well whether it answers another class."""
    computed = compute([(payloads.read(one, "request"), asker_of(one, book))], rules, payloads)
    judgement = computed.judgement
    decision = decided(one.entry, Action(judgement.actions[0]), rules)
    if isinstance(decision, str):
        return Outcome(recorded_outcome(one), "")
    text = text_of(decision)
    answered = decision[1] == "OK" and another and rules.prediction is not None
    if text != recorded_outcome(one) or not answered:
        flagged = [name for name, rows, _ in judgement.rows if rows.any()]
        return Outcome(text, flagged[0] if flagged else "model")
    was = top_classes(payloads.read(one, "response"))
    now = top_classes(computed.answer(0, rules, Action.ALLOW)[0])
    return Outcome(f"{text} class {now}", "class", f"{text} class {was}")


def text_of(decision: tuple[str, str]) -> str:
    """Return a decision as `recorded_outcome` does."""
    return decision[0] if decision[1] == "OK" else f"{decision[0]} {decision[1]}"


def cause_of(one: Recorded, verdicts: Verdicts, rules: ModelRules) -> str:
    """Return what makes the decision another one: a screen, by its name, the watch, the budget, or how they add up."""
    entry = one.entry
    recorded = {screen.name: screen for screen in recorded_screens(entry)}
    for name in rules.screens:
        verdict, mode = verdicts.screens[name].split()[0], rules.screen_rules[name].mode.value
        if verdict != recorded[name].verdict or (mode != recorded[name].mode and verdict != "pass"):
            return name
    budget, account = entry.budget, entry.account
    if (
        not isinstance(budget, UnsetType)
        and budget.step != "full"
        and (rules.budget is None or rules.budget.mode.value != budget.mode)
    ):
        return "budget"
    if not isinstance(account, UnsetType) and (rules.watch is None or rules.watch.mode.value != account.mode):
        return "watch"
    return "decision"


def limited_otherwise(history: History, books: Rulebooks, other: Rulebook) -> dict[int, str]:
    """Return, by index, the requests that the other limits refuse, with the reason, and those they admit after all."""
    refused: dict[int, str] = {}
    for spends in spends_of(history):
        limiter = MemoryLimiter()
        for spend in spends:
            one, book = spend.one, books.of(spend.one.entry.policy)
            if isinstance(book, str) or one.index in refused:
                continue
            name = principal_of(one, book)
            now = charges_of(one, spend.place, name, other)
            was = charges_of(one, spend.place, name, book)
            if now is None or was is None or spend.limit.rule not in {bucket.rule.name for bucket, _ in was}:
                continue
            decision = limiter.spend(now, spend.clock_ns)
            if now == was:
                continue
            if not decision.admitted:
                reason = errors.row_of(refusal_of(decision)).reason
                if reason != one.entry.reason:
                    refused[one.index] = reason
            elif spend.limit.decision == "refuse":
                refused[one.index] = ADMITTED
    return refused

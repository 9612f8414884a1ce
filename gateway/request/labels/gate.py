"""Whether an item is accepted, quarantined or refused: the rules of S7 for one item, in their order.

Refused, and the sender is told why:
- SIGNATURE_MISSING, KEY_UNKNOWN, SIGNATURE_INVALID: nobody said it whom the policy lets say it. Asked first: who cannot
  sign learns nothing else.
- UNKNOWN_REQUEST: this tenant was not answered there, or too long ago; or by another model or version than it says; or
  the principal has no right to say anything of that model. One reason for all, or one could ask who was answered what.
- LABEL_UNKNOWN: no class of the model.
- TIME_INVALID: signed, or known, before the row was answered or later than now, but for SKEW_NS. The window in which
  labels may come is counted by the gateway's own clock from the answer, so no clock of a sender moves it.
- REPLAYED: this principal has said something of this row before. One who errs tells an operator.
- STORE_FULL: the tenant has as many items as it may.

Quarantined, and the sender is not told why:
- FLAGGED_ANSWER: a screen flagged the request. What is flagged updates nothing.
- CONTRADICTED: another principal of the tenant gave the row another label. That one's item goes there as well.
- INCONSISTENT: trusted rows contradict the label (`defenses.labels.feedback`).

Everything else is accepted. That makes it a candidate for a batch, whose own checks come later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from gateway.request.labels.provenance import KEY_BYTES, SIGNATURE_BYTES, Statement, verifies
from gateway.request.labels.rows import ALLOWED, Draft

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gateway.models.rules import FeedbackRules
    from gateway.request.labels.rows import AnswerKept
    from gateway.request.labels.transaction import Transaction

SKEW_NS = 5 * 60 * 1_000_000_000
KEY_SHOWN = 8  # bytes of a key that name it
MICRO = 1_000_000
Disposition = Literal["accepted", "quarantined", "refused"]
REASONS = (
    "SIGNATURE_MISSING",
    "KEY_UNKNOWN",
    "SIGNATURE_INVALID",
    "UNKNOWN_REQUEST",
    "LABEL_UNKNOWN",
    "TIME_INVALID",
    "REPLAYED",
    "STORE_FULL",
    "FLAGGED_ANSWER",
    "CONTRADICTED",
    "INCONSISTENT",
)


@dataclass(frozen=True, slots=True)
class Claim:
    """An item as it came: what it says, and what is to prove who says it."""

    statement: Statement
    key: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent it, with the keys that the policy gives him, and the rules of each model that he may speak of."""

    principal: str
    tenant: str
    keys: frozenset[bytes]
    rules: Callable[[str, str], FeedbackRules | None]


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a claim. `item` is the id of its draft; 0: refused. `model` is named where it is known."""

    claim: Claim
    disposition: Disposition
    reason: str
    item: int = 0
    p_micro: int | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class _Passed:
    claim: Claim
    answer: AnswerKept
    rules: FeedbackRules
    label: int


def judge_claims(claims: Sequence[Claim], sender: Sender, store: Transaction, now_ns: int) -> list[Judged]:
    """Judge claims in their order, and write those that are not refused as drafts. Blocks."""
    passed: dict[tuple[bytes, int], _Passed] = {}
    found: list[_Passed | Judged] = []
    for claim in claims:
        checked = _checked(claim, sender, store, now_ns, passed)
        if isinstance(checked, _Passed):
            passed[claim.statement.request, claim.statement.row] = checked
        found.append(checked)
    p_values = _p_values(list(passed.values()))
    return [
        _placed(each, p_values[id(each)], sender, store, now_ns) if isinstance(each, _Passed) else each
        for each in found
    ]


def _p_values(passed: Sequence[_Passed]) -> dict[int, float]:
    """Return p of each by its identity, those under the same rules at once: the file is locked meanwhile."""
    found: dict[int, float] = {}
    for rules in {id(each.rules): each.rules for each in passed}.values():
        alike = [each for each in passed if each.rules is rules]
        latents = np.stack([np.frombuffer(each.answer.latent, "<f2") for each in alike]).astype(np.float32)
        p_values = rules.consistency.p_values(latents, [each.label for each in alike])
        found |= {id(each): p_value for each, p_value in zip(alike, p_values.tolist(), strict=True)}
    return found


def _checked(
    claim: Claim,
    sender: Sender,
    store: Transaction,
    now_ns: int,
    passed: Mapping[tuple[bytes, int], _Passed],
) -> _Passed | Judged:
    """Return what passed, or the refusal. `passed` is what did before it in the same call."""
    said = claim.statement
    problem = _unsigned(claim, sender)
    if problem:
        return Judged(claim, "refused", problem)
    rules = sender.rules(said.model, said.version)
    answer = store.answered(said.request, said.row, sender.tenant)
    if (
        rules is None
        or answer is None
        or (answer.model, answer.version) != (said.model, said.version)
        or not now_ns - rules.bounds.window_ns <= answer.time_ns
    ):
        return Judged(claim, "refused", "UNKNOWN_REQUEST")
    problem = _unusable(said, answer, sender, rules, store, now_ns=now_ns, passed=passed)
    if problem:
        return Judged(claim, "refused", problem, model=said.model)
    return _Passed(claim, answer, rules, rules.classes.index(said.label))


def _unusable(
    said: Statement,
    answer: AnswerKept,
    sender: Sender,
    rules: FeedbackRules,
    store: Transaction,
    *,
    now_ns: int,
    passed: Mapping[tuple[bytes, int], _Passed],
) -> str:
    """Say why a signed label of a known answer is refused; empty: it is not."""
    if said.label not in rules.classes:
        return "LABEL_UNKNOWN"
    if not all(answer.time_ns - SKEW_NS <= when <= now_ns + SKEW_NS for when in (said.outcome_ns, said.signed_ns)):
        return "TIME_INVALID"
    if (said.request, said.row) in passed or store.has_said(said.request, said.row, sender.principal, now_ns):
        return "REPLAYED"
    more = sum(each.claim.statement.model == said.model for each in passed.values())
    return "" if store.room(said.model, sender.tenant, rules.bounds, more) else "STORE_FULL"


def _unsigned(claim: Claim, sender: Sender) -> str:
    """Say what is wrong with the provenance; empty: nothing."""
    if not claim.signature:
        return "SIGNATURE_MISSING"
    if len(claim.key) != KEY_BYTES or claim.key not in sender.keys:
        return "KEY_UNKNOWN"
    signed = len(claim.signature) == SIGNATURE_BYTES and verifies(
        claim.statement, sender.principal, claim.key, claim.signature
    )
    return "" if signed else "SIGNATURE_INVALID"


def _placed(passed: _Passed, p_value: float, sender: Sender, store: Transaction, now_ns: int) -> Judged:
    """Accept or quarantine, and write the draft."""
    claim, answer, rules = passed.claim, passed.answer, passed.rules
    said = claim.statement
    p_micro = round(p_value * MICRO)
    reason = ""
    if answer.decision != "allow":
        reason = "FLAGGED_ANSWER"
    elif store.contradicted(said.request, said.row, passed.label, ALLOWED):
        reason = "CONTRADICTED"
    elif p_value <= rules.inconsistent_alpha:
        reason = "INCONSISTENT"
    disposition: Disposition = "quarantined" if reason else "accepted"
    item = store.draft(
        Draft(
            said.request,
            said.row,
            sender.tenant,
            sender.principal,
            said.model,
            said.version,
            passed.label,
            said.label,
            rules.classes[answer.label],
            answer.latent,
            p_micro,
            said.outcome_ns,
            now_ns,
            claim.key[:KEY_SHOWN].hex(),
            sender.principal in rules.trusted,
            disposition,
            reason,
            answer.confidence_micro,
        )
    )
    return Judged(claim, disposition, reason, item, p_micro, said.model)

"""Query attacks measured: many images, each attacked through accounts of its own, and what came of it.

Attacked are test images that the model answers right untouched; all rates are of these. An attack's success is what the
lab finds, not what it was told: its best row, within the norm, is asked once by an account that nothing is remembered
of, and is answered with a wrong class and not flagged. `claimed_share` is what the attackers believed.

`before_action_median`: distinct answers an attacker had before a screen first acted on one of its questions, over all
attempts; an attempt that was never acted upon counts with all its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from defenses.lab.attack import Attempt, Lab, Oracle, Refused, Sample, Size, Split, Trial
from defenses.lab.counted import Counted
from defenses.lab.evasion.disguise import Between, Spread, rotate
from defenses.lab.evasion.query import TECHNIQUE, Attacker, Ball, Rows, Search, Task

SAMPLES: Final = {Size.SMOKE: 4, Size.FULL: 70}
DRAWN: Final = 1.5  # rows drawn for one that is wanted: some are answered wrong untouched
TOGETHER: Final = 16  # attempts at a time
ACCOUNTS_MAX: Final = 60  # of one oracle
SMOKE_BUDGET_MAX: Final = 60
OTHER_ROWS: Final = {Size.SMOKE: 200, Size.FULL: 3_000}
OTHER_SEED: Final = 2  # with as many rows, those are no images that are attacked up to row 6,000
CROWDED: Final = 1.3  # rows drawn for one that has to be far from the others
APART_GAP, APART_SHARE = 0.25, 0.06
VERIFIED_EACH: Final = 5  # rows an account: too few to be near each other by chance
BLACK_BOX: Final = "black box"

_STEPS = [{"alpha": 0.0001, "answer": "top1"}, {"alpha": 0.00001, "answer": "cool_down"}]
VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "steps": {"watch": {"mode": "enforce", "steps": _STEPS}},
    "consistent": {"watch": {"mode": "enforce", "consistent": "enforce", "steps": []}},
    "consistent-steps": {"watch": {"mode": "enforce", "consistent": "enforce", "steps": _STEPS}},
}
"""Laid over the policy, which by itself gives consistent answers from the first step on: evidence alone; consistent
answers alone, from the first question; both."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An attack and how it comes along.

    name: of the trial.
    make: the attack, for so many classes, and other images that the attacker has.
    budget: questions an image.
    accounts, tenants: of each attempt.
    innocent: share of innocent questions.
    sees_actions: it is told where a screen acted.
    serial: attempts cannot run beside each other.
    """

    name: str
    make: Callable[[int, Sample], Attacker]
    budget: int
    accounts: int = 1
    tenants: int = 1
    innocent: float = 0.0
    sees_actions: bool = False
    serial: bool = False

    @property
    def knowledge(self) -> str:
        return f"{BLACK_BOX}, sees actions" if self.sees_actions else BLACK_BOX


@dataclass(frozen=True, slots=True)
class Target:
    """What is attacked: a model version as a policy serves it, with a variant laid over it or without any screen."""

    model: str
    version: str
    radius: float = 0.1
    defended: bool = True
    variant: str | None = None
    changes: Mapping[str, Any] | None = field(default=None, compare=False)

    def name(self, attack: str) -> str:
        way = "" if self.variant is None else f"/{self.variant}"
        return f"query/{self.model}-{self.version}/{attack}{way}"


def plan_of(
    plan: Plan, model: str, version: str, *, defended: bool = True, variant: str | None = None
) -> Callable[[Lab, int], list[Trial]]:
    """Return the run of a plan against a target; variant None: the policy as it is."""
    changes = None if variant is None else VARIANTS[variant]
    target = Target(model, version, defended=defended, variant=variant, changes=changes)

    def run(lab: Lab, seed: int) -> list[Trial]:
        budget = min(plan.budget, SMOKE_BUDGET_MAX) if lab.size is Size.SMOKE else plan.budget
        sample = answered_right(lab, target, SAMPLES[lab.size], seed)
        results: list[tuple[Attempt, int]] = []
        each = min(TOGETHER, ACCOUNTS_MAX // plan.accounts)
        for first in range(0, len(sample.labels), each):
            part = Sample(sample.rows[first : first + each], sample.labels[first : first + each])
            results += _Attacks(lab, target, plan, budget).on(part, np.random.default_rng([seed, first, 2]))
            lab.tell(target.name(plan.name), len(results), len(sample.labels))
        settings = {
            "budget": budget,
            "accounts": plan.accounts,
            "tenants": plan.tenants,
            "innocent_share": plan.innocent,
        }
        return [TrialLine(lab, target, plan.name, plan.knowledge, seed).of(sample.labels, results, settings)]

    return run


@dataclass(frozen=True, slots=True)
class InTurn:
    """A search for many images in turn through one account.

    images: of each account.
    budget: questions an image.
    groups: accounts that do so, one after the other, with images of their own.
    innocent: share of innocent questions.
    """

    name: str
    search: Search
    images: int
    budget: int
    groups: int = 1
    innocent: float = 0.0


def rotation_of(plan: InTurn, model: str, version: str) -> Callable[[Lab, int], list[Trial]]:
    """Return the run of such a plan against the policy as it is."""
    target = Target(model, version)

    def run(lab: Lab, seed: int) -> list[Trial]:
        smoke = lab.size is Size.SMOKE
        count, budget = (4, 20) if smoke else (plan.images, plan.budget)
        groups = 1 if smoke else plan.groups
        wanted = count * groups
        sample = apart(answered_right(lab, target, round(CROWDED * wanted), seed), wanted)
        others = lab.rows(target.model, Split.TEST, OTHER_ROWS[lab.size], OTHER_SEED).rows
        results: list[tuple[Attempt, int]] = []
        with lab.oracle(model, version, defended=True, accounts=groups, tenants=groups) as oracle:
            for group in range(groups):
                own = slice(group * count, (group + 1) * count)
                tasks = [
                    Task(Ball(row, target.radius), int(label), budget)
                    for row, label in zip(sample.rows[own], sample.labels[own], strict=True)
                ]
                if not tasks:
                    break
                worn: Oracle = Spread(oracle, [group])
                if plan.innocent:
                    worn = Between(worn, others, plan.innocent)
                counted = Counted(worn, budget=len(tasks) * budget)
                chance = np.random.default_rng([seed, group, 1])
                attempts = rotate(counted, plan.search, tasks, chance, partial(lab.tell, target.name(plan.name)))
                met = counted.answered if counted.before_action is None else counted.before_action
                results += [(attempt, met) for attempt in attempts]
        settings = {
            "budget": budget,
            "accounts": 1,
            "tenants": 1,
            "images_in_turn": count,
            "innocent_share": plan.innocent,
        }
        return [TrialLine(lab, target, plan.name, BLACK_BOX, seed).of(sample.labels, results, settings)]

    return run


def apart(sample: Sample, count: int) -> Sample:
    """Return the first `count` rows that are far from all before them, as an attacker may choose who knows the screen:
    more than APART_SHARE of the pixels differ by more than APART_GAP.
    """
    flat = (sample.rows.reshape(len(sample.rows), -1) * 255).astype(np.int16)
    chosen: list[int] = []
    for place, row in enumerate(flat):
        near = np.abs(flat[chosen] - row) > round(255 * APART_GAP)
        if len(chosen) < count and (near.mean(axis=1) > APART_SHARE).all():
            chosen.append(place)
    return Sample(sample.rows[chosen], sample.labels[chosen])


def answered_right(lab: Lab, target: Target, count: int, seed: int) -> Sample:
    """Return the first `count` of the seed's test rows that the model itself answers right."""
    drawn = lab.rows(target.model, Split.TEST, round(DRAWN * count), seed)
    outputs = lab.model(target.model, target.version).outputs(drawn.rows)
    right = np.flatnonzero(outputs["probabilities"].argmax(axis=1) == drawn.labels)[:count]
    return Sample(drawn.rows[right], drawn.labels[right])


@dataclass(frozen=True, slots=True)
class _Attacks:
    lab: Lab
    target: Target
    plan: Plan
    budget: int

    def on(self, sample: Sample, rng: np.random.Generator) -> list[tuple[Attempt, int]]:
        """Attack each row, all at once; return its attempt with the answers it had before the first action."""
        lab, target, plan, count = self.lab, self.target, self.plan, len(sample.labels)
        others = lab.rows(target.model, Split.TEST, OTHER_ROWS[lab.size], OTHER_SEED)
        attack = plan.make(lab.model(target.model, target.version).classes, others)
        chances = rng.spawn(count)
        opened = lab.oracle(
            target.model,
            target.version,
            defended=target.defended,
            accounts=count * plan.accounts,
            tenants=count * plan.tenants,
            changes=target.changes,
        )

        def attempt(oracle: Oracle, place: int) -> tuple[Attempt, int]:
            worn: Oracle = Spread(oracle, own_accounts(place, count, plan))
            if plan.innocent:
                worn = Between(worn, np.roll(others.rows, -97 * place, axis=0), plan.innocent)
            counted = Counted(worn, budget=self.budget, sees_actions=plan.sees_actions)
            row, label = sample.rows[place], int(sample.labels[place])
            found = attack.run(counted, row, label, self.budget, chances[place])
            return found, counted.answered if counted.before_action is None else counted.before_action

        with opened as oracle, ThreadPoolExecutor(1 if plan.serial else count) as pool:
            return [*pool.map(partial(attempt, oracle), range(count))]


def own_accounts(place: int, count: int, plan: Plan) -> list[int]:
    """Return the accounts of one of `count` attempts: no tenant is shared, and its tenants are as many as planned.

    Account n of an oracle is in tenant n modulo the number of tenants.
    """
    tenants = count * plan.tenants
    return [
        place + count * (number % plan.tenants) + tenants * (number // plan.tenants) for number in range(plan.accounts)
    ]


@dataclass(frozen=True, slots=True)
class TrialLine:
    """A line of the scorecard about to be written."""

    lab: Lab
    target: Target
    name: str
    knowledge: str
    seed: int
    technique: str = TECHNIQUE

    def of(
        self,
        labels: NDArray[np.int64],
        results: Sequence[tuple[Attempt, int]],
        settings: Mapping[str, Any],
    ) -> Trial:
        """Verify what came of the attempts and say it."""
        attempts, target = [attempt for attempt, _ in results], self.target
        wrong, acted = verified(self.lab, target, np.stack([one.adversarial for one in attempts]), labels)
        good = wrong & ~acted & np.array([one.norm <= target.radius + 1e-6 for one in attempts])
        claimed = np.array([one.success for one in attempts])
        spent = sorted(one.queries for one, success in zip(attempts, good, strict=True) if success)
        curve = [(float(queries), place / len(good)) for place, queries in enumerate(spent, 1)]
        return Trial(
            attack=target.name(self.name),
            family="evasion",
            technique=self.technique,
            knowledge=self.knowledge,
            defended=target.defended,
            seed=self.seed,
            samples=len(good),
            successes=int(good.sum()),
            metrics={
                "queries_median": float(median(one.queries for one in attempts)),
                "before_action_median": float(median(met for _, met in results)),
                "claimed_share": float(claimed.mean()),
                "claimed_wrongly_share": float((claimed & ~wrong).mean()),
                "wrong_flagged_or_not_share": float(wrong.mean()),
            },
            settings={"norm": "L-inf", "radius": target.radius, "denominator": "images answered right", **settings},
            curves={"success_by_answered": curve} if curve else {},
        )


def verified(
    lab: Lab, target: Target, rows: Rows, labels: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Ask each row once, by accounts that nothing is remembered of; return (answered wrongly, acted upon), (rows,).

    An account asks about VERIFIED_EACH rows, which are of different images.
    """
    wrong, acted = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    accounts = -(-len(rows) // VERIFIED_EACH)
    for first in range(0, accounts, ACCOUNTS_MAX):
        some = min(ACCOUNTS_MAX, accounts - first)
        with lab.oracle(
            target.model,
            target.version,
            defended=target.defended,
            accounts=some,
            tenants=some,
            changes=target.changes,
        ) as oracle:
            for account in range(some):
                at = slice((first + account) * VERIFIED_EACH, (first + account + 1) * VERIFIED_EACH)
                try:
                    answers = oracle.ask(rows[at], account)
                except Refused:
                    acted[at] = True
                    continue
                wrong[at] = answers.answered & (answers.labels != labels[at])
                acted[at] = answers.acted if answers.acted is not None else ~answers.answered
    return wrong, acted

"""Query attacks measured: many images, each attacked through accounts of its own, in turn through one, or once each.

Attacked are test images that the model answers right untouched; all rates are of these. An attack's success is what the
lab finds, not what it was told: its best row, within the norm, is asked once by an account that nothing is remembered
of, and is answered with a wrong class and not flagged. `claimed_share` is what the attackers believed.

`before_action_median`: distinct answers an attacker had before a screen first acted on one of its questions, over all
attempts; an attempt that was never acted upon counts with all its answers.

A transfer asks once an image, for a row that PGD-40 made on a model of the attacker's own: no screen that remembers
accounts can see it. That model is a plain one of the same architecture, taught on the same public images (kiosk 1); or
one that the attacker taught against single steps from a random start ("fast" adversarial training, Wong et al. 2020,
arXiv 2001.03994, algorithm 3), in half a minute of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.art_adapter import QUERY_ATTACKS
from defenses.lab.attack import Attempt, Finding, Oracle, QueryAttack, Refused, Run, Sample, Size, Split
from defenses.lab.evasion.disguise import Between, Spread, rotate
from defenses.lab.evasion.query import Ball, Counted, Rows, Search, Searching, Task
from defenses.lab.evasion.query_art import ArtQueries
from defenses.lab.evasion.searches import Fresh, OarsNes, Patched, oars_square, square
from defenses.lab.evasion.whitebox import static_pgd
from defenses.lab.inference.shadow import ShadowRecipe, train_shadow
from defenses.lab.pipeline import Pipeline

SEARCHES: Final[Mapping[str, Search]] = {
    "square": square,
    "fresh": Fresh(),
    "square-patches": Patched(square, side=4, by=0.45),
    "fresh-patches": Patched(Fresh(rounds=8), side=5, by=0.6),
    "oars-nes": OarsNes(),
    "oars-square": oars_square,
}
RADIUS: Final = 0.1
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
PUBLIC_ROWS: Final = {Size.SMOKE: 500, Size.FULL: 12_000}  # that the attacker's own model learns from

Results = Sequence[tuple[Attempt, int]]
"""Each attempt, and the distinct answers it had before the first action."""


def by_asking(
    run: Run,
    *,
    search: str,
    budget: int,
    accounts: int = 1,
    tenants: int = 1,
    innocent: float = 0.0,
    sees_actions: bool = False,
    defended: bool = True,
) -> list[Finding]:
    """Attack many images side by side.

    Args:
        run: what is attacked.
        search: of SEARCHES or QUERY_ATTACKS.
        budget: questions an image.
        accounts: of each attempt.
        tenants: of each attempt.
        innocent: share of innocent questions.
        sees_actions: the attacker is told where a screen acted.
        defended: False for the control.
    """
    if run.smoke:
        budget = min(budget, SMOKE_BUDGET_MAX)
    sample = answered_right(run, SAMPLES[run.lab.size])
    others = run.rows(Split.TEST, OTHER_ROWS[run.lab.size], OTHER_SEED)
    serial = search in QUERY_ATTACKS  # their chance is NumPy's global generator
    attack: QueryAttack = (
        ArtQueries(search, run.victim().classes, others) if serial else Searching(SEARCHES[search], RADIUS)
    )

    results: list[tuple[Attempt, int]] = []
    each = min(TOGETHER, ACCOUNTS_MAX // accounts)

    def attempt(oracle: Oracle, own: Sequence[int], at: int, rng: np.random.Generator) -> tuple[Attempt, int]:
        worn: Oracle = Spread(oracle, own)
        if innocent:
            worn = Between(worn, np.roll(others.rows, -97 * (at % each), axis=0), innocent)
        counted = Counted(worn, budget=budget, sees_actions=sees_actions)
        found = attack.run(counted, sample.rows[at], int(sample.labels[at]), budget, rng)
        return found, _answers_before_action(counted)

    for first in range(0, len(sample.labels), each):
        part = range(first, min(first + each, len(sample.labels)))
        count = len(part)
        own = [own_accounts(place, count, accounts, tenants) for place in range(count)]
        chances = np.random.default_rng([run.seed, first, 2]).spawn(count)
        opened = run.oracle(defended=defended, accounts=count * accounts, tenants=count * tenants)
        with opened as oracle, ThreadPoolExecutor(1 if serial else count) as pool:
            results += pool.map(partial(attempt, oracle), own, part, chances)
        run.tell(len(results), len(sample.labels))
    settings = {"budget": budget, "accounts": accounts, "tenants": tenants, "innocent_share": innocent}
    return [_finding(run, sample.labels, results, settings, defended=defended)]


def in_turn(
    run: Run, *, search: str, images: int, budget: int, groups: int = 1, innocent: float = 0.0
) -> list[Finding]:
    """Search for many images in turn through one account.

    Between two questions about one image lie more than a window remembers; or so many innocent ones that repeats are as
    rare as in benign traffic, and so far apart that each looks like the first.

    Args:
        run: what is attacked.
        search: of SEARCHES.
        images: of each account.
        budget: questions an image.
        groups: accounts that do so, one after the other, with images of their own.
        innocent: share of innocent questions.
    """
    if run.smoke:
        images, budget, groups = 4, 20, 1
    wanted = images * groups
    sample = apart(answered_right(run, round(CROWDED * wanted)), wanted)
    others = run.rows(Split.TEST, OTHER_ROWS[run.lab.size], OTHER_SEED).rows
    results: list[tuple[Attempt, int]] = []
    with run.oracle(defended=True, accounts=groups, tenants=groups) as oracle:
        for group in range(groups):
            own = slice(group * images, (group + 1) * images)
            tasks = [
                Task(Ball(row, RADIUS), label, budget)
                for row, label in zip(sample.rows[own], sample.labels[own].tolist(), strict=True)
            ]
            if not tasks:
                break
            worn: Oracle = Spread(oracle, [group])
            if innocent:
                worn = Between(worn, others, innocent)
            counted = Counted(worn, budget=len(tasks) * budget)
            attempts = rotate(counted, SEARCHES[search], tasks, np.random.default_rng([run.seed, group, 1]), run.tell)
            results += [(attempt, _answers_before_action(counted)) for attempt in attempts]
    settings = {"budget": budget, "accounts": 1, "tenants": 1, "images_in_turn": images, "innocent_share": innocent}
    return [_finding(run, sample.labels, results, settings)]


def transfer(run: Run, *, own: str | None = None) -> list[Finding]:
    """Ask once for rows made on the attacker's model: version `own` of the model; None: a robust one that it taught."""
    sample = answered_right(run, SAMPLES[run.lab.size])
    images, labels = torch.from_numpy(sample.rows), torch.from_numpy(sample.labels)
    moved = static_pgd(_own_model(run, own), images, labels, RADIUS, torch.Generator().manual_seed(run.seed)).numpy()
    norms = np.abs(moved - sample.rows).reshape(len(moved), -1).max(axis=1).tolist()
    results = [(Attempt(True, 1, row, norm), 1) for row, norm in zip(moved, norms, strict=True)]
    name = "a robust one of its own" if own is None else f"{run.model}-{own}"
    return [_finding(run, sample.labels, results, {"own_model": name, "budget": 1})]


def _own_model(run: Run, own: str | None) -> Callable[[torch.Tensor], torch.Tensor]:
    if own is not None:
        known = run.lab.model(run.model, own)
        return Pipeline(known.module(), known.arrays(), {})
    public = run.rows(Split.TRAIN, PUBLIC_ROWS[run.lab.size])
    recipe = ShadowRecipe(epochs=6, batch_rows=128, weight_decay=0.005, radius=RADIUS)
    net = train_shadow(public.rows, public.labels, run.victim().classes, recipe, seed=run.seed)
    return lambda images: net(images[:, None])


def _answers_before_action(counted: Counted) -> int:
    return counted.answered if counted.before_action is None else counted.before_action


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


def answered_right(run: Run, count: int) -> Sample:
    """Return the first `count` of the seed's test rows that the model itself answers right."""
    drawn = run.rows(Split.TEST, round(DRAWN * count))
    outputs = run.victim().outputs(drawn.rows)
    right = np.flatnonzero(outputs["probabilities"].argmax(axis=1) == drawn.labels)[:count]
    return Sample(drawn.rows[right], drawn.labels[right])


def own_accounts(place: int, count: int, accounts: int, tenants: int) -> list[int]:
    """Return the accounts of one of `count` attempts: no tenant is shared, and its tenants are as many as planned.

    Account n of an oracle is in tenant n modulo the number of tenants.
    """
    return [place + count * (number % tenants) + count * tenants * (number // tenants) for number in range(accounts)]


def _finding(
    run: Run, labels: NDArray[np.int64], results: Results, settings: Mapping[str, Any], *, defended: bool = True
) -> Finding:
    """Verify what came of the attempts, and count it."""
    attempts = [attempt for attempt, _ in results]
    wrong, acted = verified(run, np.stack([one.adversarial for one in attempts]), labels, defended=defended)
    good = wrong & ~acted & np.array([one.norm <= RADIUS + 1e-6 for one in attempts])
    claimed = np.array([one.success for one in attempts])
    spent = sorted(one.queries for one, success in zip(attempts, good, strict=True) if success)
    curve = [(float(queries), place / len(good)) for place, queries in enumerate(spent, 1)]
    return Finding(
        len(good),
        int(good.sum()),
        {
            "queries_median": float(median(one.queries for one in attempts)),
            "before_action_median": float(median(met for _, met in results)),
            "claimed_share": float(claimed.mean()),
            "claimed_wrongly_share": float((claimed & ~wrong).mean()),
            "wrong_flagged_or_not_share": float(wrong.mean()),
        },
        {"norm": "L-inf", "radius": RADIUS, "denominator": "images answered right", **settings},
        {"success_by_answered": curve} if curve else {},
        defended=defended,
    )


def verified(
    run: Run, rows: Rows, labels: NDArray[np.int64], *, defended: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Ask each row once, by accounts that nothing is remembered of; return (answered wrongly, acted upon), (rows,).

    An account asks about VERIFIED_EACH rows, which are of different images.
    """
    wrong, acted = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    accounts = -(-len(rows) // VERIFIED_EACH)
    for first in range(0, accounts, ACCOUNTS_MAX):
        some = min(ACCOUNTS_MAX, accounts - first)
        with run.oracle(defended=defended, accounts=some, tenants=some) as oracle:
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

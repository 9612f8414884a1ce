"""The query attacks of the catalogue, each with its budget and its disguise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from defenses.lab.attack import Lab, Sample, Trial
from defenses.lab.evasion.fresh import Fresh
from defenses.lab.evasion.oars import OarsNes, OarsSquare
from defenses.lab.evasion.patches import Patched
from defenses.lab.evasion.query import Attacker, Search, Searching
from defenses.lab.evasion.query_art import ArtQueries
from defenses.lab.evasion.query_scores import Nes, square
from defenses.lab.evasion.query_trials import InTurn, Plan, plan_of, rotation_of

LONG: Final = 5_000
SHORT: Final = 1_000


def _plan(name: str, search: Search, budget: int = LONG) -> Plan:
    def make(_classes: int, _others: Sample) -> Attacker:
        return Searching(name, search)

    return Plan(name, make, budget)


def _art(name: str) -> Plan:
    def make(classes: int, others: Sample) -> Attacker:
        return ArtQueries(name, classes, others)

    return Plan(name, make, LONG, serial=True)


def _all() -> list[Plan]:
    squares, fresh = _plan("square", square), _plan("fresh", Fresh(), SHORT)
    perfect = [
        replace(_plan("oars-nes", OarsNes(perfect=True), SHORT), sees_actions=True),
        replace(_plan("oars-square", OarsSquare(perfect=True), SHORT), sees_actions=True),
    ]
    sybils = [
        replace(plan, name=f"{plan.name}-sybils-{where}", accounts=10, tenants=tenants, budget=SHORT)
        for plan in (squares, fresh)
        for where, tenants in (("one-tenant", 1), ("ten-tenants", 10))
    ]
    between = [
        replace(plan, name=f"{plan.name}-between-{share:.0%}".replace("%", ""), innocent=share, budget=SHORT)
        for plan in (squares,)
        for share in (0.5, 0.9)
    ]
    return [
        squares,
        *(_art(name) for name in ("hop-skip-jump", "boundary", "sign-opt", "zoo")),
        _plan("nes", Nes(), SHORT),
        fresh,
        _plan("fresh-wide", Fresh(reach=0.16, rounds=2, asks=False), SHORT),
        _plan("fresh-wider", Fresh(reach=0.25, rounds=2, asks=False), SHORT),
        _plan("square-patches", Patched(square, side=4, by=0.45), SHORT),
        _plan("fresh-patches", Patched(Fresh(rounds=8), side=5, by=0.6), SHORT),
        *perfect,
        _plan("oars-nes-leaks", OarsNes(perfect=False), SHORT),
        _plan("oars-nes-blocks-leaks", OarsNes(perfect=False, block=4), SHORT),
        _plan("oars-square-leaks", OarsSquare(perfect=False), SHORT),
        *sybils,
        *between,
    ]


PLANS: Final[Mapping[str, Plan]] = {plan.name: plan for plan in _all()}


def query_of(
    name: str, model: str, version: str, defended: bool = True, variant: str | None = None
) -> Callable[[Lab, int], list[Trial]]:
    """Return the run of a plan by name; see `plan_of`."""
    return plan_of(PLANS[name], model, version, defended=defended, variant=variant)


IN_TURN: Final[Mapping[str, InTurn]] = {
    plan.name: plan
    for plan in (
        InTurn("square-rotating-1000", square, 1_000, 150),
        InTurn("square-rotating-3000", square, 3_000, 100),
        InTurn("square-drip", square, 6, 150, groups=3, innocent=0.985),
    )
}
"""Between two questions about one image lie more than a window remembers; or so many innocent ones that repeats are as
rare as in benign traffic, and so far apart that each looks like the first.
"""


def in_turn_of(name: str, model: str, version: str) -> Callable[[Lab, int], list[Trial]]:
    """Return the run of a plan of IN_TURN."""
    return rotation_of(IN_TURN[name], model, version)

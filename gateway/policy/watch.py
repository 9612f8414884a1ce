"""`models.<name>.watch` of `policy.yaml`: what becomes of an account whose questions look like an attack.

A screen judges a row; a watch judges an account by all that it asked (`defenses.accounts.watch`). Its evidence is a
number that a benign account ever reaches with a known probability at most, its `alpha`; at each alpha named here the
account goes a step further. Nobody is told that there are steps: but for `proof_of_work` and `refuse` the answers of
each look like ordinary ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from gateway.config.document import Fault, Location, Section
from gateway.config.units import Duration, Text

STEPS = ("flag", "harden", "neighbour", "proof_of_work", "top1", "cool_down", "refuse")
"""From the mildest; each one includes those before it but `flag`, and `proof_of_work` only while it is asked for."""
ClassName = Annotated[
    str, Text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "1 to 64 letters, digits, dots, hyphens and underscores")
]


class WatchStep(Section):
    """What an account gets whose evidence is this unlikely in benign use."""

    alpha: Annotated[float, Field(gt=0, lt=1)]
    """The share of benign accounts that ever come this far, at most."""
    answer: Literal["flag", "harden", "neighbour", "proof_of_work", "top1", "cool_down", "refuse"]
    """`flag`: only marks the record. `harden`: as `harden` of the model says. `neighbour`: what is close to an earlier
    question gets the earlier answer. `top1`: the likeliest class alone. `cool_down`: refused as if a rate limit had no
    room. `refuse`: refused as an input that was rejected, which an attacker can tell apart."""
    lasts_ms: Annotated[int, Duration("1s", "365d")] = Field(default=3_600_000, alias="lasts")
    """How long the account stays on the step after its last question that reached it."""


class Watch(Section):
    """What becomes of accounts whose questions, taken together, look like an attack."""

    mode: Literal["enforce", "shadow"] = "shadow"
    """`shadow` records and counts what would have been done, and does not do it."""
    flag_alpha: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.01, alias="flag")
    """At or below this p-value of one question its record says `flag`. It moves no answer by itself."""
    consistent: Literal["off", "shadow", "enforce"] = "off"
    """Whether what is close to an earlier question of the same account gets the earlier answer from the beginning, not
    only from the step `neighbour` on."""
    steps: Annotated[tuple[WatchStep, ...], Field(max_length=8)] = ()
    """In order: less likely, harder."""
    classes: Annotated[Mapping[ClassName, tuple[WatchStep, ...]], Field(max_length=8)] = {}
    """Other steps for the accounts of a priority class; an empty list: none."""


def watch_faults(at: Location, watch: Watch, classes: Mapping[str, object], *, hardens: bool) -> Iterator[Fault]:
    """Yield what is wrong with a watch whose every part is well-formed. `at` is where it stands."""
    for name in watch.classes:
        if name not in classes:
            yield Fault(
                (*at, "classes", name), f"{name!r} is not a class of this policy; name one of: {', '.join(classes)}"
            )
    lists: list[tuple[Location, tuple[WatchStep, ...]]] = [((*at, "steps"), watch.steps)]
    lists += [((*at, "classes", name), steps) for name, steps in watch.classes.items()]
    for where, steps in lists:
        for earlier, later in pairwise(steps):
            if later.alpha >= earlier.alpha or STEPS.index(later.answer) <= STEPS.index(earlier.answer):
                yield Fault(
                    where, "is not in order; each step has a smaller alpha and a harder answer than the one before"
                )
                break
        if not hardens and any(step.answer == "harden" for step in steps):
            yield Fault(where, "names `harden`, and the model has no `harden` that says how; add it, or take `top1`")

"""`models.<name>.budget` of `policy.yaml`: how much of a model an account may learn in a day.

Not a rate limit: an answer costs what it gives away (`defenses.extraction.budget`), so a client that asks usual things
at the rate named here never notices it, and who asks foreign or boundary inputs is through with it twenty times as
fast. `limits.queries_per_day` counts rows alone, and refuses at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from gateway.config.document import Fault, Location, Section
from gateway.config.units import Text

ClassName = Annotated[
    str, Text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "1 to 64 letters, digits, dots, hyphens and underscores")
]
Queries = Annotated[int, Field(ge=1, le=10_000)]
Days = Annotated[float, Field(gt=0, le=30)]


class Puzzle(Section):
    """How hard the proof of work is: zero bits of a SHA-256. Each doubles the work; 20 take a client about a second."""

    bits: Annotated[int, Field(ge=8, le=32)] = 16
    """Where the step begins."""
    bits_max: Annotated[int, Field(ge=8, le=32)] = 24
    """At the most, but for requests of several rows: those double the work for each doubling of rows."""
    days_per_bit: Annotated[float, Field(ge=0.001, le=365)] = 0.03125
    """Days of debt that make it one bit harder."""


class ExtractionBudget(Section):
    """How much of the model an account may learn in a day."""

    mode: Literal["enforce", "shadow"] = "shadow"
    """`shadow` records what would have been done, and does not do it."""
    queries_per_day: Queries = 1_000
    """What an honest client may ask in any 24 hours without ever leaving full answers."""
    classes: Annotated[Mapping[ClassName, Queries | None], Field(max_length=8)] = {}
    """Another number for the accounts of a priority class; null: no budget."""
    top1_after_days: Days = 1.0
    """Debt, in days' allowances, from which the likeliest class alone is told."""
    proof_after_days: Days = 1.25
    """Debt from which each request needs a proof of work."""
    refuse_after_days: Days = 1.5
    """Debt from which requests are refused as QUOTA_EXCEEDED."""
    proof: Puzzle = Puzzle()
    """How hard the proof of work is."""


def budget_faults(at: Location, budget: ExtractionBudget, classes: Mapping[str, object]) -> Iterator[Fault]:
    """Yield what is wrong with a budget whose every part is well-formed. `at` is where it stands."""
    for name in budget.classes:
        if name not in classes:
            yield Fault(
                (*at, "classes", name), f"{name!r} is not a class of this policy; name one of: {', '.join(classes)}"
            )
    if not budget.top1_after_days <= budget.proof_after_days <= budget.refuse_after_days:
        yield Fault(at, "is not in order; top1_after_days <= proof_after_days <= refuse_after_days")
    if budget.proof.bits > budget.proof.bits_max:
        yield Fault((*at, "proof", "bits_max"), f"is below `bits`, {budget.proof.bits}")

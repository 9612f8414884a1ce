"""`models.<name>.output` of `policy.yaml`: which classes and texts may leave, and how sure the model has to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, StringConstraints

from gateway.config.document import Fault, Location, Section

ClassName = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Classes = Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=10_000)]


class TextRules(Section):
    """What texts may hold. One that breaks a rule is emptied."""

    outputs: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]
    """The BYTES outputs that are texts, in UTF-8."""
    characters_max: Annotated[int, Field(ge=1, le=65_536)] = 16_384
    """Characters of one text."""
    denied: Annotated[tuple[Pattern, ...], Field(max_length=64)] = ()
    """Words that must not stand in a text, whatever their case; `#` stands for a digit: "####-####-####-####"."""


class Output(Section):
    """What may leave, whatever the model said."""

    allow: Classes | None = None
    """The only classes that are ever given, by name; instead of `deny`."""
    deny: Classes | None = None
    """Classes that are never given, by name."""
    confidence_min: Annotated[float, Field(gt=0, le=1)] | None = None
    """Below this probability of the best class that may be given, by the model's own word, no class is given."""
    text: TextRules | None = None


def output_faults(at: Location, output: Output) -> Iterator[Fault]:
    """What is wrong with it that no single field shows."""
    if output.allow is not None and output.deny is not None:
        yield Fault((*at, "deny"), "stands beside `allow`, which already says it; keep one of the two")
    if (output.allow, output.deny, output.confidence_min, output.text) == (None, None, None, None):
        yield Fault(at, "says nothing; write `allow`, `deny`, `confidence_min` or `text`, or remove it")

"""What the policy keeps back of a batch's outputs: classes that may not be given, answers that are too unsure, words.

The order matters, and stands in the pipeline: `within` takes denied classes out before anything is hardened, so that
hardening keeps the best of those that may be given; `emptied` comes after it, because a hardened row is always an
answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from defenses.budget.output import abstain, restrict, screen_texts
from defenses.errors import DefenseError
from gateway import errors
from gateway.models.compile_output import ABSTAINED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.models.rules import ModelRules

    Bools = np.ndarray[Any, np.dtype[np.bool_]]
    Tensors = Mapping[str, Any]


class KeptBack(NamedTuple):
    """Which rows get no answer, and which another class than the model's first, bool (rows,) each."""

    abstained: Bools
    moved: Bools

    def by_request(self, starts: np.ndarray[Any, np.dtype[np.intp]]) -> list[str | None]:
        """Return the `output` part of each request's record, canonical JSON; None where nothing was kept back."""
        if not (self.abstained.any() or self.moved.any()):
            return [None] * starts.size
        counts = [np.add.reduceat(each, starts, dtype=np.int64).tolist() for each in self]
        return [
            f'{{"abstained":{abstained},"moved":{moved}}}' if abstained or moved else None
            for abstained, moved in zip(*counts, strict=True)
        ]

    def counts(self) -> dict[str, int]:
        """Return the rows by what became of them."""
        return {"abstained": int(self.abstained.sum()), "moved": int(self.moved.sum())}


def within(outputs: Tensors, rules: ModelRules, rows: int) -> tuple[Tensors, KeptBack | None]:
    """Return the outputs without classes and texts that may not be given, and what was kept back; None without a rule.

    Raises:
        ModelError: an output has not the shape that the policy was checked against.
    """
    rule = rules.output
    if rule is None:
        return outputs, None
    shown = dict(outputs)
    abstained, moved = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    try:
        if rule.classes is not None and rules.prediction is not None:
            restricted = restrict(outputs[rules.prediction], rule.classes)
            shown[rules.prediction] = restricted.probabilities
            abstained, moved = restricted.abstained, restricted.moved
        for name, of_text in rule.texts.items():
            texts = screen_texts(outputs[name], of_text)
            shown[name] = texts.values
            abstained = abstained | texts.abstained
    except DefenseError as problem:
        raise errors.ModelError from problem
    return shown, KeptBack(abstained, moved & ~abstained)


def emptied(shown: Tensors, kept: KeptBack | None, rules: ModelRules) -> Tensors:
    """Return the outputs as they leave: rows that abstain have no class and no text, and ABSTAINED says which."""
    if kept is None or rules.output is None:
        return shown
    left = {**shown, ABSTAINED.name: kept.abstained}
    if rules.prediction is not None:
        left[rules.prediction] = abstain(shown[rules.prediction], kept.abstained)
    if kept.abstained.any():
        for name in rules.output.texts:
            left[name] = shown[name].copy()
            left[name][kept.abstained] = b""
    return left

"""S10: what may leave, whatever the model said: which classes, how sure it has to be, and which words.

Classes. A class that is not allowed gets no probability; what it had is shared out among the allowed ones, in
proportion. A row *abstains* (it gets no class at all: every probability is zero) where no allowed class has any
probability, or where the most probable allowed one has less than `confidence_min` by the model's own word. That is
asked before the sharing out: a list of classes must not make the model look surer than it was.

Texts. Each element of a text output is UTF-8 of at most `characters_max` characters and holds none of the denied
patterns; one that is not is emptied, and its row abstains. It is never cut: half a sentence may say the opposite.
Characters that steer terminals or reading order are taken out first, so that nothing can be spelled around them; line
breaks and tabs stay. Patterns are compared after NFKC and case folding (Unicode UAX #15, section 5.18 of the core
specification) with invisible characters removed and white space run together; `#` stands for any digit. A pattern has a
fixed length and no repetition, so a search takes at most the length of the text times that of all patterns: there is
nothing to backtrack into.

It does not understand what it reads: a list of words stops words, no meaning. What a row that is not a distribution
(NaN, infinite, negative) becomes is NaN throughout, as in `defenses.budget.hardening`: the caller answers it as a model
error.

Pure; rows do not influence each other; arguments are not written to.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from defenses.errors import EvidenceInvalid, RuleInvalid

CHARACTERS_MAX = 65_536
PATTERNS_MAX = 64
PATTERN_CHARACTERS_MAX = 64
UTF8_BYTES_MAX = 4  # of a character

_STAYS = frozenset("\t\n\r")
_BIDI = (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x061C, 0x200E, 0x200F)
_TAGS = range(0xE0000, 0xE0080)  # invisible letters
_STEERING = dict.fromkeys(
    [
        *(code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in _STAYS),
        *_BIDI,
        *_TAGS,
    ]
)
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True, eq=False)
class ClassRule:
    """`allowed` is bool (classes,), None for all; `confidence_min`, 0 to 1, is compared with the model's own number."""

    allowed: NDArray[np.bool_] | None = None
    confidence_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.confidence_min <= 1.0:
            raise RuleInvalid("confidence_min", f"{self.confidence_min}: outside [0, 1]")
        if self.allowed is not None and not self.allowed.any():
            raise RuleInvalid("allowed", "no class is")


def allowed_classes(names: Sequence[str], *, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> NDArray[np.bool_]:
    """Return which classes may be given, bool (classes,): those of `allow`, or all, without those of `deny`.

    RuleInvalid for a name that is no class of the model, and where no class is left.
    """
    allow, deny = tuple(allow), tuple(deny)
    for name in (*allow, *deny):
        if name not in names:
            raise RuleInvalid("classes", f"the model has no class {name!r}; it has: {', '.join(names[:20]) or 'none'}")
    allowed = np.array([(name in allow or not allow) and name not in deny for name in names], np.bool_)
    if not allowed.any():
        raise RuleInvalid("classes", "none is left to give")
    return allowed


class Restricted(NamedTuple):
    """`probabilities` like those given; bool (rows,): which rows abstain, and which were moved off a denied class."""

    probabilities: NDArray[Any]
    abstained: NDArray[np.bool_]
    moved: NDArray[np.bool_]


def restrict(probabilities: NDArray[Any], rule: ClassRule) -> Restricted:
    """Take denied classes out of floating (rows, classes), and say which rows abstain; those are left for `abstain`.

    A row whose classes are all allowed keeps its bits. EvidenceInvalid for another shape or dtype.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] == 0 or probabilities.dtype.kind != "f":
        raise EvidenceInvalid("probabilities", f"{probabilities.dtype}{probabilities.shape}: (rows, classes) wanted")
    values = probabilities.astype(np.float64)
    sound = np.isfinite(values).all(axis=1) & (values.min(axis=1) >= 0)
    if rule.allowed is None:
        moved = np.zeros(len(values), np.bool_)
        abstained = sound & (values.max(axis=1) < rule.confidence_min)
        return Restricted(probabilities, abstained, moved)
    if rule.allowed.shape != probabilities.shape[1:]:
        raise EvidenceInvalid("probabilities", f"{probabilities.shape[1]} classes; {rule.allowed.size} wanted")
    kept = np.where(rule.allowed, values, 0.0)
    mass, surest = kept.sum(axis=1), kept.max(axis=1)
    abstained = sound & ((surest <= 0) | (surest < rule.confidence_min))
    moved = sound & ~abstained & ~rule.allowed[probabilities.argmax(axis=1)]
    touched = sound & (kept != values).any(axis=1)
    shared = probabilities.copy()
    dividable = touched & (mass > 0)
    shared[dividable] = (kept[dividable] / mass[dividable, None]).astype(probabilities.dtype)
    shared[touched & ~dividable] = 0
    shared[~sound] = np.nan
    return Restricted(shared, abstained, moved)


def abstain(probabilities: NDArray[Any], abstained: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the array with the rows of `abstained` at zero throughout; itself where there are none."""
    if not abstained.any():
        return probabilities
    emptied = probabilities.copy()
    emptied[abstained] = 0
    return emptied


@dataclass(frozen=True, slots=True, eq=False)
class TextRule:
    """How long a text may be, in characters, and what must not stand in it."""

    characters_max: int
    denied: tuple[str, ...] = ()
    _search: re.Pattern[str] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.characters_max <= CHARACTERS_MAX:
            raise RuleInvalid("characters_max", f"{self.characters_max}: outside [1, {CHARACTERS_MAX}]")
        if len(self.denied) > PATTERNS_MAX:
            raise RuleInvalid("denied", f"{len(self.denied)} patterns; at most {PATTERNS_MAX}")
        pieces = []
        for pattern in self.denied:
            folded = _folded(pattern)
            if not folded.strip() or len(folded) > PATTERN_CHARACTERS_MAX:
                raise RuleInvalid("denied", f"{pattern!r}: 1 to {PATTERN_CHARACTERS_MAX} visible characters wanted")
            pieces.append(re.escape(folded).replace(re.escape("#"), "[0-9]"))
        object.__setattr__(self, "_search", re.compile("|".join(pieces)) if pieces else None)

    def clean(self, element: bytes) -> bytes | None:
        """Return the text as it may leave, None where it may not."""
        if len(element) > UTF8_BYTES_MAX * self.characters_max:
            return None
        try:
            text = element.decode()
        except UnicodeDecodeError:
            return None
        text = text.translate(_STEERING)
        if len(text) > self.characters_max or (self._search is not None and self._search.search(_folded(text))):
            return None
        return text.encode()


class Texts(NamedTuple):
    """`values` like those given, object arrays of `bytes`; `abstained` is bool (rows,)."""

    values: NDArray[Any]
    abstained: NDArray[np.bool_]


def screen_texts(values: NDArray[Any], rule: TextRule) -> Texts:
    """Clean an object array (rows, ...) of `bytes`: what may not leave is emptied, and its row abstains."""
    if values.dtype != object or values.ndim == 0:
        raise EvidenceInvalid("texts", f"{values.dtype}{values.shape}: rows of bytes wanted")
    cleaned = np.empty(values.size, object)
    withheld = np.zeros(values.size, np.bool_)
    for place, element in enumerate(values.ravel().tolist()):
        text = rule.clean(element)
        cleaned[place] = b"" if text is None else text
        withheld[place] = text is None
    of_row = withheld.reshape(len(values), values.size // max(len(values), 1))
    return Texts(cleaned.reshape(values.shape), np.logical_or.reduce(of_row, axis=1))


def _folded(text: str) -> str:
    """One spelling of everything that reads alike: compatible forms, no case, nothing invisible, single spaces."""
    if text.isascii():
        return _SPACE.sub(" ", text.casefold())
    visible = "".join([each for each in text if unicodedata.category(each) not in {"Cf", "Mn"}])
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())
    return _SPACE.sub(" ", folded)


@dataclass(frozen=True, slots=True, eq=False)
class OutputRule:
    """What a model version may answer: its classes, and its text outputs by name."""

    classes: ClassRule | None = None
    texts: Mapping[str, TextRule] = field(default_factory=dict)

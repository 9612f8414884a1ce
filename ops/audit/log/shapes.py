"""Knowing an entry by the shape of one that was checked: what recorder and verifier read most, at a third of the cost.

A shape is a regular expression made from a checked entry, in which values that differ from request to request stand as
what their fields allow. What it matches, `entry.check` accepts:

1. Keys, brackets, commas and closed values (a decision, a verdict, a version) are those of the checked entry, byte by
   byte; so are the fields, their order and their nesting.
2. A string stands as printable ASCII that JSON does not escape, of a length that its field allows; a time as a decimal
   number.
3. An integer stands as at most 15 digits without a leading zero, which is below 2^53; with a sign where its field has
   one.

Whether a value may differ is decided by the name of its field, from the schema; a name that stands for two kinds of
value is left as it is. Entries with escapes, other than ASCII, or with payloads make no shape. Pure.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import inspect

from ops.audit.log.entry import ENTRY_BYTES_MAX
from ops.audit.log.schemas import Request
from ops.audit.log.schemas.requests import INTEGER_MAX

COMPILED_MAX = 64
SHAPES_MAX = 16  # what has none of them was tried against so many, and is checked as it always was

_VALUE = re.compile(rb'"(?P<key>[a-z0-9_]+)":(?:"(?P<text>[^"]*)"|(?P<number>-?[0-9]+))(?=[,}])')
# Possessive (`+` at the end): what follows a value is never a part of it, so nothing need be tried again.
_COUNT = rb"(?!0[0-9])[0-9]{1,15}+"
_SIGNED = rb"(?!0[0-9]|-0)-?+[0-9]{1,15}+"
_TIME = rb"[1-9][0-9]{0,18}+"


def _fields(of: inspect.Type) -> Iterator[tuple[str, inspect.Type]]:
    """The fields of a type and of all that is in it, by their names."""
    match of:
        case inspect.StructType():
            for each in of.fields:
                yield each.encode_name, each.type
                yield from _fields(each.type)
        case inspect.UnionType():
            for one in of.types:
                yield from _fields(one)
        case inspect.ListType():
            yield from _fields(of.item_type)


def _allowed(name: str, of: inspect.Type) -> bytes | None:
    """What may stand in a field, as a regular expression; None where only what stands there may."""
    match of:
        case inspect.StrType(pattern=None, min_length=int(least), max_length=int(most)):
            return _TIME if name.endswith("_ns") else rb"[ !#-\[\]-~]{%d,%d}+" % (least, most)
        case inspect.IntType(ge=0, le=int(most)) if most == INTEGER_MAX:
            return _COUNT
        case inspect.IntType(ge=int(least), le=int(most)) if (least, most) == (-INTEGER_MAX, INTEGER_MAX):
            return _SIGNED
    return None


def _values(*, text: bool) -> Mapping[bytes, bytes | None]:
    """What may stand as text, or as a number, for each name in a request; None where it is closed or depends."""
    allowed: dict[bytes, bytes | None] = {}
    for name, of in _fields(inspect.type_info(Request)):
        for kind in of.types if isinstance(of, inspect.UnionType) else (of,):
            match kind:
                case inspect.StrType() | inspect.LiteralType(values=(str(), *_)):
                    is_text = True
                case inspect.IntType() | inspect.LiteralType():
                    is_text = False
                case _:
                    continue
            found = _allowed(name, kind)
            if text == is_text:
                allowed[name.encode()] = found if allowed.get(name.encode(), found) == found else None
    return allowed


_TEXTS = _values(text=True)
_NUMBERS = _values(text=False)
_compiled: dict[bytes, re.Pattern[bytes]] = {}


@dataclass(slots=True)
class _Run:
    """What stands between two values that each request has of its own: as it is, and as its fields allow.

    The first is matched faster and tried first. Both would end in the same place: where the first matches, the second
    is not tried, whatever comes behind them.
    """

    literal: bytes = b""
    allowed: bytes = b""

    def add(self, literal: bytes, allowed: bytes | None = None) -> None:
        self.literal += literal
        self.allowed += literal if allowed is None else allowed

    def end(self) -> tuple[bytes, bytes]:
        """The expression, and the one of what fields allow alone; the next run begins."""
        allowed = self.allowed
        both = allowed if self.literal == allowed else b"(?>%b|%b)" % (self.literal, allowed)
        self.literal = self.allowed = b""
        return both, allowed


@dataclass(slots=True)
class Shapes:
    """Those that were learned, the one that was met last first."""

    _learned: list[tuple[re.Pattern[bytes], str]] = field(default_factory=list)

    def unknown(self, entries: Sequence[bytes | memoryview]) -> Iterator[int]:
        """The places of those that `know` does not; what is learned meanwhile counts for those behind it.

        The shape that was met last is that of nearly all of them, and is tried without a call of ours for each.
        """
        last = self._learned[0][0].fullmatch if self._learned else lambda _: None
        for place, (entry, found) in enumerate(zip(entries, map(last, entries), strict=True)):
            if (found is None or len(entry) > ENTRY_BYTES_MAX) and not self.know(entry):
                yield place

    def know(self, data: bytes | memoryview) -> str:
        """The kind of an entry that has a shape that was learned: one that `entry.check` accepts. Else nothing."""
        for place, (shape, kind) in enumerate(self._learned):
            if shape.fullmatch(data) is not None:
                if place:
                    self._learned.insert(0, self._learned.pop(place))
                return kind if len(data) <= ENTRY_BYTES_MAX else ""
        return ""

    def learn(self, data: bytes, checked: Request) -> None:
        """Take the shape of a request's entry, unless there are enough. `checked` is what `entry.check` made of it."""
        simple = data.isascii() and b"\\" not in data and b'"payload":' not in data
        if simple and len(self._learned) < SHAPES_MAX:
            self._learned.append((_compile(*_patterns(data)), checked.kind))


def _compile(pattern: bytes, plain: bytes) -> re.Pattern[bytes]:
    """Compile the first of two expressions that match the same, once for each of the second.

    Compiling takes as long as a thousand matches, and another tenant's entries of one shape make another first one.
    """
    found = _compiled.get(plain)
    if found is None:
        if len(_compiled) >= COMPILED_MAX:
            _compiled.clear()
        found = _compiled[plain] = re.compile(pattern)
    return found


def _patterns(data: bytes) -> tuple[bytes, bytes]:
    """The expression of all entries of this one's shape: one that is fast for those that resemble it, and a plain one.

    Without escapes, a quotation mark before a letter, a digit or `_` begins a string, one before a colon ends a key.
    """
    parts: list[tuple[bytes, bytes]] = []
    run = _Run()
    timings = data.find(b'"timings_us":')  # a map from any names to counts; no field with a sign stands behind it
    end = 0
    for value in _VALUE.finditer(data):
        group = "number" if value["text"] is None else "text"
        allowed = _TEXTS.get(value["key"]) if group == "text" else _NUMBERS.get(value["key"], _COUNT)
        if allowed == _SIGNED and 0 <= timings < value.start():
            allowed = _COUNT
        if allowed is None:
            continue
        run.add(re.escape(data[end : value.start(group)]))
        if group == "number" or allowed == _TIME or value["key"] == b"id":
            parts += (run.end(), (allowed, allowed))
        else:
            run.add(re.escape(value["text"]), allowed)
        end = value.end(group)
    run.add(re.escape(data[end:]))
    fast, plain = (b"".join(part) for part in zip(*parts, run.end(), strict=True))
    return fast, plain

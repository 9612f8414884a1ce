"""Values with units, as people write them ("250ms", "4MiB", "200/s", "2027-11-24"), read into integers.

Rules: a number without a unit is refused, because nobody can see what it means; so is anything outside the limits a
field names, and the answer repeats both as they were written. The field's name ends in the unit of the integer. Pure;
each marker stands in an `Annotated[int, ...]` and brings validation, printing and JSON Schema with it.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

NS_PER_S = 1_000_000_000
_DURATIONS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_PERIODS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NUMBER_UNIT = re.compile(r"([0-9]{1,15})\s?([A-Za-z]+)", re.ASCII)
_RATE = re.compile(r"([0-9]{1,12})/([smhd])", re.ASCII)


def duration_ms(text: str) -> int:
    """Milliseconds in "250ms", "2s", "5m", "1h" or "30d". Raises ValueError with advice."""
    return _counted(text, _DURATIONS_MS, "a duration", '"250ms", "2s", "5m" or "1h"')


def size_bytes(text: str) -> int:
    """Bytes in "512B", "64KiB", "4MiB" or "1GiB". Raises ValueError with advice."""
    return _counted(text, _SIZES, "a size", '"512B", "64KiB" or "4MiB"')


def rate_interval_ns(text: str) -> int:
    """Nanoseconds between two units at "200/s", "30/m" or "1000/h" (the emission interval of GCRA)."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f'{text!r} is not a rate; write a whole number per period, such as "200/s" or "30/m"')
    count, period_s = int(match[1]), _PERIODS_S[match[2]]
    if count == 0:
        raise ValueError("a rate of zero admits nothing; take the right away in a role instead")
    return -(-period_s * NS_PER_S // count)  # rounded up: a limit is never generous


def expiry_ns(text: str) -> int:
    """Nanoseconds since 1970 of "2027-11-24" (its first instant, UTC) or "2027-11-24T08:00:00Z"."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f'{text!r} is not a date; write "2027-11-24" or "2027-11-24T08:00:00Z"') from None
    if len(text) > len("2027-11-24") and moment.tzinfo is None:
        raise ValueError(f'{text!r} names no time zone; end it with "Z" or an offset such as "+02:00"')
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp()) * NS_PER_S


def _counted(text: str, units: dict[str, int], what: str, examples: str) -> int:
    match = _NUMBER_UNIT.fullmatch(text)
    if match is None or match[2] not in units:
        raise ValueError(f"{text!r} is not {what}; write a whole number and a unit, such as {examples}")
    return int(match[1]) * units[match[2]]


def _largest_unit(value: int, units: dict[str, int]) -> str:
    for name, factor in sorted(units.items(), key=lambda item: -item[1]):
        if value % factor == 0 and (value or factor == 1):
            return f"{value // factor}{name}"
    raise AssertionError("every table has a unit of one")


def _per_day(text: str) -> int:
    count, _, period = text.partition("/")
    return int(count) * _PERIODS_S["d"] // _PERIODS_S[period]


def _rate_text(interval_ns: int) -> str:
    """The smallest count, in the shortest period, that is read as this interval."""
    for name, period_s in _PERIODS_S.items():
        count = -(-period_s * NS_PER_S // interval_ns)
        if -(-period_s * NS_PER_S // count) == interval_ns:
            return f"{count}/{name}"
    raise AssertionError("an interval is made from a rate")


def _date_text(moment_ns: int) -> str:
    return datetime.fromtimestamp(moment_ns // NS_PER_S, UTC).isoformat().replace("+00:00", "Z")


def _text_only(value: object, example: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f'{value!r} has no unit; write it like "{example}"')  # noqa: TRY004  pydantic collects ValueError
    return value


@dataclass(frozen=True, slots=True)
class Duration:
    """A duration in milliseconds between two written limits, both allowed."""

    least: str
    most: str

    def read(self, value: object) -> int:
        text = _text_only(value, "2s")
        found = duration_ms(text)
        if not duration_ms(self.least) <= found <= duration_ms(self.most):
            raise ValueError(f"{text} is outside {self.least} to {self.most}")
        return found

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return _schema(self.read, lambda value: _largest_unit(value, _DURATIONS_MS))

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": "^[0-9]+ ?(ms|s|m|h|d)$", "x-range": [self.least, self.most]}


@dataclass(frozen=True, slots=True)
class Size:
    """A size in bytes between two written limits, both allowed."""

    least: str
    most: str

    def read(self, value: object) -> int:
        text = _text_only(value, "4MiB")
        found = size_bytes(text)
        if not size_bytes(self.least) <= found <= size_bytes(self.most):
            raise ValueError(f"{text} is outside {self.least} to {self.most}")
        return found

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return _schema(self.read, lambda value: _largest_unit(value, _SIZES))

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": "^[0-9]+ ?(B|KiB|MiB|GiB|TiB)$", "x-range": [self.least, self.most]}


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate, held as the nanoseconds between two units; at most `most`."""

    most: str = "1000000/s"

    def read(self, value: object) -> int:
        text = _text_only(value, "200/s")
        interval_ns = rate_interval_ns(text)
        if _per_day(text) > _per_day(self.most):
            raise ValueError(f"{text} is above {self.most}")
        return interval_ns

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return _schema(self.read, _rate_text)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": "^[0-9]+/[smhd]$", "examples": ["200/s", "30/m"]}


@dataclass(frozen=True, slots=True)
class Text:
    """Text of a given form. `advice` says what to write; the value is not repeated, it may be a misplaced secret."""

    pattern: str
    advice: str

    def read(self, value: object) -> str:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError(f'{value!r} is read as a number; write "{value}" in quotes')  # noqa: TRY004  pydantic collects ValueError
        if not isinstance(value, str) or re.fullmatch(self.pattern, value, re.ASCII) is None:
            raise ValueError(f"does not have the form it needs; write {self.advice}")
        return value

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{self.pattern}$"}


@dataclass(frozen=True, slots=True)
class Date:
    """A date (its first instant, UTC) or a moment with a time zone, held as nanoseconds since 1970."""

    def read(self, value: object) -> int:
        return expiry_ns(_text_only(value, "2027-11-24"))

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return _schema(self.read, _date_text)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "examples": ["2027-11-24", "2027-11-24T08:00:00Z"]}


def _schema(read: core_schema.NoInfoValidatorFunction, show: core_schema.SerializerFunction) -> CoreSchema:
    printing = core_schema.plain_serializer_function_ser_schema(show, when_used="json")
    return core_schema.no_info_plain_validator_function(read, serialization=printing)

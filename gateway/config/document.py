"""A configuration file as data: plain values with their line numbers, and models filled from them.

Rules: bytes are read once, up to a limit; every problem of a file is reported, each as
`file:line: field: what is wrong and what to do`. How YAML is read, `gateway.config.parse` says.

    FileRejected
    ├── ConfigRejected          stockade.yaml
    └── PolicyRejected          policy.yaml                (gateway.policy holds its subclasses)
"""

import difflib
import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

_SENTENCES: Mapping[str, str] = {
    "missing": "is missing; add it",
    "literal_error": "{value!r} is not known here; write {expected}",
    "int_type": "{value!r} is not a whole number; write one, without quotes",
    "int_from_float": "{value!r} is not a whole number; write one",
    "float_type": "{value!r} is not a number; write one, without quotes",
    "bool_type": "{value!r} is neither true nor false; write one of the two, without quotes",
    "string_type": "is not text; write a word, or text in quotes",
    "tuple_type": "is not a list; write [one, two] or one item a line behind `- `",
    "mapping_type": "is not a mapping; write `key: value` lines below it",
    "dict_type": "is not a mapping; write `key: value` lines below it",
    "model_type": "is not a mapping; write `key: value` lines below it",
    "model_attributes_type": "is not a mapping; write `key: value` lines below it",
    "greater_than_equal": "{value!r} is too small; the least is {ge}",
    "greater_than": "{value!r} is too small; it has to be above {gt}",
    "less_than_equal": "{value!r} is too large; the most is {le}",
    "less_than": "{value!r} is too large; it has to be below {lt}",
    "too_short": "has too few entries; the least is {min_length}",
    "too_long": "has too many entries; the most is {max_length}",
    "string_too_short": "is empty; write it out",
    "string_too_long": "is too long; the most is {max_length} characters",
}
"""What pydantic's kinds of error are called here. None repeats text that could be a secret put in the wrong place."""

Location = tuple[str | int, ...]
M = TypeVar("M", bound="Section")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, at a place in the file."""

    at: Location
    problem: str


class FileRejected(Exception):
    """A file of ours cannot be used. `lines` holds one finished message a problem."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


class ConfigRejected(FileRejected):
    """stockade.yaml cannot be used."""


class PolicyRejected(FileRejected):
    """policy.yaml cannot be used; a running gateway keeps the last good one."""


class Section(BaseModel):
    """A part of a file: immutable, no unknown keys, no silent conversions. Its field texts are the manual."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


@dataclass(frozen=True, slots=True)
class Document:
    """The plain value of a YAML file and the line on which each part of it stands."""

    file: Path
    value: Any
    lines: Mapping[Location, int]

    def message(self, fault: Fault) -> str:
        """`file:line: field: problem`, with the line of the nearest part that exists."""
        at = fault.at
        while at and at not in self.lines:
            at = at[:-1]
        field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault.at).lstrip(".")
        return f"{self.file}:{self.lines.get(at, 1)}: {field + ': ' if field else ''}{fault.problem}"

    def messages(self, faults: Iterable[Fault]) -> Iterator[str]:
        """In the order of the file."""
        return (self.message(fault) for fault in faults)


def canonical_json(shown: Mapping[str, Any]) -> bytes:
    """Return what a file came down to in the bytes that its digest is of: keys sorted, no blanks, UTF-8."""
    return json.dumps(shown, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def read_bounded(
    path: Path, bytes_max: int, rejected: type[FileRejected], too_large: str = "a file this large is a mistake"
) -> bytes:
    """The whole file, or a named refusal: missing, unreadable, or larger than the limit (then with this advice)."""
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as problem:
        raise rejected([f"{path}: cannot be read ({problem.strerror}); name an existing file"]) from None
    if len(data) > bytes_max:
        raise rejected([f"{path}: is larger than {bytes_max} bytes; {too_large}"])
    return data


def unusable(problem: OSError, advice: str = "") -> str:
    """Say in a sentence which file the system would not let us use, and why; `advice` is what to do."""
    where = f"{problem.filename}: " if problem.filename else ""
    return f"{where}cannot be used ({problem.strerror or problem}){'; ' if advice else ''}{advice}"


def fill(
    model: type[M], document: Document, rules: Iterable[Callable[[M], Iterable[Fault]]], rejected: type[FileRejected]
) -> M:
    """The model filled from the document and passed by every rule; otherwise `rejected` with all that is wrong.

    Relative paths are resolved against the document's directory (`FilePath` in `gateway.config.config` reads it).
    """
    if not isinstance(document.value, dict):
        raise rejected([f"{document.file}:1: is empty or not a mapping; begin with `version: 1`"])
    try:
        text = json.dumps(document.value)
        filled = model.model_validate_json(text, context={"directory": document.file.absolute().parent})
    except ValidationError as invalid:
        raise rejected(document.messages(_faults(model, invalid.errors(include_url=False)))) from None
    faults_of_rules = [fault for rule in rules for fault in rule(filled)]
    if faults_of_rules:
        raise rejected(document.messages(faults_of_rules))
    return filled


def _faults(model: type[BaseModel], errors: Iterable[ErrorDetails]) -> list[Fault]:
    """Pydantic's errors in our words. A list that is too short only because of its bad items is not told twice."""
    found = [(details["type"], _fault(model, details)) for details in errors]
    return [
        fault
        for kind, fault in found
        if kind != "too_short" or all(other.at[: len(fault.at)] != fault.at or other is fault for _, other in found)
    ]


def _fault(model: type[BaseModel], details: ErrorDetails) -> Fault:
    at = tuple(step for step in details["loc"] if step != "[key]")
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    if kind == "extra_forbidden":
        return Fault(at, _unknown(str(at[-1]), _keys_at(model, at[:-1])))
    if kind == "value_error":
        return Fault(at, str(context["error"]))
    if kind == "string_type" and isinstance(value, int | float):
        return Fault(at, f'{value!r} is read as a number; write "{value}" in quotes')
    sentence = _SENTENCES.get(kind)
    if sentence is not None:
        return Fault(at, sentence.format(value=value, **context))
    return Fault(at, details["msg"][:1].lower() + details["msg"][1:])


def _unknown(key: str, allowed: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, allowed, n=1)
    return f"is not a key here; {f'did you mean `{near[0]}`?' if near else 'the keys are ' + ', '.join(allowed)}"


def _keys_at(model: type[BaseModel], at: Location) -> tuple[str, ...]:
    """The keys that the section at `at` has, found by walking the types."""
    current: Any = model
    for step in at:
        section = _section_in(current)
        if section is not None:
            names = {field.alias or name: field for name, field in section.model_fields.items()}
            current = names[str(step)].annotation
        else:
            current = get_args(_unwrapped(current))[-1 if isinstance(step, str) else 0]
    section = _section_in(current)
    return tuple(field.alias or name for name, field in section.model_fields.items()) if section else ()


def _unwrapped(annotation: Any) -> Any:
    """Without Annotated and without `| None`."""
    if get_origin(annotation) is typing.Annotated:
        return _unwrapped(get_args(annotation)[0])
    if get_origin(annotation) in {typing.Union, types.UnionType}:
        return _unwrapped(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def _section_in(annotation: Any) -> type[BaseModel] | None:
    bare = _unwrapped(annotation)
    return bare if isinstance(bare, type) and issubclass(bare, BaseModel) else None

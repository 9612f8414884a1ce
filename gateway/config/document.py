"""A configuration file as data: YAML in, plain values with their line numbers out, and models filled from them.

Rules: bytes are read once, up to a limit; only plain YAML is accepted (no anchors, aliases, tags, duplicate keys or
second documents; `yes`, `no` and `on` are words, dates are text); nesting is bounded; every problem of a file is
reported, each as `file:line: field: what is wrong and what to do`. Parsing is pure.

    FileRejected
    ├── ConfigRejected          stockade.yaml
    └── PolicyRejected          policy.yaml                (gateway.policy holds its subclasses)
"""

import difflib
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

__all__ = [
    "ConfigRejected",
    "Document",
    "Fault",
    "FileRejected",
    "PolicyRejected",
    "Section",
    "canonical_json",
    "fill",
    "parse",
    "read_bounded",
    "unusable",
]

DEPTH_MAX = 16
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", re.ASCII)
_WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}
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
_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

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


def parse(data: bytes, file: Path, rejected: type[FileRejected]) -> Document:
    """YAML bytes to values and lines; every way it can fail is `rejected`."""
    try:
        text = data.decode()
        return _Builder(file, rejected).build(yaml.parse(text, Loader=_LOADER))
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise rejected([f"{file}:{line}: is not UTF-8 text; save it as UTF-8"]) from None
    except yaml.MarkedYAMLError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 1
        raise rejected([f"{file}:{line}: is not YAML: {problem.problem}"]) from None
    except yaml.YAMLError:
        raise rejected([f"{file}:1: is not YAML: it holds characters that YAML does not allow"]) from None


class _Builder:
    """Events to values, so that aliases and tags are refused before anything is built from them."""

    def __init__(self, file: Path, rejected: type[FileRejected]) -> None:
        self._file = file
        self._rejected = rejected
        self._lines: dict[Location, int] = {}

    def build(self, events: Iterable[yaml.Event]) -> Document:
        stream = iter(events)
        value: Any = None
        documents = 0
        for event in stream:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse(event, "holds a second document; keep one and remove the `---`")
                value = self._value(next(stream), stream, ())
        return Document(self._file, value, self._lines)

    def _refuse(self, event: yaml.Event, problem: str) -> typing.NoReturn:
        raise self._rejected([f"{self._file}:{_line(event)}: {problem}"])

    def _value(self, event: yaml.Event, stream: Iterator[yaml.Event], at: Location) -> Any:
        self._lines.setdefault(at, _line(event))
        if isinstance(event, yaml.AliasEvent) or (isinstance(event, yaml.NodeEvent) and event.anchor is not None):
            self._refuse(
                event, "anchors and aliases (& and *) are not accepted; write the value out, or quote the text"
            )
        if len(at) > DEPTH_MAX:
            self._refuse(event, f"is nested more than {DEPTH_MAX} deep; no part of this file goes that far")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.CollectionStartEvent) and event.tag is not None:
            self._refuse(event, f"the tag {event.tag} is not accepted; write plain YAML")
        if isinstance(event, yaml.SequenceStartEvent):
            return [self._value(item, stream, (*at, index)) for index, item in enumerate(_until_end(stream))]
        return self._mapping(stream, at)

    def _mapping(self, stream: Iterator[yaml.Event], at: Location) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in _until_end(stream):
            if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
                self._refuse(event, "a key must be plain text")
            key = event.value
            line = _line(event)
            if key in found:
                self._refuse(
                    event, f"the key {key!r} stands here twice (first on line {self._lines[*at, key]}); keep one"
                )
            self._lines[*at, key] = line
            found[key] = self._value(next(stream), stream, (*at, key))
        return found

    def _scalar(self, event: yaml.ScalarEvent) -> str | int | float | bool | None:
        if event.tag is not None:
            self._refuse(event, f"the tag {event.tag} is not accepted; write plain YAML")
        text: str = event.value
        if not event.implicit[0]:  # it was quoted
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text) and len(text) <= 18:
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _until_end(stream: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
    for event in stream:
        if isinstance(event, yaml.CollectionEndEvent):
            return
        yield event


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

"""YAML in, plain values with their line numbers out. Pure.

Only plain YAML is accepted: no anchors, aliases, tags, duplicate keys or second documents; `yes`, `no` and `on` are
words, dates are text. Nesting is bounded.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from gateway.config.document import Document, FileRejected, Location

DEPTH_MAX = 16
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", re.ASCII)
_WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}
_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


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

    def _refuse(self, event: yaml.Event, problem: str) -> NoReturn:
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

"""Edits the text of policy.yaml: another version in `serve`, another `release`, the next `revision`.

People keep comments and an order of their own in that file, so only the spans that change are written anew. What comes
out is read again and compared with what was meant: where a file is written in a way that this cannot edit, nothing is
changed and the person is told what to write. Pure: text in, text out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gateway.config.document import PolicyRejected
from gateway.config.parse import parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

Pair = tuple[yaml.Node, yaml.Node]


@dataclass(frozen=True, slots=True)
class Edited:
    """The new text and its revision."""

    text: str
    revision: int


@dataclass(frozen=True, slots=True)
class Span:
    """Characters of the text that become others."""

    start: int
    end: int
    text: str


def edit(text: str, file: Path, model: str, serve: str, release: Mapping[str, Any] | None) -> Edited:
    """Return a valid policy's text with this version in `serve` and this release (None: none), one revision later.

    Raises:
        PolicyRejected: the text is written in a way that cannot be edited; the message says what to write.
    """
    wanted = parse(text.encode(), file, PolicyRejected).value
    wanted["revision"] += 1
    wanted["models"][model]["serve"] = serve
    wanted["models"][model].pop("release", None)
    if release is not None:
        wanted["models"][model]["release"] = dict(release)
    root = mapping(yaml.compose(text, Loader=_LOADER))
    entry = mapping(value_of(mapping(value_of(root, "models")), model))
    spans = [replaced(value_of(root, "revision"), str(wanted["revision"]))]
    spans += [replaced(value_of(entry, "serve"), json.dumps(serve)), *release_spans(text, entry, release)]
    new = text
    for span in sorted(spans, key=lambda span: (span.start, span.end), reverse=True):
        new = new[: span.start] + span.text + new[span.end :]
    try:
        same = parse(new.encode(), file, PolicyRejected).value == wanted
    except PolicyRejected:
        same = False
    if not same:
        meant = {"serve": serve, **({"release": dict(release)} if release is not None else {})}
        advice = f"write {json.dumps(meant)} into models.{model} by hand, and raise `revision`"
        raise PolicyRejected([f"{file}: is written in a way that cannot be edited here; {advice}"])
    return Edited(new, wanted["revision"])


def mapping(node: yaml.Node | None) -> yaml.MappingNode:
    """Return a node that is a mapping: the policy was found valid."""
    assert isinstance(node, yaml.MappingNode)
    return node


def pairs_of(node: yaml.MappingNode) -> list[Pair]:
    """Return the pairs of a mapping."""
    return list(node.value)


def value_of(node: yaml.MappingNode, key: str) -> yaml.Node:
    """Return the value of a key that is there."""
    return next(value for name, value in pairs_of(node) if name.value == key)


def replaced(node: yaml.Node, text: str) -> Span:
    """Return the span of a scalar with its new text."""
    return Span(node.start_mark.index, node.end_mark.index, text)


def release_spans(text: str, entry: yaml.MappingNode, release: Mapping[str, Any] | None) -> Iterator[Span]:
    """Yield what takes the old release out, and puts the new one behind `serve`."""
    pairs = pairs_of(entry)
    names = [name.value for name, _ in pairs]
    if "release" in names:
        yield removed(text, entry, names.index("release"))
    if release is None:
        return
    key, serve = pairs[names.index("serve")]
    written = json.dumps(dict(release))
    if entry.flow_style:
        yield Span(serve.end_mark.index, serve.end_mark.index, f', "release": {written}')
    else:
        end = line_end(text, serve.end_mark.index)
        yield Span(end, end, f"\n{' ' * key.start_mark.column}release: {written}")


def removed(text: str, entry: yaml.MappingNode, index: int) -> Span:
    """Return the span of a pair and of what separates it from its neighbour."""
    pairs = pairs_of(entry)
    key, value = pairs[index]
    if not entry.flow_style:
        begin = text.rfind("\n", 0, key.start_mark.index) + 1
        return Span(begin, min(len(text), line_end(text, last_of(value)) + 1), "")
    if index + 1 < len(pairs):
        return Span(key.start_mark.index, pairs[index + 1][0].start_mark.index, "")
    return Span(pairs[index - 1][1].end_mark.index, value.end_mark.index, "")


def last_of(node: yaml.Node) -> int:
    """Return where a value's last word ends: a block's own end is where the next key begins."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return last_of(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def line_end(text: str, at: int) -> int:
    """Return where the line ends that this character stands on."""
    end = text.find("\n", at)
    return len(text) if end < 0 else end

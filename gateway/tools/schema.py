"""JSON Schemas of the two files, for editors and for people who generate them. Run as a module to write them.

`python -m gateway.tools.schema` writes docs/schema/*.json and docs/reference/configuration.md; `--check` only says
whether they are what the models say, and exits 1 when not. The models are the single source: their field texts are the
descriptions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.config.config import Config
from gateway.config.document import Section
from gateway.policy.policy import Policy

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INTRODUCTION = """\
# Configuration

<!-- Written by `python -m gateway.tools.schema` from gateway/config/ and gateway/policy/policy.py. -->

A gateway is described by two files. `stockade.yaml` says what it is made of and is read at the start. `policy.yaml`
says who may do what and is signed; a running gateway takes a new one over without a restart. `stockade init` writes
both, with comments; `stockade check` says what is wrong with them, as `file:line: field: what is wrong and what to do`.
Editors can use the JSON Schemas in [schema/](../schema/).

- Unknown keys are refused. So are duplicate keys, YAML anchors and tags.
- Relative paths are relative to the file they stand in. Secrets appear only as paths; nobody but the owner (and, to
  read, the group) may have access to them.
- Durations, sizes and rates carry their unit: `250ms`, `2s`, `5m`, `1h`; `64KiB`, `4MiB`; `200/s`, `30/m`.
- Everything insecure has a name that begins with `unsafe_`.
- The policy's signature is 64 raw bytes in `policy.yaml.sig`. To check it without Stockade:
  `openssl pkeyutl -verify -pubin -inkey keys/policy.pub -rawin -in policy.yaml -sigfile policy.yaml.sig`.
  `revision` has to go up with every change: an old policy cannot be brought back by copying its file.
"""


def json_schema(model: type[Section]) -> dict[str, Any]:
    """The schema of a file, as users write it."""
    return {
        "$schema": DIALECT,
        **model.model_json_schema(by_alias=True, mode="validation"),
    }


def documents() -> Mapping[str, str]:
    """Path below docs/ -> text."""
    schemas = {"stockade": json_schema(Config), "policy": json_schema(Policy)}
    found = {
        f"schema/{name}.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in schemas.items()
    }
    parts = [_INTRODUCTION]
    parts += [f"\n## {name}.yaml\n{''.join(_chapter(schema))}" for name, schema in schemas.items()]
    found["reference/configuration.md"] = "".join(parts)
    return found


def _chapter(schema: Mapping[str, Any]) -> Iterator[str]:
    definitions = schema.get("$defs", {})
    yield from _section("", schema, definitions)
    for name, definition in definitions.items():
        yield from _section(name, definition, definitions)


def _section(name: str, section: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    if name:
        yield f"\n### {name}\n"
    yield f"\n{section['description']}\n\n| key | value | default | meaning |\n|---|---|---|---|\n"
    for key, value in section["properties"].items():
        default = value.get("default")
        shown = "see there" if isinstance(default, dict) and default else f"`{json.dumps(default)}`"
        if key in section.get("required", ()):
            shown = "**required**"
        referred = definitions.get(value.get("$ref", "").rpartition("/")[2], {})
        meaning = value.get("description", referred.get("description", "")).replace("\n", " ").replace("|", "\\|")
        yield f"| `{key}` | {_kind(value)} | {shown} | {meaning} |\n"


def _kind(value: Mapping[str, Any]) -> str:
    """What a value looks like, in a few words."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in value:
        return " or ".join(_kind(option) for option in value["anyOf"])
    if "const" in value or "enum" in value:
        return ", ".join(f"`{option}`" for option in value.get("enum", [value.get("const")]))
    return _kind_of_type(value)


def _kind_of_type(value: Mapping[str, Any]) -> str:
    kind = str(value["type"])
    if kind == "array":
        return f"list of {_kind(value['items'])}"
    if kind == "object":
        return f"name: {_kind(value.get('additionalProperties') or next(iter(value['patternProperties'].values())))}"
    if "x-range" in value:
        return "`{}` to `{}`".format(*value["x-range"])
    if "minimum" in value and "maximum" in value:
        return f"{kind}, {value['minimum']} to {value['maximum']}"
    return f"like `{'`, `'.join(value['examples'])}`" if "examples" in value else kind


def main(arguments: list[str], docs: Path) -> int:
    """Write the documents below `docs`, or with --check only compare. Returns the exit code."""
    stale = 0
    for name, text in documents().items():
        path = docs / name
        if "--check" in arguments:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                sys.stderr.write(f"{path} is not what the models say; run `python -m gateway.tools.schema`\n")
                stale += 1
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parents[2] / "docs"))

#!/usr/bin/env python3
"""Writes docs/reference/cli.md from the command line itself; with --check, only says whether it is out of date."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from gateway.cli.main import VERBS, command_line
from gateway.tools.bench.peers import default_root

FILE = Path(__file__).resolve().parent.parent / "docs/reference/cli.md"
INTRODUCTION = """\
# Command line

<!-- Written by scripts/generate_cli_reference.py from gateway/cli. -->

Every command of `stockade`, for those who look up an argument or an option. `--help` after any of them prints the same.

Exit codes, where a command has none of its own: 0 done; 1 done, and the answer is no; 2 wrong usage, or something that
cannot be used or is not there. Results go to standard output, everything else to standard error. Wrong usage of
`stockade audit`, of all but its `erase` and `hold`, ends with 4.

| verb | what it does |
|---|---|
"""


def page() -> str:
    """Return the text of the page."""
    top = command_line()
    verbs = "".join(f"| [{name}](#stockade-{name}) | {cell(text)} |\n" for name, (_, text) in VERBS.items())
    parts = [part for name in VERBS for part in section(f"stockade {name}", top.get_command(None, name), 2)]
    return INTRODUCTION + verbs + "".join(parts)


def section(path: str, command: Any, level: int) -> Iterator[str]:
    """Yield what is said of a command, or of a group and all below it."""
    yield f"\n{'#' * level} {path}\n\n{sentence(command.help)}\n"
    if isinstance(command, TyperGroup):
        for name in command.list_commands(None):
            yield from section(f"{path} {name}", command.get_command(None, name), level + 1)
        return
    yield f"\n```text\n{path} {usage(command)}\n```\n"
    if command.params:
        yield "\n| argument or option | | what it is |\n|---|---|---|\n"
        for each in sorted(command.params, key=is_option):
            yield f"| `{cell(name_of(each))}` | {needed(each)} | {cell(each.help or '')} |\n"
    if command.epilog:
        yield f"\n{command.epilog}\n"


def usage(command: Any) -> str:
    """Return arguments and required options in one line."""
    arguments = [each for each in command.params if not is_option(each)]
    words = [f"{each.metavar}{'...' if each.nargs == -1 else ''}" for each in arguments]
    words = [word if each.required else f"[{word}]" for word, each in zip(words, arguments, strict=True)]
    required = [name_of(each) for each in command.params if is_option(each) and each.required]
    return " ".join([*words, *required, "[OPTIONS]"])


def is_option(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "option")


def name_of(parameter: Any) -> str:
    """Return an argument, or an option with its value, as `--help` shows it."""
    if not is_option(parameter):
        return str(parameter.metavar)
    name = ", ".join(parameter.opts)
    return name if parameter.is_flag else f"{name} {value_of(parameter)}"


def value_of(parameter: Any) -> str:
    return parameter.metavar or "|".join(map(str, parameter.type_descriptor.choices or ()))


def needed(parameter: Any) -> str:
    """Return whether it has to be there, and whether it may be there again."""
    many = parameter.multiple if is_option(parameter) else parameter.nargs == -1
    return ", ".join([*(["required"] if parameter.required else []), *(["repeatable"] if many else [])])


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}".rstrip(".") + "."


def cell(text: str) -> str:
    """Return text as it stands in a table, the same on every machine."""
    return text.replace(str(default_root()), "~/.cache/stockade/peers").replace("|", r"\|")


def main() -> int:
    text = page()
    if FILE.is_file() and FILE.read_text(encoding="utf-8") == text:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"out of date: {FILE} (run `make reference`)", file=sys.stderr)
        return 1
    FILE.write_text(text, encoding="utf-8")
    print(f"wrote {FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

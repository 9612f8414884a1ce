"""Values on the command line: what is read, between which limits, and what is said when it is something else.

Each reader raises `argparse.ArgumentTypeError`, whose text follows the option's name.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_PORT_MAX = 65_535 - 3
SECONDS_MAX = 1e15
CHARACTERS_MAX = 32


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers between two limits, both allowed."""

    def read(text: str) -> int:
        written = text.isascii() and text.removeprefix("-").isdecimal() and len(text) <= CHARACTERS_MAX
        if not written or not least <= int(text) <= most:
            raise ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return read


def decimal(least: float, most: float) -> Callable[[str], float]:
    """Return a reader of numbers between two limits, both allowed."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}")
        return value

    return read


def seconds(text: str, least: float = 0.0, most: float = SECONDS_MAX) -> float:
    """Read a duration between two limits, both allowed."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds from {least:g} to {most:,.0f}")
    return value


def first_port(text: str) -> int:
    """Read the first of four ports; 0 means any free ones."""
    try:
        return whole(0, FIRST_PORT_MAX)(text)
    except ArgumentTypeError:
        wanted = f"write 1 to {FIRST_PORT_MAX}, or 0 for any free ones"
        raise ArgumentTypeError(f"{text!r} is not the first of four ports; {wanted}") from None

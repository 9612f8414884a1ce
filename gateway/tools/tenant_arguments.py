"""The arguments of `stockade tenants`, and how moments, durations and callers are written.

Importing this loads neither gRPC nor the files' parsers: `stockade --help` stays fast.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gateway.cli.verbs import named, reaching, reason, verb
from gateway.tools.arguments import whole

if TYPE_CHECKING:
    import argparse

ENTRIES_MAX = 65_536
NS_PER_MS = 1_000_000
PSEUDONYM_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time as it was written: Unix nanoseconds, or so many of them before the verb runs."""

    at_ns: int = 0
    ago_ns: int = 0

    def of(self, now_ns: int) -> int:
        """Return it in Unix nanoseconds."""
        return self.at_ns or now_ns - self.ago_ns


def moment(text: str) -> Moment:
    """Read "2027-11-24T08:00:00Z" or a date."""
    from gateway.config.units import expiry_ns  # noqa: PLC0415  it loads pydantic

    try:
        expiry_ns(text)  # which knows what to say of what is none; expiry dates do without parts of a second
        found = datetime.fromisoformat(text)
        found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
        return Moment(at_ns=round(found.timestamp() * 1e6) * 1000)
    except (ValueError, OverflowError, OSError) as problem:
        raise ArgumentTypeError(str(problem)) from None


def ago(text: str) -> Moment:
    """Read a moment, or a duration such as "2h": so long ago."""
    try:
        return Moment(ago_ns=lasting(text))
    except ArgumentTypeError:
        return moment(text)


def lasting(text: str) -> int:
    """Read a duration such as "30m", "2h" or "7d" into nanoseconds."""
    from gateway.config.units import duration_ms  # noqa: PLC0415  it loads pydantic

    try:
        found = duration_ms(text) * NS_PER_MS
    except ValueError as problem:
        raise ArgumentTypeError(str(problem)) from None
    if not 0 < found < 2**62:
        raise ArgumentTypeError(f"{text!r} is not a duration of some length")
    return found


def called(text: str) -> tuple[str, str]:
    """Read a principal as the log calls it: its tenant and its pseudonym."""
    tenant, _, pseudonym = text.rpartition("/")
    if not tenant or len(pseudonym) != PSEUDONYM_CHARACTERS or set(pseudonym) - set("0123456789abcdef"):
        raise ArgumentTypeError(f"{text!r} is not TENANT/PSEUDONYM, as `tenants show` has it")
    return tenant, pseudonym


def incident(parser: argparse.ArgumentParser) -> None:
    """Add which incident something belongs to."""
    parser.add_argument("--incident", default="", metavar="ID", help="which incident this belongs to")


def add_verbs(tenants: Any) -> None:
    """Add the verbs to `stockade tenants`."""
    here = "gateway.tools.operations.tenants"
    listed = verb(tenants, "list", named(here, "list"), "show the tenants, and who is kept out")
    show = verb(tenants, "show", named(here, "show"), "show one: its limits, principals, and what it asked lately")
    isolate = verb(tenants, "isolate", named(here, "isolate"), "keep tenants or principals out, at once and durably")
    release = verb(tenants, "release", named(here, "release"), "let them in again")
    forgive = verb(tenants, "forgive", named(here, "forgive"), "forget what the watches hold against accounts")
    for each in (listed, show, isolate, release, forgive):
        reaching(each)
    show.add_argument("tenant", metavar="TENANT")
    show.add_argument(
        "--entries",
        type=whole(1, ENTRIES_MAX),
        default=20_000,
        metavar="N",
        help="how many of the log's newest entries are looked at (default: 20,000)",
    )
    for each in (isolate, release, forgive):
        each.add_argument("--tenant", action="append", default=[], metavar="NAME", help="the whole of it")
        each.add_argument("--principal", action="append", default=[], metavar="NAME", help="one caller; repeat it")
        reason(each)
        incident(each)
    for each in (isolate, forgive):
        each.add_argument(
            "--pseudonym",
            action="append",
            default=[],
            type=called,
            metavar="TENANT/HEX",
            help="one caller, as the log calls it",
        )
    until = isolate.add_mutually_exclusive_group()
    until.add_argument("--for", dest="lasting", type=lasting, metavar="TIME", help="such as 2h (default: for good)")
    until.add_argument("--until", type=moment, metavar="WHEN", help="such as 2027-11-24T08:00:00Z")
    release.add_argument("--id", dest="ids", action="append", default=[], metavar="ID", help="as `list` shows it")

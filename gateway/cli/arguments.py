"""How commands are declared, how values are read, and the options that many commands share.

A command is one typed function. What it asks stands in its signature, what it does in its docstring. It has a body, or
it is declared with `tool`, which names the function that does the work; that module is imported when the command runs,
so `stockade --help` stays fast. Importing this loads neither gRPC nor the files' parsers.

Readers turn the text of one value into the value, between limits that are both allowed. They raise
`typer.BadParameter`; its text follows the option's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand

FIRST_PORT_MAX = 65_535 - 3
SECONDS_MAX = 1e15
CHARACTERS_MAX = 32
EPOCHS_MAX = 9999
INDEX_MAX = 2**63 - 2
NS_PER_MS = 1_000_000
PSEUDONYM_CHARACTERS = 32
SEED_MAX = 2**32 - 1

Function = Callable[..., Any]


def group(text: str) -> typer.Typer:
    """Return an empty group of commands."""
    return typer.Typer(help=text, rich_markup_mode=None, add_completion=False, no_args_is_help=False)


def summary(text: str) -> str:
    """Return the line that stands for a command in the list of its group."""
    return f"{text[0].lower()}{text[1:]}".rstrip(".")


def command(app: typer.Typer, name: str, *, epilog: str | None = None, **more: Any) -> Callable[[Function], Function]:
    """Add a function as a command. It returns its exit code."""

    def add(function: Function) -> Function:
        text = " ".join((function.__doc__ or "").split())
        app.command(name, help=text, short_help=summary(text), epilog=epilog, **more)(function)
        return function

    return add


def tool(app: typer.Typer, name: str, place: str, **more: Any) -> Callable[[Function], Function]:
    """Add a signature as a command: `place` ("module:function") is called with its values, as one namespace.

    The body, where there is one, looks at values that do not fit together, and raises `typer.BadParameter`.
    """

    def add(signature: Function) -> Function:
        @wraps(signature)
        def run(**values: Any) -> int:
            signature(**values)
            module, _, function = place.partition(":")
            code: int = getattr(import_module(module), function or "run")(SimpleNamespace(**values))
            return code

        return command(app, name, **more)(run)

    return add


def among(*names: str) -> Callable[[str], str]:
    """Return a reader of one of these names. For lists; elsewhere a Literal says it."""

    def read(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(names)}")
        return text

    return read


class Loose(TyperCommand):
    """A command with options that Typer has not: metavar "WHAT..." takes several values, "[DIR]" may stand alone.

    `--only A B` is read as `--only A --only B`, and `--install` alone as `--install=`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write both as Typer knows them, and go on."""
        metavars = {name: str(each.metavar) for each in self.params for name in each.opts}
        many = ""
        words: list[str] = []
        for word, following in zip(args, [*args[1:], "--"], strict=True):
            if following.startswith("-") and metavars.get(word, "").startswith("["):
                words.append(f"{word}=")
            elif not word.startswith("-"):
                words += [many, word] if many else [word]
            else:
                several = metavars.get(word, "").endswith("...") and not following.startswith("-")
                many = word if several else ""
                words += [] if several else [word]
        return super().parse_args(ctx, words)


def option(names: str, help: str = "", default: Any = ..., read: Function | None = None) -> Any:
    """Declare an option as the default of a parameter.

    Args:
        names: as help shows them, with the name of the value: "-n, --lines N". A flag has no value, a Literal no name.
        help: what it is.
        default: what the value is where it is not given; without it the option is required.
        read: turns text into the value.
    """
    *flags, last = names.split(", ")
    name, _, metavar = last.partition(" ")
    more: dict[str, Any] = {"metavar": metavar or None, "parser": _reader(read)}
    return typer.Option(default, *flags, name, help=help, show_default=False, readable=False, **more)


def argument(metavar: str, help: str = "", default: Any = ..., read: Function | None = None) -> Any:
    """Declare an argument, likewise."""
    return typer.Argument(default, metavar=metavar, help=help, parser=_reader(read), show_default=False, readable=False)


def _reader(read: Function | None) -> Function | None:
    """Return a reader that leaves defaults alone."""
    if read is None:
        return None
    return lambda value: read(value) if isinstance(value, str) else value


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers."""

    def read(text: str) -> int:
        written = text.isascii() and text.removeprefix("-").isdecimal() and len(text) <= CHARACTERS_MAX
        if not written or not least <= int(text) <= most:
            raise typer.BadParameter(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return read


def decimal(least: float, most: float, what: str = "") -> Callable[[str], float]:
    """Return a reader of numbers, "nan" not among them."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise typer.BadParameter(f"{text!r} is not {what or f'a number from {least:g} to {most:g}'}")
        return value

    return read


def seconds(text: str, least: float = 0.0, most: float = SECONDS_MAX) -> float:
    """Read a duration in seconds."""
    return decimal(least, most, f"a number of seconds from {least:g} to {most:,.0f}")(text)


def first_port(text: str) -> int:
    """Read the first of four ports; 0 means any free ones."""
    try:
        return whole(0, FIRST_PORT_MAX)(text)
    except typer.BadParameter:
        wanted = f"write 1 to {FIRST_PORT_MAX}, or 0 for any free ones"
        raise typer.BadParameter(f"{text!r} is not the first of four ports; {wanted}") from None


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time as it was written: Unix nanoseconds, or so many of them before the command runs."""

    at_ns: int = 0
    ago_ns: int = 0

    def of(self, now_ns: int) -> int:
        """Return it in Unix nanoseconds."""
        return self.at_ns or now_ns - self.ago_ns


def moment(text: str) -> Moment:
    """Read "2027-11-24T08:00:00Z" or a date."""
    from gateway.config.units import expiry_ns  # it loads pydantic

    try:
        expiry_ns(text)  # which knows what to say of what is none; expiry dates do without parts of a second
        found = datetime.fromisoformat(text)
        found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
        return Moment(at_ns=round(found.timestamp() * 1e6) * 1000)
    except (ValueError, OverflowError, OSError) as problem:
        raise typer.BadParameter(str(problem)) from None


def ago(text: str) -> Moment:
    """Read a moment, or a duration such as "2h": so long ago."""
    try:
        return Moment(ago_ns=lasting(text))
    except typer.BadParameter:
        return moment(text)


def lasting(text: str) -> int:
    """Read a duration such as "30m", "2h" or "7d" into nanoseconds."""
    from gateway.config.units import duration_ms  # it loads pydantic

    try:
        found = duration_ms(text) * NS_PER_MS
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None
    if not 0 < found < 2**62:
        raise typer.BadParameter(f"{text!r} is not a duration of some length")
    return found


class Caller(NamedTuple):
    """A principal as the log calls it."""

    tenant: str
    pseudonym: str


def caller(text: str) -> Caller:
    """Read TENANT/PSEUDONYM."""
    tenant, _, pseudonym = text.rpartition("/")
    if not tenant or len(pseudonym) != PSEUDONYM_CHARACTERS or set(pseudonym) - set("0123456789abcdef"):
        raise typer.BadParameter(f"{text!r} is not TENANT/PSEUDONYM, as `tenants show` has it")
    return Caller(tenant, pseudonym)


class Match(NamedTuple):
    """What a field of an entry has to be."""

    path: tuple[str, ...]
    value: str


def match(text: str) -> Match:
    """Read PATH=VALUE."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise typer.BadParameter(f"{text!r} is not PATH=VALUE, such as kind=refused or auth.tenant=store-7")
    return Match(tuple(path.split(".")), value)


def log_place(text: str) -> Path | str:
    """Read where a log lies: a URL as it is, anything else as a path."""
    return text if "://" in text else Path(text)


A_LOG = "the log, or a directory of `stockade init` or its stockade.yaml"
A_REPLICA = "a replica's URL: s3://, gs://, az://, file://"
A_POLICY = "trusted logs and witnesses, and the quorum (c2sp.org/tlog-policy)"


def epoch(otherwise: str = "the newest") -> Any:
    """Declare the option that names an epoch of a log."""
    return option("--epoch N", f"of the log (default: {otherwise})", None, whole(1, EPOCHS_MAX))


# What many commands ask, with the text that people see. Lists may be given again and again.
FILE = argument("FILE", "stockade.yaml")
JSON = option("--json", "print JSON", False)
IDENTITY = option("--identity PREFIX", "PREFIX.crt and PREFIX.key (default: clients/operator.tls)", None)
CA = option("--ca FILE", "who signed the server's certificate, PEM (default: tls.client_ca)", None)
REASON = option("--reason TEXT", "why; it stands in the audit log")
INCIDENT = option("--incident ID", "which incident this belongs to", "")
TENANTS = option("--tenant NAME", "the whole of it", [])
PRINCIPALS = option("--principal NAME", "one caller; repeat it", [])
PSEUDONYMS = option("--pseudonym TENANT/HEX", "one caller, as the log calls it", [], caller)
LOG = argument("LOG", A_LOG)
LOG_KEY = option("--vkey KEY", "the log's key, or a file that holds it", None)
EPOCH = epoch()
WHERE = option("--where PATH=VALUE", "only such: kind=refused", [], match)
SEEN = option("--seen FILE", "a checkpoint that is known: cosigned", [])
ENDPOINT = option("--endpoint URL", "of an S3 of your own: http://127.0.0.1:8333", None)
REGION = option("--region REGION", "of an S3 bucket (default: us-east-1)", None)
CREDENTIALS = option("--credentials FILE", "JSON object, as for `audit.replication`", None)
BUNDLE = argument("DIR", "the bundle, such as bundles/kiosk/2")
BUNDLES_TO = option("--out DIR", "bundles.directory of stockade.yaml")
TRUSTED_KEY = option("--trusted-key FILE", "who signed it (default: the project)", None)
SIGNING_KEY = option(
    "--signing-key FILE",
    "ECDSA P-256 private key in PEM; created when absent, its public half is written beside it as .pub",
)

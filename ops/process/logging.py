"""The structured log: one line an event on standard error, JSON for machines, text for a terminal.

Rules:
- A field is written only if its name is in FIELDS with the right type; anything else is left out and counted in
  `fields_dropped`. There is no free text, no exception text and no field for a payload, a header or a key, so what is
  not on the list cannot leak, whoever calls. A value that looks like a credential is withheld even so.
- Text values are cut at TEXT_CHARACTERS_MAX and control characters are escaped: a value cannot forge a line.
- Each event name may be written EVENTS_PER_WINDOW times a window; what is over is counted and the count is written
  with the next line of that name. A flood of one event neither fills the disk nor hides the others.
- A line is one write, also from several threads and processes. A log that cannot be written never stops the gateway:
  lost lines are counted in `lines_lost` of the next one that can.

It does not touch Python's `logging`: libraries' messages hold what they like, so they are not let in here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import Any, Literal, Protocol

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "text"]
LEVELS: Mapping[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
TEXT_CHARACTERS_MAX = 256
EVENT_NAMES_MAX = 512
EVENTS_PER_WINDOW = 20
WINDOW_NS = 1_000_000_000
NUMBER_MAX = 2**63  # and no NaN, which JSON does not have: it compares false
_CREDENTIAL = re.compile(
    r"eyJ[A-Za-z0-9_-]{8}"  # a JSON web token
    r"|PRIVATE.KEY|-----BEGIN"  # a key, PEM or signed-note
    r"|(?i:bearer|basic)\s+\S{8}"  # an authorization header
    r"|[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{22,}(?![A-Za-z0-9_.-])"  # an API key: an id, a dot, 128 random bits or more
)
_EVENT = re.compile(r"[a-z][a-z0-9-]{0,63}", re.ASCII)

FIELDS: Mapping[str, type[str | int | float]] = {
    "address": str,
    "attempt": int,
    "audit_index": int,
    "batch": int,
    "bytes": int,
    "certificate": str,
    "child": str,
    "code": str,
    "config": str,
    "count": int,
    "credential": str,
    "decision": str,
    "digest": str,
    "duration_ms": float,
    "error": str,
    "exit_code": int,
    "expires": str,
    "file": str,
    "gateway": str,
    "issuer": str,
    "kind": str,
    "line": int,
    "method": str,
    "model": str,
    "origin": str,
    "peer": str,
    "pid": int,
    "policy": str,
    "port": int,
    "principal": str,
    "problem": str,
    "reason": str,
    "refused": int,
    "request_id": str,
    "restart_in_ms": int,
    "revision": int,
    "role": str,
    "root": str,
    "rows": int,
    "screen": str,
    "signal": str,
    "size": int,
    "tenant_class": str,
    "trace": str,
    "used_percent": int,
    "version": str,
    "waited_s": float,
    "worker": str,
    "workers": int,
}
"""What may be logged. Names of things, numbers and our own sentences; `principal` and `credential` are public ids,
`error` is the name of an exception's class, `problem` one of our fixed sentences."""


class TextStream(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...
    def isatty(self) -> bool: ...


@dataclass(slots=True)
class _Window:
    """How often an event was written in the current window, and how often it was held back since the last line."""

    began_ns: int
    written: int = 0
    held_back: int = 0


class Log:
    """Writes events. Thread-safe; never raises for what it is given, and never waits for anything but the stream.

    Args:
        stream: where lines go, usually standard error.
        level: the least that is written.
        text: lines for people instead of JSON.
        wall_ns: nanoseconds since 1970, for the time of each line.
        bound: fields that stand in every line, such as the worker's name.
    """

    def __init__(
        self,
        stream: TextStream,
        level: Level,
        *,
        text: bool,
        wall_ns: Callable[[], int],
        bound: Mapping[str, Any] | None = None,
    ) -> None:
        self._stream = stream
        self._least = LEVELS[level]
        self._text = text
        self._wall_ns = wall_ns
        self._bound = dict(bound or {})
        self._lock = Lock()
        self._windows: dict[str, _Window] = {}
        self._lines_lost = 0

    def __call__(self, event: str, *, level: Level = "info", **fields: Any) -> None:
        """Write an event. `event` is a fixed, hyphenated name; fields not in FIELDS are left out."""
        if LEVELS.get(level, 40) < self._least:
            return
        now_ns = self._wall_ns()
        name = event if isinstance(event, str) and _EVENT.fullmatch(event) else "unnamed-event"
        with self._lock:
            window = self._window(name, now_ns)
            if window.written >= EVENTS_PER_WINDOW:
                window.held_back += 1
                return
            window.written += 1
            line: dict[str, Any] = {"time": _time_text(now_ns), "level": level, "event": name}
            line.update(_allowed({**self._bound, **fields}))
            if window.held_back:
                line["held_back"] = window.held_back
            if self._lines_lost:
                line["lines_lost"] = self._lines_lost
            if self._write(line):
                window.held_back = 0
                self._lines_lost = 0
            else:
                self._lines_lost += 1

    def _window(self, name: str, now_ns: int) -> _Window:
        window = self._windows.get(name)
        if window is None:
            if len(self._windows) >= EVENT_NAMES_MAX:
                self._windows.clear()  # names are fixed in the code; so many of them are not ours
            window = self._windows[name] = _Window(now_ns)
        if not 0 <= now_ns - window.began_ns < WINDOW_NS:
            window.began_ns, window.written = now_ns, 0
        return window

    def _write(self, line: Mapping[str, Any]) -> bool:
        written = _as_text(line) if self._text else json.dumps(line, ensure_ascii=True, separators=(",", ":"))
        try:
            self._stream.write(written + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # a full disk, a closed pipe, a closed stream
            return False
        return True


def configure(
    level: Level,
    stream: TextStream,
    *,
    format: Format = "auto",  # noqa: A002  the name in stockade.yaml
    wall_ns: Callable[[], int] = time.time_ns,
    **bound: Any,
) -> Log:
    """The log of a process. `auto` means text for a terminal, JSON otherwise. `bound` fields stand in every line."""
    text = format == "text" or (format == "auto" and stream.isatty())
    return Log(stream, level, text=text, wall_ns=wall_ns, bound=bound)


def _allowed(fields: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    dropped = 0
    for name, value in fields.items():
        if value is None:
            continue
        wanted = FIELDS.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < NUMBER_MAX
        if wanted is float and number:
            kept[name] = round(float(value), 3)
        elif wanted is int and number and isinstance(value, int):
            kept[name] = value
        elif wanted is str and isinstance(value, str):
            kept[name] = _shown(value)
        else:
            dropped += 1
    if dropped:
        kept["fields_dropped"] = dropped
    return kept


def _shown(value: str) -> str:
    if _CREDENTIAL.search(value):
        return "[withheld]"
    return value if len(value) <= TEXT_CHARACTERS_MAX else value[: TEXT_CHARACTERS_MAX - 1] + "…"


def _as_text(line: Mapping[str, Any]) -> str:
    rest = " ".join(
        f"{name}={json.dumps(value) if isinstance(value, str) and not _plain(value) else value}"
        for name, value in line.items()
        if name not in {"time", "level", "event"}
    )
    return f"{line['time'][11:23]} {line['level']:<7} {line['event']} {rest}".rstrip()


def _plain(value: str) -> bool:
    return value.isascii() and value.isprintable() and " " not in value and '"' not in value


def _time_text(now_ns: int) -> str:
    moment = datetime.fromtimestamp(now_ns // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{now_ns // 1000 % 1_000_000:06d}Z"

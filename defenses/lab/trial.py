"""Trials as lines of JSON: one a line, in the order they were made, in a file that only grows.

Rules: a line is one trial with the experiment that made it, its size and how long it took. All trials of one
(experiment, seed) are written at once, after the experiment ended, the last with `done`; so what is there without a
`done` behind it was cut off and counts as not run. Numbers are finite. `read_trials` takes no more than TRIALS_MAX.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from defenses.errors import DefenseError
from defenses.lab.attack import Size, Trial

TRIALS_FILE: Final = "trials.jsonl"
TRIALS_MAX: Final = 100_000
LINE_BYTES_MAX: Final = 4 * 1024 * 1024


class LabError(DefenseError):
    """Root of what the lab raises on purpose. Never on the path of a request."""


class TrialsUnreadable(LabError):
    """A file of trials holds something else."""

    def __init__(self, file: str, line: int, problem: str) -> None:
        super().__init__(f"{file}, line {line}: {problem}")


@dataclass(frozen=True, slots=True)
class Line:
    """One trial as it stands in the file."""

    experiment: str
    size: Size
    seconds: float
    trial: Trial
    done: bool = False


def append_lines(path: Path, lines: Sequence[Line]) -> None:
    """Write the trials of one (experiment, seed). ValueError for a number that is not finite: it would be no JSON."""
    text = b"".join(_encode(line) + b"\n" for line in lines)
    _cut_torn_line(path)
    with path.open("ab") as file:
        file.write(text)


def _cut_torn_line(path: Path) -> None:
    """Take away what a write that was cut short left behind the last whole line."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        start = max(0, size - LINE_BYTES_MAX - 1)
        file.seek(start)
        tail = file.read()
        if tail and not tail.endswith(b"\n"):
            file.truncate(start + tail.rfind(b"\n") + 1)


def read_lines(path: Path) -> list[Line]:
    """Return the whole trials of a file; of an interrupted write, nothing. An absent file holds none.

    Raises:
        TrialsUnreadable: a line that is none of ours stands before the last.
    """
    if not path.exists():
        return []
    kept: list[Line] = []
    pending: list[Line] = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if number > TRIALS_MAX:
                raise TrialsUnreadable(path.name, number, f"more than {TRIALS_MAX:,} lines")
            if not raw.endswith(b"\n"):
                break  # the machine stopped while it was written
            pending.append(_decode(raw, path.name, number))
            if pending[-1].done:
                kept += _of_one_run(pending)
                pending = []
    return kept


def _of_one_run(lines: Iterable[Line]) -> list[Line]:
    """Return the lines that belong to the last: what stands before them was cut off."""
    found = [*lines]
    last = found[-1]
    return [
        line
        for line in found
        if (line.experiment, line.size, line.trial.seed) == (last.experiment, last.size, last.trial.seed)
    ]


def _encode(line: Line) -> bytes:
    flat = asdict(line.trial) | {"experiment": line.experiment, "size": line.size, "seconds": round(line.seconds, 3)}
    if line.done:
        flat["done"] = True
    _require_finite(flat)
    return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_SORT_KEYS)


def _require_finite(value: Any) -> None:
    if isinstance(value, dict):
        for item in value.values():
            _require_finite(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_finite(item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a trial holds a number that is not finite")


def _decode(raw: bytes, file: str, number: int) -> Line:
    if len(raw) > LINE_BYTES_MAX:
        raise TrialsUnreadable(file, number, f"longer than {LINE_BYTES_MAX} bytes")
    try:
        flat = orjson.loads(raw)
        done = flat.pop("done", False)
        line = Line(flat.pop("experiment"), Size(flat.pop("size")), float(flat.pop("seconds")), _trial(flat), done)
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as problem:
        raise TrialsUnreadable(file, number, f"is no trial ({type(problem).__name__})") from problem
    return line


def _trial(flat: dict[str, Any]) -> Trial:
    flat["curves"] = {name: [(float(x), float(y)) for x, y in points] for name, points in flat["curves"].items()}
    trial = Trial(**flat)
    words = (trial.attack, trial.family, trial.technique, trial.knowledge)
    counts = (trial.seed, trial.samples, trial.successes)
    sound = all(isinstance(word, str) for word in words) and all(type(count) is int for count in counts)
    sound = sound and all(isinstance(value, int | float) for value in trial.metrics.values())
    if not isinstance(trial.settings, dict):
        raise TypeError("settings are no map")
    if not sound or type(trial.defended) is not bool or not 0 <= trial.successes <= trial.samples:
        raise ValueError("a field has another type, or more successes than samples")
    return trial

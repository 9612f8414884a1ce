"""Runs experiments one after the other, and goes on where it was stopped.

One (experiment, seed) is the unit: its trials are in the file or they are not, and what is there is not run again. The
order is seed by seed, so that a run that is stopped early has something of everything. An experiment that raises is
told and passed over: the others still run, and it runs again next time.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from defenses.lab.attack import Experiment, Lab, Size
from defenses.lab.trial import TRIALS_FILE, LabError, Line, append_lines, read_lines

SEEDS_MAX = 100


class ExperimentUnknown(LabError):
    """No experiment of the catalogue has this name."""

    def __init__(self, name: str, known: list[str]) -> None:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        super().__init__(f"there is no experiment {name!r}{hint}; `stockade lab list` shows all {len(known)}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run: (experiment, seed) that were run, were there already, failed, or were not reached."""

    ran: tuple[tuple[str, int], ...]
    skipped: tuple[tuple[str, int], ...]
    failed: tuple[tuple[str, int], ...]
    left: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is told: before each run, and of each failure with its traceback."""

    began: Callable[[str, int, int, int], None]
    """(experiment, seed, number, of how many)"""
    failed: Callable[[str, int, str], None]


def chosen(catalogue: Mapping[str, Experiment], names: Iterable[str]) -> list[Experiment]:
    """Return the experiments that are named, or else whose family or beginning ("whitebox/") is; all where nothing is.

    Raises:
        ExperimentUnknown: a name that matches nothing.
    """
    wanted = [*names]
    if not wanted:
        return [*catalogue.values()]
    found: dict[str, Experiment] = {}
    for name in wanted:
        matching = {name: catalogue[name]} if name in catalogue else _beginning(name, catalogue)
        if not matching:
            raise ExperimentUnknown(name, [*catalogue])
        found |= matching
    return [one for name, one in catalogue.items() if name in found]


def _beginning(name: str, catalogue: Mapping[str, Experiment]) -> dict[str, Experiment]:
    start = f"{name.rstrip('/')}/"
    return {known: one for known, one in catalogue.items() if name == one.family or known.startswith(start)}


def run_all(
    experiments: Iterable[Experiment],
    lab: Lab,
    directory: Path,
    *,
    seeds: int | None,
    clock: Callable[[], float],
    seconds_max: float,
    watcher: Watcher,
) -> Outcome:
    """Run what is not in `directory` yet; no experiment begins after `seconds_max`.

    Args:
        experiments: what to run.
        lab: its size decides which lines count as there.
        directory: where the file of trials is; exists.
        seeds: how many for each experiment, from 0; None: as many as each says, and one in a smoke run.
        clock: seconds, rising.
        seconds_max: after which nothing new begins.
        watcher: who is told.

    Raises:
        TrialsUnreadable: the file that is there is not one of trials.
    """
    path = directory / TRIALS_FILE
    there = {(line.experiment, line.trial.seed) for line in read_lines(path) if line.size == lab.size}
    wanted = _in_order([*experiments], seeds, lab.size)
    began = clock()
    ran, skipped, failed, left = [], [], [], []
    for number, (experiment, seed) in enumerate(wanted, 1):
        key = (experiment.name, seed)
        if key in there:
            skipped.append(key)
        elif clock() - began > seconds_max:
            left.append(key)
        else:
            watcher.began(experiment.name, seed, number, len(wanted))
            try:
                _run_one(experiment, lab, seed, path, clock)
            except Exception:  # noqa: BLE001  whatever an attack does, the others still run
                watcher.failed(experiment.name, seed, traceback.format_exc())
                failed.append(key)
            else:
                ran.append(key)
    return Outcome(tuple(ran), tuple(skipped), tuple(failed), tuple(left))


def _in_order(experiments: list[Experiment], seeds: int | None, size: Size) -> list[tuple[Experiment, int]]:
    def count(experiment: Experiment) -> int:
        usual = 1 if size is Size.SMOKE else experiment.seeds
        return min(usual if seeds is None else seeds, SEEDS_MAX)

    most = max((count(experiment) for experiment in experiments), default=0)
    return [(experiment, seed) for seed in range(most) for experiment in experiments if seed < count(experiment)]


def _run_one(experiment: Experiment, lab: Lab, seed: int, path: Path, clock: Callable[[], float]) -> None:
    began = clock()
    trials = experiment.run(lab, seed)
    seconds = clock() - began
    if not trials or any(trial.seed != seed for trial in trials):
        raise ValueError(f"{experiment.name} gave no trials, or some of another seed")
    last = len(trials) - 1
    append_lines(
        path,
        [Line(experiment.name, lab.size, seconds, trial, index == last) for index, trial in enumerate(trials)],
    )

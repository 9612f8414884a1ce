"""`stockade lab list|run|report`: the attack lab from the command line.

Importing this module loads neither torch nor gRPC nor the catalogue: `stockade --help` stays fast.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from gateway.cli.arguments import JSON, argument, command, group, option, whole
from gateway.tools.terminal import EX_NO, fail, print_json, terminal

if TYPE_CHECKING:
    from defenses.lab.runner import Outcome, Watcher
    from gateway.tools.lab.lab import Teller

app = group("attack the defenses, and write down what attackers achieve")
MINUTES_MAX = 7 * 24 * 60
OUT = Path("out/lab")


@command(app, "list")
def show(json: bool = JSON) -> int:
    """Name the experiments."""
    from gateway.tools.lab.catalogue import catalogue

    experiments = [*catalogue().values()]
    if json:
        rows = [{"name": one.name, "family": one.family, "summary": one.summary} for one in experiments]
        print_json(rows)
        return 0
    table = Table(Column("experiment", no_wrap=True), "family", "what", box=None)
    for one in experiments:
        table.add_row(one.name, one.family, escape(one.summary))
    terminal.print(table)
    return 0


@command(app, "run")
def run(
    names: list[str] = argument("NAME", "an experiment, a family, or the beginning of names", []),
    smoke: bool = option("--smoke", "a few rows each: does everything run, in minutes", False),
    seeds: int | None = option("--seeds N", "seeds each (default: as the catalogue says)", None, whole(1, 100)),
    out: Path = option("--out DIR", "where trials are kept (default: out/lab)", OUT),
    minutes: int = option("--minutes N", "begin nothing new after this", MINUTES_MAX, whole(1, MINUTES_MAX)),
    bundles: Path | None = option("--bundles DIR", "signed models (default: the project's)", None),
    data: Path | None = option("--data DIR", "Fashion-MNIST (default: where Debian puts it)", None),
    policy: Path | None = option(
        "--policy FILE", "policy.yaml whose `models` are attacked (default: as `init` gives, and a watch)", None
    ),
) -> int:
    """Run experiments, through real gateways and on the models; goes on where it was."""
    from defenses.lab.attack import Size
    from defenses.lab.runner import chosen, run_all
    from defenses.lab.trial import LabError
    from gateway.tools.lab.catalogue import catalogue
    from gateway.tools.lab.lab import LocalLab
    from gateway.tools.lab.place import policy_under_test
    from gateway.tools.samples import bundles_directory

    console = Console(stderr=True, highlight=False)
    try:
        experiments = chosen(catalogue(), names)
        tested = policy_under_test(policy)
        out.mkdir(parents=True, exist_ok=True)
    except (LabError, OSError, ValueError) as problem:
        return fail(problem)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        watcher, tell = shown(progress, len(experiments))
        lab = LocalLab(
            Size.SMOKE if smoke else Size.FULL,
            out / "scratch",
            bundles=bundles or bundles_directory(),
            policy=tested,
            data=data,
            tell=tell,
        )
        with lab:
            try:
                outcome = run_all(
                    experiments,
                    lab,
                    out,
                    seeds=seeds,
                    clock=time.monotonic,
                    seconds_max=minutes * 60,
                    watcher=watcher,
                )
            except LabError as problem:
                return fail(problem)
    console.print(told(outcome))
    return EX_NO if outcome.failed or outcome.left else 0


def shown(progress: Progress, experiments: int) -> tuple[Watcher, Teller]:
    """Return who shows which trials begin and fail, and who shows how far a trial is."""
    from defenses.lab.runner import Watcher

    whole_task, part = progress.add_task("experiments", total=experiments), progress.add_task("", total=None)

    def began(name: str, seed: int, number: int, total: int) -> None:
        progress.update(whole_task, description=f"{name}, seed {seed}", completed=number - 1, total=total)
        progress.update(part, description="", completed=0, total=None)
        progress.console.print(f"{number}/{total} {name}, seed {seed}")

    def failed(name: str, seed: int, trace: str) -> None:
        progress.console.print(f"[red]failed:[/red] {name}, seed {seed}\n{escape(trace)}", soft_wrap=True)

    def tell(what: str, done: int, total: int) -> None:
        progress.update(part, description=what, completed=done, total=total)

    return Watcher(began, failed), tell


def told(outcome: Outcome) -> str:
    """Say in one line what became of a run."""
    parts = {
        "run": outcome.ran,
        "there already": outcome.skipped,
        "failed": outcome.failed,
        "not reached": outcome.left,
    }
    return ", ".join(f"{len(some)} {word}" for word, some in parts.items() if some) or "nothing to run"


@command(app, "report")
def report(
    directory: Path = argument("DIR"),
    smoke: bool = option("--smoke", "of the smoke run's trials", False),
    to: Path | None = option("--to DIR", "where to write (default: DIR)", None),
) -> int:
    """Write the scorecard of a directory of trials: JSON and a page."""
    from defenses.lab.attack import Size
    from defenses.lab.trial import TRIALS_FILE, LabError, read_lines
    from gateway.tools.lab.report import write_report

    console = Console(stderr=True, highlight=False)
    size = Size.SMOKE if smoke else Size.FULL
    try:
        lines = [line for line in read_lines(directory / TRIALS_FILE) if line.size is size]
        if not lines:
            return fail(f"{directory}: there are no trials of a {size} run; `stockade lab run` makes them")
        files, missed = write_report(lines, to or directory)
    except (LabError, OSError) as problem:
        return fail(problem)
    for file in files:
        console.print(str(file), soft_wrap=True)
    return EX_NO if missed else 0

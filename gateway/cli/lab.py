"""`stockade lab list|run|report`: the attack lab from the command line.

Importing this module loads neither torch nor gRPC nor the catalogue: `stockade --help` stays fast.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from gateway.cli.verbs import verb
from gateway.tools.arguments import whole
from gateway.tools.terminal import EX_NO, fail, print_json, terminal

if TYPE_CHECKING:
    import argparse

    from defenses.lab.runner import Outcome, Watcher
    from gateway.tools.lab.lab import Teller

MINUTES_MAX = 7 * 24 * 60
OUT = Path("out/lab")


def add_verbs(verbs: Any) -> None:
    """Add the verbs of `stockade lab`."""
    listing = verb(verbs, "list", run_list, "name the experiments")
    listing.add_argument("--json", action="store_true", help="as JSON")
    running = verb(
        verbs, "run", run_run, "run experiments, through real gateways and on the models; goes on where it was"
    )
    running.add_argument("names", nargs="*", metavar="NAME", help="an experiment, a family, or the beginning of names")
    running.add_argument("--smoke", action="store_true", help="a few rows each: does everything run, in minutes")
    running.add_argument("--seeds", type=whole(1, 100), metavar="N", help="seeds each (default: as the catalogue says)")
    running.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help="where trials are kept (default: out/lab)"
    )
    running.add_argument(
        "--minutes", type=whole(1, MINUTES_MAX), default=MINUTES_MAX, metavar="N", help="begin nothing new after this"
    )
    running.add_argument("--bundles", type=Path, metavar="DIR", help="signed models (default: the project's)")
    running.add_argument("--data", type=Path, metavar="DIR", help="Fashion-MNIST (default: where Debian puts it)")
    running.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="policy.yaml whose `models` are attacked (default: as `init` gives, and a watch)",
    )
    report = verb(verbs, "report", run_report, "write the scorecard of a directory of trials: JSON and a page")
    report.add_argument("directory", type=Path, metavar="DIR")
    report.add_argument("--smoke", action="store_true", help="of the smoke run's trials")
    report.add_argument("--to", type=Path, metavar="DIR", help="where to write (default: DIR)")


def run_list(options: argparse.Namespace) -> int:
    """Print the catalogue."""
    from gateway.tools.lab.catalogue import catalogue

    experiments = [*catalogue().values()]
    if options.json:
        rows = [{"name": one.name, "family": one.family, "summary": one.summary} for one in experiments]
        print_json(rows)
        return 0
    table = Table(Column("experiment", no_wrap=True), "family", "what", box=None)
    for one in experiments:
        table.add_row(one.name, one.family, escape(one.summary))
    terminal.print(table)
    return 0


def run_run(options: argparse.Namespace) -> int:
    """Run experiments; returns 0 when all are there, 1 when some failed or were not reached."""
    from defenses.lab.attack import Size
    from defenses.lab.runner import chosen, run_all
    from defenses.lab.trial import LabError
    from gateway.tools.lab.catalogue import catalogue
    from gateway.tools.lab.lab import LocalLab
    from gateway.tools.lab.place import policy_under_test
    from gateway.tools.samples import bundles_directory

    console = Console(stderr=True, highlight=False)
    try:
        experiments = chosen(catalogue(), options.names)
        policy = policy_under_test(options.policy)
        options.out.mkdir(parents=True, exist_ok=True)
    except (LabError, OSError, ValueError) as problem:
        return fail(problem)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        watcher, tell = shown(progress, len(experiments))
        lab = LocalLab(
            Size.SMOKE if options.smoke else Size.FULL,
            options.out / "scratch",
            bundles=options.bundles or bundles_directory(),
            policy=policy,
            data=options.data,
            tell=tell,
        )
        with lab:
            try:
                outcome = run_all(
                    experiments,
                    lab,
                    options.out,
                    seeds=options.seeds,
                    clock=time.monotonic,
                    seconds_max=options.minutes * 60,
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


def run_report(options: argparse.Namespace) -> int:
    """Write results.json and index.html; returns 1 where a floor is missed."""
    from defenses.lab.attack import Size
    from defenses.lab.trial import TRIALS_FILE, LabError, read_lines
    from gateway.tools.lab.report import write_report

    console = Console(stderr=True, highlight=False)
    size = Size.SMOKE if options.smoke else Size.FULL
    try:
        lines = [line for line in read_lines(options.directory / TRIALS_FILE) if line.size is size]
        if not lines:
            return fail(f"{options.directory}: there are no trials of a {size} run; `stockade lab run` makes them")
        files, missed = write_report(lines, options.to or options.directory)
    except (LabError, OSError) as problem:
        return fail(problem)
    for file in files:
        console.print(str(file), soft_wrap=True)
    return EX_NO if missed else 0

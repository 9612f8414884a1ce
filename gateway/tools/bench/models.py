"""`stockade bench models`: what the models are worth, in one run, beside what is simpler.

Three parts, each by itself: `clicks` (the shop's next event beside Markov), `credit` (payments beside models that
explain less), `bundles` (what signed models measure on the rows they never saw). A part whose data are not here says
so, and the others are measured all the same.
The full run trains, which takes long; `--quick` shows that everything works, with figures to forget.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.tools.bench.hand_over import hand_over

PARTS = ("clicks", "credit", "bundles")

EXIT_OK, EXIT_NO, EXIT_USAGE = 0, 1, 2
EXTRA = ("torch", "onnx", "sklearn", "rdata")

Say = Callable[[str], None]


def run(options: argparse.Namespace) -> int:
    """The verb. Returns 0 when every part was measured, 1 when one was not, 2 when none can be."""
    err = Console(stderr=True, highlight=False)
    if unknown := [name for name in options.only or () if name not in PARTS]:
        err.print(f"[red]stockade:[/red] no part is called {escape(unknown[0])}: {', '.join(PARTS)}", soft_wrap=True)
        return EXIT_USAGE
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        err.print(f"this bench trains, and needs {', '.join(missing)}: pip install 'stockade\\[train]'", soft_wrap=True)
        return EXIT_USAGE
    from gateway.tools.bench.model_parts import measured  # noqa: PLC0415 - torch loads only when something is measured

    chosen = options.only or PARTS
    report: dict[str, Any] = {"quick": options.quick, "load_average": round(os.getloadavg()[0], 2)}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=len(chosen))
        for name in chosen:
            say = _saying(progress, task, name)
            say("reading data")
            report[name] = measured(name, options, say)
            progress.advance(task)
    hand_over(report, options, lambda out: _show(report, out))
    return EXIT_NO if any("not_measured" in report[name] for name in chosen) else EXIT_OK


def _saying(progress: Progress, task: Any, part: str) -> Say:
    return lambda text: progress.update(task, description=f"{part}: {text}")


def _show(report: Mapping[str, Any], out: Console) -> None:
    for name, view in VIEWS.items():
        if name in report:
            part = report[name]
            if "not_measured" in part:
                out.print(f"{name}: not measured: {escape(part['not_measured'])}", soft_wrap=True)
            else:
                view(part, out)
    if report["quick"]:
        out.print("--quick: these figures show that it works, and nothing more")


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    return table


def _spread(found: Mapping[str, Any], scale: float, digits: int) -> str:
    return f"{scale * found['mean']:.{digits}f} ± {scale * found['half']:.{digits}f}"


def _show_clicks(part: Mapping[str, Any], out: Console) -> None:
    table = _table("ecom, the next event", "", "right, %", "log-loss, nats")
    for name in ("model", "markov", "popular"):
        table.add_row(name, _spread(part[f"{name}_accuracy"], 100, 2), _spread(part[f"{name}_log_loss"], 1, 3))
    out.print(table)


def _show_credit(part: Mapping[str, Any], out: Console) -> None:
    table = _table(f"{part['table']}, {part['rounds']} rounds", "model", "AUC", "calibration error, %", "all rows")
    for name, found in part["models"].items():
        auc, error = found["auc"], found["calibration_error"]
        pooled = f"{100 * part['pooled'][name]:.1f}" if part["pooled"] else ""
        table.add_row(
            name,
            f"{auc['mean']:.3f} ({auc['interval'][0]:.3f}-{auc['interval'][1]:.3f})",
            f"{100 * error['mean']:.1f}",
            pooled,
        )
    out.print(table)
    out.print(f"terms of the additive model: {', '.join(str(len(terms)) for terms in part['terms'])}")


def _show_bundles(part: Mapping[str, Any], out: Console) -> None:
    table = _table(
        "signed models, on rows they never saw (95 %)", "bundle", "rows", "right, %", "AUROC", "alarms at 5 %"
    )
    for name, found in part.items():
        alarms = next((one for one in found.get("alarms", ()) if one["fpr_max"] == 0.05), None)
        table.add_row(
            name,
            f"{found['rows']:,}",
            _bounded(found["accuracy"], 100, 2),
            _bounded(area, 1, 3) if (area := _area(found)) else "",
            _bounded({"value": alarms["rate"], **alarms}, 100, 2) if alarms else "",
        )
    out.print(table)
    out.print("AUROC: of two classes, or of the best energy, handwritten digits (UCI) beside products", soft_wrap=True)
    for name, found in part.items():
        if attacked := found["told"].get("robustness", {}).get("auto_attack"):
            right = _bounded({"value": attacked["right"], **attacked}, 100, 2)
            said = f"{name}: {right} % of {attacked['rows']} right under AutoAttack, as its manifest says"
            out.print(said, soft_wrap=True)


def _area(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    areas = (found["auc"],) if "auc" in found else found.get("digits_auroc", {}).values()
    return max(areas, key=lambda area: area["value"], default=None)


def _bounded(found: Mapping[str, Any], scale: float, digits: int) -> str:
    low, high = (f"{scale * bound:.{digits}f}" for bound in found["interval"])
    return f"{scale * found['value']:.{digits}f} ({low}-{high})"


VIEWS: Mapping[str, Callable[[Mapping[str, Any], Console], None]] = {
    "clicks": _show_clicks,
    "credit": _show_credit,
    "bundles": _show_bundles,
}

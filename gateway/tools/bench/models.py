"""`stockade bench models`: what the models are worth, in one run, beside what is simpler.

Four parts, each by itself: `sparsity` (a mixture's sparse path beside dense int8, trained here), `clicks` (the shop's
next event beside Markov), `credit` (payments beside models that explain less), `bundles` (what signed models measure on
the rows they never saw). A part whose data are not here says so, and the others are measured all the same.
The full run trains, which takes long; `--quick` shows that everything works, with figures to forget.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape

from gateway.tools.bench.runner import Bench, NotMeasured, Result, table
from gateway.tools.terminal import EX_NO

PARTS = ("sparsity", "clicks", "credit", "bundles")

EXTRA = ("torch", "onnx", "sklearn", "rdata")


def models(bench: Bench) -> Result:
    """The measure. Its exit code is 1 when a part was not measured."""
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        raise NotMeasured(f"this bench trains, and needs {', '.join(missing)}: pip install 'stockade[train]'")
    from gateway.tools.bench.model_parts import measured  # noqa: PLC0415 - torch loads only when something is measured

    options = bench.options
    chosen = options.only or PARTS
    report: dict[str, Any] = {"quick": options.quick, "load_average": bench.machine["load_average_before"]}
    for number, name in enumerate(chosen):
        bench.step(f"{name}: reading data", number, len(chosen))
        report[name] = measured(name, options, lambda text, name=name: bench.step(f"{name}: {text}"))  # type: ignore[misc]
    code = EX_NO if any("not_measured" in report[name] for name in chosen) else 0
    return Result(report, partial(_show, report), code)


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


def _spread(found: Mapping[str, Any], scale: float, digits: int) -> str:
    return f"{scale * found['mean']:.{digits}f} ± {scale * found['half']:.{digits}f}"


def _show_sparsity(part: Mapping[str, Any], out: Console) -> None:
    rows = []
    for name, quality in part["quality"].items():
        us = part["us"].get(name)
        times = [f"{us[size]:,.0f}" for size in ("1", "8", "64")] if us else [""] * 3
        faster = f"{part['times_faster_than_dense'][name]['1']:.2f}" if us else ""
        rows.append((name, _spread(quality, 100, 2), *times, faster))
    pruned = part["pruned"]
    rows.append(("dense, 1 weight in 20, CSR", f"{100 * pruned['quality']:.2f}", f"{pruned['us']:,.0f}", "", "", ""))
    headings = ("model", "right, %", "us 1", "us 8", "us 64", "x")
    out.print(table(headings, rows, f"region of a place, {part['experts']}, one thread"))
    smallest = part["smallest_equal"]
    out.print(
        f"smallest dense within {smallest['points']} points: {smallest['model']};"
        f" the sparse path is {smallest['times_faster_than_it']} times as fast"
    )


def _show_clicks(part: Mapping[str, Any], out: Console) -> None:
    rows = [
        (name, _spread(part[f"{name}_accuracy"], 100, 2), _spread(part[f"{name}_log_loss"], 1, 3))
        for name in ("model", "markov", "popular")
    ]
    out.print(table(("", "right, %", "log-loss, nats"), rows, "ecom, the next event"))


def _show_credit(part: Mapping[str, Any], out: Console) -> None:
    rows = []
    for name, found in part["models"].items():
        auc, error = found["auc"], found["calibration_error"]
        low, high = auc["interval"]
        pooled = f"{100 * part['pooled'][name]:.1f}" if part["pooled"] else ""
        rows.append((name, f"{auc['mean']:.3f} ({low:.3f}-{high:.3f})", f"{100 * error['mean']:.1f}", pooled))
    headings = ("model", "AUC", "calibration error, %", "all rows")
    out.print(table(headings, rows, f"{part['table']}, {part['rounds']} rounds"))
    out.print(f"terms of the additive model: {', '.join(str(len(terms)) for terms in part['terms'])}")


def _show_bundles(part: Mapping[str, Any], out: Console) -> None:
    rows = []
    for name, found in part.items():
        alarms = next((one for one in found.get("alarms", ()) if one["fpr_max"] == 0.05), None)
        areas = (found["auc"],) if "auc" in found else found.get("digits_auroc", {}).values()
        area = max(areas, key=lambda each: each["value"], default=None)
        rates = _bounded({"value": alarms["rate"], **alarms}, 100, 2) if alarms else ""
        right, separation = _bounded(found["accuracy"], 100, 2), _bounded(area, 1, 3) if area else ""
        rows.append((name, f"{found['rows']:,}", right, separation, rates))
    headings = ("bundle", "rows", "right, %", "AUROC", "alarms at 5 %")
    out.print(table(headings, rows, "signed models, on rows they never saw (95 %)"))
    out.print("AUROC: of two classes, or of the best energy, handwritten digits (UCI) beside products", soft_wrap=True)
    for name, found in part.items():
        if attacked := found["told"].get("robustness", {}).get("auto_attack"):
            right = _bounded({"value": attacked["right"], **attacked}, 100, 2)
            said = f"{name}: {right} % of {attacked['rows']} right under AutoAttack, as its manifest says"
            out.print(said, soft_wrap=True)


def _bounded(found: Mapping[str, Any], scale: float, digits: int) -> str:
    low, high = (f"{scale * bound:.{digits}f}" for bound in found["interval"])
    return f"{scale * found['value']:.{digits}f} ({low}-{high})"


VIEWS: Mapping[str, Callable[[Mapping[str, Any], Console], None]] = {
    "sparsity": _show_sparsity,
    "clicks": _show_clicks,
    "credit": _show_credit,
    "bundles": _show_bundles,
}

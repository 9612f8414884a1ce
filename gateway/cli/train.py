"""`stockade train CASE`: joins a recipe (serving) with the screen it calibrates (defenses), strangers to each other.

Importing this module loads neither NumPy, torch nor a recipe: every verb starts fast, and works without the extra.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from defenses.errors import DefenseError
from gateway.tools.arguments import whole
from serving.errors import ServingError

if TYPE_CHECKING:
    from serving.bundles.bundle import Bundle
    from serving.train.kiosk.robustness import Attacked
    from serving.train.report import ScreenFitter

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
WHOLE_MAX = 1_000_000
EXTRA = ("torch", "onnx", "sklearn", "matplotlib", "rdata")
PAYMENTS_POINTS = (0.05, 0.01)  # a tenth of a percent cannot be promised on so few rows
NOT_FOR: Mapping[str, tuple[str, ...]] = {
    "kiosk": ("table", "other_data"),
    "clickstream": ("recipe", "table", "other_data"),
    "payments": ("recipe", "checkpoint"),
}
"""Options that a recipe has no use for: given all the same, they are a mistake."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("case", choices=list(CASES), help="which recipe to run")
    parser.add_argument(
        "--recipe",
        choices=["clean", "robust"],
        help="kiosk: clean makes version 1 (default), robust version 2, which stands small changes of every pixel; "
        "attacked by AutoAttack where stockade\\[lab] is installed",
    )
    parser.add_argument("--bundle", type=Path, help="where the bundle is written (default: out/bundles/CASE/VERSION)")
    parser.add_argument(
        "--signing-key",
        type=Path,
        default=Path("out/keys/bundles.key"),
        help="ECDSA P-256 private key in PEM; created when absent, its public half is written beside it",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="kiosk: the directory of Fashion-MNIST's idx files (default: Debian's package); "
        "clickstream: ecom.csv.gz (default: PyPI's retentioneering, installed, cached or downloaded); "
        "payments: an .rda file, or where r-cran-modeldata was unpacked (default: Debian's package)",
    )
    parser.add_argument(
        "--table", choices=["credit_data", "lending_club"], help="payments: which data (default: credit_data)"
    )
    parser.add_argument(
        "--other-data",
        action="store_true",
        help="payments: take a table that is not the published one; the card says so",
    )
    parser.add_argument("--checkpoint", type=Path, help="resume from this file, and write it after each epoch")
    parser.add_argument("--plots", type=Path, help="directory for curves, reliability, energies as PNG")
    parser.add_argument("--samples", type=Path, help="also write 1,000 test rows to this file")
    parser.add_argument("--epochs", type=whole(1, WHOLE_MAX), help="instead of the recipe's number")
    parser.add_argument("--seed", type=whole(0, WHOLE_MAX), default=0, help="decides the splits and the weights")
    parser.add_argument("--smoke", action="store_true", help="the whole recipe on a tenth of the data, in seconds")


def run(args: argparse.Namespace) -> int:
    """Run the recipe; 0 when a bundle was signed, 1 when the recipe refused, 2 when the extra is missing."""
    console = Console(stderr=True)
    if useless := [name for name in NOT_FOR[args.case] if getattr(args, name)]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
        console.print(f"{args.case} has no use for {options}", soft_wrap=True)
        return EXIT_USAGE
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        console.print(f"training needs {', '.join(missing)}: pip install 'stockade\\[train]'", soft_wrap=True)
        return EXIT_USAGE
    from serving.train.errors import TrainingError

    version = "2" if args.recipe == "robust" else "1"
    directory = args.bundle or Path("out/bundles") / args.case / version
    try:
        bundle = CASES[args.case](args, directory, console)
    except (TrainingError, ServingError, DefenseError) as error:
        console.print(f"[red]no bundle was written:[/red] {escape(str(error))}", soft_wrap=True)
        return EXIT_FAILED
    Console().print(_summary(bundle, directory))
    return EXIT_OK


def _kiosk(args: argparse.Namespace, directory: Path, console: Console) -> Bundle:
    from serving.train.kiosk.data import load_fashion_mnist, write_samples
    from serving.train.kiosk.recipe import (
        KioskSettings,
        robust_settings,
        smoke_settings,
        train_kiosk,
    )

    settings = KioskSettings(
        bundle=directory,
        signing_key=args.signing_key,
        data=args.data,
        checkpoint=args.checkpoint,
        plots=args.plots,
    )
    settings = replace(settings, loop=replace(settings.loop, seed=args.seed))
    if args.recipe == "robust":
        settings = robust_settings(settings)
        settings = replace(settings, attacked=_attacked(settings.attacked, args))
    if args.smoke:
        settings = smoke_settings(settings)
    if args.epochs is not None:
        robust = None if settings.robust is None else replace(settings.robust, epochs=args.epochs)
        settings = replace(settings, loop=replace(settings.loop, epochs=args.epochs), robust=robust)
    bundle = train_kiosk(settings, _screen_fitter(), console)
    if args.samples is not None:
        write_samples(load_fashion_mnist(args.data), args.samples)
    return bundle


def _attacked(attacked: Attacked, args: argparse.Namespace) -> Attacked:
    """Join the recipe with AutoAttack where it is installed."""
    from defenses.art_adapter import SMOKE_BUDGET, AutoAttackBudget, auto_attack

    if importlib.util.find_spec("art") is None:
        return attacked
    from serving.train.kiosk.data import CLASS_NAMES

    budget = SMOKE_BUDGET if args.smoke else AutoAttackBudget()
    attack = partial(auto_attack, classes=len(CLASS_NAMES), radius=attacked.radius, budget=budget, seed=args.seed)
    return replace(attacked, attack=attack, strength=asdict(budget))


def _screen_fitter(**settings: Any) -> ScreenFitter:
    from defenses.screens.evidence import fit_evidence, measure_evidence
    from serving.train.report import ScreenFitter

    return ScreenFitter(partial(fit_evidence, **settings), partial(measure_evidence, **settings))


def _clickstream(args: argparse.Namespace, directory: Path, console: Console) -> Bundle:
    from serving.train.clickstream.ecom import load_ecom, write_click_samples
    from serving.train.clickstream.recipe import ClickstreamSettings, smoke_clicks, train_clickstream

    settings = ClickstreamSettings(
        bundle=directory,
        signing_key=args.signing_key,
        data=args.data,
        checkpoint=args.checkpoint,
        plots=args.plots,
    )
    settings = replace(settings, loop=replace(settings.loop, seed=args.seed))
    if args.smoke:
        settings = smoke_clicks(settings)
    if args.epochs is not None:
        settings = replace(settings, loop=replace(settings.loop, epochs=args.epochs))
    bundle = train_clickstream(settings, _screen_fitter(), console)
    if args.samples is not None:
        write_click_samples(load_ecom(args.data), args.samples)
    return bundle


def _payments(args: argparse.Namespace, directory: Path, console: Console) -> Bundle:
    from gateway.tools.train_labels import doubts_of
    from serving.train.payments.data import load_applications
    from serving.train.payments.recipe import (
        PaymentsSettings,
        smoke_payments,
        train_payments,
        write_test_rows,
    )
    from serving.train.payments.schema import CREDIT_DATA, SCHEMAS

    settings = PaymentsSettings(
        bundle=directory,
        signing_key=args.signing_key,
        schema=SCHEMAS[args.table] if args.table else CREDIT_DATA,
        data=args.data,
        other_data=args.other_data,
        plots=args.plots,
        seed=args.seed,
    )
    if args.smoke:
        settings = smoke_payments(settings)
    if args.epochs is not None:
        settings = replace(settings, masked=replace(settings.masked, epochs=args.epochs))
    if args.other_data and settings.schema is CREDIT_DATA:
        data = load_applications(settings.schema, settings.data, other=True)
        if doubts := doubts_of(data):
            console.print(f"[yellow]warning:[/yellow] {escape(doubts)}", soft_wrap=True)
    bundle = train_payments(settings, _screen_fitter(points=PAYMENTS_POINTS), console)
    if args.samples is not None:
        write_test_rows(settings, args.samples)
    return bundle


CASES: Mapping[str, Callable[[argparse.Namespace, Path, Console], Bundle]] = {
    "kiosk": _kiosk,
    "clickstream": _clickstream,
    "payments": _payments,
}


def _summary(bundle: Bundle, directory: Path) -> Table:
    metrics = bundle.manifest["metrics"]
    table = Table(title=f"{bundle.name} {bundle.version} in {directory}", show_header=False)
    table.add_row("digest", bundle.digest)
    for name, value in _figures(metrics):
        table.add_row(name, value)
    table.add_row("CPU a row, batches of 32", f"{metrics['cost_us']['rows_32']['median']} us")
    for kind, found in metrics["foreign"].items():
        flagged = next(point for point in found["flagged"] if point["fpr_max"] == 0.01)
        low, high = flagged["interval"]
        table.add_row(f"{kind} flagged at 1 %", f"{flagged['rate']:.2%}  ({low:.2%} - {high:.2%})")
    return table


def _figures(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a recipe is first of all asked about."""
    if "accuracy" in metrics:
        yield "test accuracy", f"{metrics['accuracy']:.2%}"
    for attack, found in metrics.get("robustness", {}).items():
        if isinstance(found, Mapping):
            yield f"right under {attack.replace('_', ' ')}", f"{found['right']:.2%}"
    if "auc" in metrics:
        yield "AUC, terms", f"{metrics['auc']:.4f}, {metrics['terms']}"
    if (found := metrics.get("next_click")) is not None:
        yield "next event right", f"{found['accuracy']:.2%} (Markov: {found['markov_accuracy']:.2%})"
        yield "log-loss", f"{found['log_loss']:.4f} (Markov: {found['markov_log_loss']:.4f})"

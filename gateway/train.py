"""`stockade train CASE`: joins a recipe (serving) with the screen it calibrates (defenses), strangers to each other.

Importing this module loads neither torch nor a recipe: `stockade --help` stays fast and works without the extra.
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from defenses.errors import DefenseError
from defenses.evasion.evidence import fit_evidence, measure_evidence
from gateway.arguments import whole
from serving.bundle import Bundle
from serving.errors import ServingError

__all__ = ["add_arguments", "run"]

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
WHOLE_MAX = 1_000_000
EXTRA = ("torch", "onnx", "sklearn", "matplotlib")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("case", choices=["kiosk"], help="which recipe to run")
    parser.add_argument("--bundle", type=Path, default=Path("out/bundles/kiosk/1"), help="where the bundle is written")
    parser.add_argument(
        "--signing-key",
        type=Path,
        default=Path("out/keys/bundles.key"),
        help="ECDSA P-256 private key in PEM; created when absent, its public half is written beside it",
    )
    parser.add_argument(
        "--data", type=Path, help="directory of the Fashion-MNIST idx files (default: Debian's package)"
    )
    parser.add_argument("--checkpoint", type=Path, help="resume from this file, and write it after each epoch")
    parser.add_argument("--plots", type=Path, help="directory for curves, confusion, reliability and energies as PNG")
    parser.add_argument("--samples", type=Path, help="also write 1,000 balanced test images to this file")
    parser.add_argument("--epochs", type=whole(1, WHOLE_MAX), help="instead of the recipe's number")
    parser.add_argument("--seed", type=whole(0, WHOLE_MAX), default=0, help="decides the splits and the weights")
    parser.add_argument("--smoke", action="store_true", help="the whole recipe on a tenth of the data, in seconds")


def run(args: argparse.Namespace) -> int:
    """Run the recipe; 0 when a bundle was signed, 1 when the recipe refused, 2 when the extra is missing."""
    console = Console(stderr=True)
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        console.print(f"training needs {', '.join(missing)}: pip install 'stockade\\[train]'", soft_wrap=True)
        return EXIT_USAGE
    from serving.train.errors import TrainingError  # noqa: PLC0415 - torch loads only when a recipe runs

    try:
        bundle = _train(args, console)
    except (TrainingError, ServingError, DefenseError) as error:
        console.print(f"[red]no bundle was written:[/red] {escape(str(error))}", soft_wrap=True)
        return EXIT_FAILED
    Console().print(_summary(bundle, args.bundle))
    return EXIT_OK


def _train(args: argparse.Namespace, console: Console) -> Bundle:
    from serving.train.data import load_fashion_mnist  # noqa: PLC0415 - as above
    from serving.train.kiosk import KioskSettings, ScreenFitter, smoke_settings, train_kiosk  # noqa: PLC0415
    from serving.train.samples import write_samples  # noqa: PLC0415

    settings = KioskSettings(
        bundle=args.bundle,
        signing_key=args.signing_key,
        data=args.data,
        checkpoint=args.checkpoint,
        plots=args.plots,
    )
    settings = replace(settings, loop=replace(settings.loop, seed=args.seed))
    if args.smoke:
        settings = smoke_settings(settings)
    if args.epochs is not None:
        settings = replace(settings, loop=replace(settings.loop, epochs=args.epochs))
    bundle = train_kiosk(settings, ScreenFitter(fit_evidence, measure_evidence), console)
    if args.samples is not None:
        write_samples(load_fashion_mnist(args.data), args.samples)
    return bundle


def _summary(bundle: Bundle, directory: Path) -> Table:
    metrics = bundle.manifest["metrics"]
    table = Table(title=f"{bundle.name} {bundle.version} in {directory}", show_header=False)
    table.add_row("digest", bundle.digest)
    table.add_row("test accuracy", f"{metrics['accuracy']:.2%}")
    table.add_row("CPU a row, batches of 32", f"{metrics['cost_us']['rows_32']['median']} us")
    for kind, found in metrics["foreign"].items():
        flagged = next(point for point in found["flagged"] if point["fpr_max"] == 0.01)
        low, high = flagged["interval"]
        table.add_row(f"{kind} flagged at 1 %", f"{flagged['rate']:.2%}  ({low:.2%} - {high:.2%})")
    return table

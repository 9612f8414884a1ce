"""`stockade models inspect`: does a bundle that somebody brings look as if it had a backdoor in it?

Joins the model (serving) with the searches (defenses). Nothing is written and nothing is decided here: exit 1 says that
the inspection refuses, and whoever imports the bundle acts on it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from defenses.screens.inspection import Inspection, Outcome, inspect
from gateway.tools.registry.bundles import trusted_keys
from gateway.tools.registry.registry import RegistryRefused, saying
from gateway.tools.terminal import print_json
from serving.bundles.bundle import load_bundle
from serving.engines.inprocess import InProcessEngine
from serving.registry.dataset import read_dataset
from serving.registry.measure import classes_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from serving.bundles.bundle import Bundle

EX_REFUSED = 1
IMAGE_DIMS = 3
COLOURS = {Outcome.OK: "green", Outcome.WARN: "yellow", Outcome.REFUSE: "red"}


@saying
def run_inspect(options: SimpleNamespace) -> int:
    """Inspect a bundle on labelled rows, and say what was found."""
    bundle = load_bundle(options.directory, trusted_keys(options))
    data = read_dataset(options.data, bundle, classes_of(bundle))
    progress = Console(stderr=True, quiet=options.json)
    with progress.status("asking the model"):
        found = inspected(bundle, dict(data.inputs), data.labels, seed=options.seed)
    if options.json:
        facts = {"model": bundle.name, "version": bundle.version, "digest": bundle.digest, "dataset": data.sha256}
        print_json({**facts, "seed": options.seed, **found.as_json()})
    else:
        render(found, bundle, Console(highlight=False))
    return EX_REFUSED if found.outcome is Outcome.REFUSE else 0


def inspected(bundle: Bundle, inputs: dict[str, NDArray[Any]], labels: NDArray[np.int64], *, seed: int) -> Inspection:
    """Inspect a bundle of one input, images in a declared range. Raises RegistryRefused for another."""
    spec = bundle.inputs[0]
    low, high = spec.low, spec.high
    if len(bundle.inputs) != 1 or len(spec.shape) != IMAGE_DIMS or low is None or high is None:
        raise RegistryRefused("only models of one input can be inspected: images of one channel in a declared range")
    rows = np.asarray(inputs[spec.name], np.float32)
    rng = np.random.default_rng(seed)
    return inspect(scores_of(bundle), rows, labels, low=low, high=high, rng=rng)


def scores_of(bundle: Bundle) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    """Return the model as rows to its prediction."""
    engine, name = InProcessEngine(bundle), bundle.inputs[0].name
    prediction = bundle.manifest.get("roles", {}).get("prediction", ["probabilities"])[0]
    return lambda rows: engine.infer({name: np.ascontiguousarray(rows)})[prediction]


def render(found: Inspection, bundle: Bundle, console: Console) -> None:
    """Print the outcome, each check, and each class's numbers."""
    colour = COLOURS[found.outcome]
    console.print(f"{escape(bundle.name)} version {escape(bundle.version)}: [{colour}]{found.outcome}[/{colour}]")
    table = Table(pad_edge=False, box=None)
    for column in ("check", "outcome", "class", "value", "warns at", "refuses at", "evidence"):
        table.add_column(column, overflow="fold")
    for check in found.checks:
        name = bundle.class_names[check.target] if check.target < len(bundle.class_names) else str(check.target)
        numbers = (f"{check.statistic:.2f}", f"{check.warn:g}", f"{check.refuse:g}")
        table.add_row(check.name, check.outcome, escape(name), *numbers, check.detail)
    console.print(table)
    console.print(f"accuracy {found.accuracy:.1%} of {found.rows:,} rows; {found.asked:,} rows asked", markup=False)

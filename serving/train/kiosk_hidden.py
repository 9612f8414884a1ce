"""Measure whether a product of a kind that training never saw is noticed.

`python -m serving.train.kiosk_hidden` trains the clean recipe without one class at a time and prints, as JSON, the
AUROC of each energy (test images of that class against those of the other nine) and their means over the classes with
95 % intervals (Student's t). Nothing is chosen on the hidden class: its images take part in no fit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from serving.models.kiosk import KioskNet
from serving.train.click_bench import T_QUANTILE, interval
from serving.train.data import CLASS_NAMES, Labelled, load_fashion_mnist, split
from serving.train.density import fit_classes, fit_plane
from serving.train.kiosk import PLANE_COMPONENTS
from serving.train.kiosk_module import KioskModule
from serving.train.kiosk_report import ENERGIES
from serving.train.loop import LoopSettings, middle_features, train
from serving.train.measure import as_input, ranking_area

__all__ = ["hidden_areas", "main", "without"]

Areas = dict[str, float]

BATCH_ROWS = 500
EPOCHS = 6


def without(rows: Labelled, label: int) -> Labelled:
    """Return the rows of the other classes, their labels without a gap."""
    kept = rows.take(np.flatnonzero(rows.labels != label))
    return Labelled(kept.images, np.asarray(kept.labels - (kept.labels > label), np.uint8))


def hidden_areas(train_rows: Labelled, held_out: Labelled, test: Labelled, label: int, loop: LoopSettings) -> Areas:
    """Train without a class and return the AUROC of each energy on the test rows, the class against the others."""
    known = without(train_rows, label)
    torch.manual_seed(loop.seed)
    net, _ = train(KioskNet(len(CLASS_NAMES) - 1), known, without(held_out, label), loop)
    plane = fit_plane(known.images, PLANE_COMPONENTS)
    densities = fit_classes(middle_features(net, known).double().numpy(), known.labels, len(CLASS_NAMES) - 1)
    fitted = {
        "plane.mean": plane.mean,
        "plane.components": plane.components,
        "classes.whitening": densities.whitening,
        "classes.means": densities.means,
    }
    module = KioskModule(net, {name: torch.from_numpy(value).float() for name, value in fitted.items()})
    found = _energies(module, test.images)
    hidden = test.labels == label
    return {energy: ranking_area(found[energy][~hidden], found[energy][hidden]) for energy in ENERGIES}


def _energies(module: KioskModule, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    with torch.no_grad():
        parts = [module(part) for part in torch.split(torch.from_numpy(as_input(images)), BATCH_ROWS)]
    return {energy: torch.cat([part[energy] for part in parts]).numpy() for energy in ENERGIES}


def main(words: Sequence[str] | None = None) -> int:
    """Print the areas as JSON, each class as it is known on standard error."""
    parser = argparse.ArgumentParser(description="Measure what notices a class that training never saw.")
    parser.add_argument("--data", type=Path, help="directory of the idx files (default: Debian's package)")
    parser.add_argument("--classes", type=int, choices=sorted(T_QUANTILE), default=10, help="hide the first so many")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args(words)
    data = load_fashion_mnist(options.data)
    parts = split(data.pool, 0)
    loop = replace(LoopSettings(), epochs=options.epochs)
    found: dict[str, Areas] = {}
    for label in range(options.classes):
        found[CLASS_NAMES[label]] = hidden_areas(parts.train, parts.fit, data.test, label, loop)
        sys.stderr.write(json.dumps({CLASS_NAMES[label]: found[CLASS_NAMES[label]]}) + "\n")
    means = {energy: interval([areas[energy] for areas in found.values()]) for energy in ENERGIES}
    sys.stdout.write(json.dumps({"classes": found, "means": means}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measure whether a product of a kind that training never saw is noticed.

`python -m serving.train.kiosk.hidden` trains the clean recipe without one class at a time and prints, as JSON, the
AUROC of each way to notice it (test images of that class against those of the other nine) and their means over the
classes with 95 % intervals (Student's t). The images of the hidden class take part in no fit. The ways are the bundle's
energies, and beside them:

- confidence: the top probability, downwards.
- neighbours: distance to the tenth nearest of 15,000 training latents, all scaled to length one (Sun et al. 2022, arXiv
  2204.06507).
- together: how rare `energy` and `mahalanobis` are among held-out rows of the known classes, -log of both shares summed
  (Fisher 1932).

`--calibrate` holds the ways against the calibrate split, where they may be compared without looking at the test rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from serving.engines.measure import as_input, ranking_area
from serving.train.density import fit_classes, fit_plane
from serving.train.kiosk.data import CLASS_NAMES, Labelled, load_fashion_mnist, split
from serving.train.kiosk.loop import LoopSettings, middle_features, predict, train
from serving.train.kiosk.module import KioskModule
from serving.train.kiosk.network import KioskNet
from serving.train.kiosk.recipe import PLANE_COMPONENTS
from serving.train.kiosk.report import ENERGIES
from serving.train.seeds import COUNTS, intervals

Areas = dict[str, float]

BATCH_ROWS = 500
EPOCHS = 6
NEIGHBOUR, BANK_ROWS = 10, 15_000
TOGETHER = ("energy", "mahalanobis")
WAYS = (*ENERGIES, "confidence", "neighbours", "together")


def without(rows: Labelled, label: int) -> Labelled:
    """Return the rows of the other classes, their labels without a gap."""
    kept = rows.take(np.flatnonzero(rows.labels != label))
    return Labelled(kept.images, np.asarray(kept.labels - (kept.labels > label), np.uint8))


def hidden_areas(train_rows: Labelled, held_out: Labelled, test: Labelled, label: int, loop: LoopSettings) -> Areas:
    """Train without a class and return the AUROC of each of WAYS on the test rows, the class against the others."""
    known, apart = without(train_rows, label), without(held_out, label)
    torch.manual_seed(loop.seed)
    net, _ = train(KioskNet(len(CLASS_NAMES) - 1), known, apart, loop)
    plane = fit_plane(known.images, PLANE_COMPONENTS)
    densities = fit_classes(middle_features(net, known).double().numpy(), known.labels, len(CLASS_NAMES) - 1)
    fitted = {
        "plane.mean": plane.mean,
        "plane.components": plane.components,
        "classes.whitening": densities.whitening,
        "classes.means": densities.means,
    }
    module = KioskModule(net, {name: torch.from_numpy(value).float() for name, value in fitted.items()})
    bank = np.random.default_rng([loop.seed, label]).permutation(len(known))[:BANK_ROWS]
    found = _scores(module, test.images, _unit(predict(net, known.take(bank))[0]))
    usual = _outputs(module, apart.images)
    found["together"] = np.sum([_rarity(usual[name].numpy(), found[name]) for name in TOGETHER], axis=0)
    hidden = test.labels == label
    return {way: ranking_area(found[way][~hidden], found[way][hidden]) for way in WAYS}


def _scores(module: KioskModule, images: NDArray[np.uint8], bank: Tensor) -> dict[str, NDArray[Any]]:
    """Return every way but `together`, (n,) each, high where a row is strange. `bank`: latents of length one."""
    outputs = _outputs(module, images)
    found = {energy: outputs[energy].numpy() for energy in ENERGIES}
    found["confidence"] = -outputs["probabilities"].amax(1).numpy()
    latents = torch.split(_unit(outputs["latent"]), BATCH_ROWS)
    nearest = [torch.cdist(part, bank).topk(min(NEIGHBOUR, len(bank)), largest=False).values[:, -1] for part in latents]
    found["neighbours"] = torch.cat(nearest).numpy()
    return found


def _outputs(module: KioskModule, images: NDArray[np.uint8]) -> dict[str, Tensor]:
    with torch.no_grad():
        parts = [module(part) for part in torch.split(torch.from_numpy(as_input(images)), BATCH_ROWS)]
    return {name: torch.cat([part[name] for part in parts]) for name in (*ENERGIES, "probabilities", "latent")}


def _unit(latents: Tensor) -> Tensor:
    return functional.normalize(latents, dim=1)


def _rarity(usual: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.float64]:
    """Return -log of the share of usual scores that are as high, with a trace of the score: it orders the rarest."""
    above = len(usual) - np.searchsorted(np.sort(usual), scores)
    return -np.log((above + 1) / (len(usual) + 1)) + 1e-6 * scores.astype(np.float64)


def main(words: Sequence[str] | None = None) -> int:
    """Print the areas as JSON, each class as it is known on standard error."""
    parser = argparse.ArgumentParser(description="Measure what notices a class that training never saw.")
    parser.add_argument("--data", type=Path, help="directory of the idx files (default: Debian's package)")
    parser.add_argument("--classes", type=int, choices=COUNTS, default=10, help="hide the first so many")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--calibrate", action="store_true", help="hold them against the calibrate split, for choosing")
    options = parser.parse_args(words)
    data = load_fashion_mnist(options.data)
    parts = split(data.pool, 0)
    measuring = parts.calibrate if options.calibrate else data.test
    loop = replace(LoopSettings(), epochs=options.epochs)
    found: dict[str, Areas] = {}
    for label in range(options.classes):
        found[CLASS_NAMES[label]] = hidden_areas(parts.train, parts.fit, measuring, label, loop)
        sys.stderr.write(json.dumps({CLASS_NAMES[label]: found[CLASS_NAMES[label]]}) + "\n")
    sys.stdout.write(json.dumps({"classes": found, "means": intervals(list(found.values()))}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measure what pretraining is worth where labels are few: Fashion-MNIST, 60 labels of each class.

`python -m serving.train.kiosk.few_bench` pretrains once (or takes `--encoder FILE`, a checkpoint) where a way needs it,
then teaches by subset of labels and way, and prints test accuracies as JSON with 95 % intervals over the subsets
(Student's t):

- probe: a logistic regression on the frozen latent.
- supervised: the same network from scratch, on the labels alone. What the others are held against.
- fine_tuned: from the pretrained encoder, on the labels alone.
- taught_from_scratch: from scratch, with the unlabelled images' own answers.
- taught: from the pretrained encoder, with them.
- scattered: no network; kernel ridge regression on scattering's components (`kiosk_scattered`).

The unlabelled images are the recipe's train split. Settings can be chosen on the fit split (`--fit`); the test images
only measure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from serving.train.kiosk.data import CLASS_NAMES, Labelled, load_fashion_mnist, split
from serving.train.kiosk.few import FewSettings, few_labels, train_few
from serving.train.kiosk.loop import predict
from serving.train.kiosk.network import KioskNet
from serving.train.kiosk.pretrain import FEW_STAGES, PretrainSettings, pretrain
from serving.train.kiosk.report import digest_of
from serving.train.kiosk.scattered import ScatteredSettings, learn_components, taught
from serving.train.seeds import COUNTS, interval

PER_CLASS = 60
PROBE_STRENGTH = 0.1
SCATTERED_ROWS = 16_000
PRETRAINING = PretrainSettings()
ENCODED = ("probe", "fine_tuned", "taught")
WAYS = (*ENCODED, "supervised", "taught_from_scratch", "scattered")

Measure = Callable[[Labelled, int], float]
"""Labelled rows and the number of their subset to the share of the test rows that is right."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What the networks have in common: the encoder, the images without labels, and what measures."""

    encoder: KioskNet
    unlabelled: torch.Tensor
    test: Labelled
    settings: FewSettings


def without_encoder(train: Labelled, test: Labelled, settings: FewSettings) -> Bench:
    """Return a bench whose encoder has learned nothing, for ways that need none."""
    return Bench(KioskNet(len(CLASS_NAMES), FEW_STAGES), torch.from_numpy(train.images.copy()), test, settings)


def measured(bench: Bench, way: str, labelled: Labelled, seed: int) -> float:
    """Return the share of the test rows that a network taught in this way gets right."""
    if way == "probe":
        known, unknown = (predict(bench.encoder, rows)[0].numpy() for rows in (labelled, bench.test))
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=PROBE_STRENGTH, max_iter=1_000))
        return float((fitted.fit(known, labelled.labels).predict(unknown) == bench.test.labels).mean())
    torch.manual_seed(seed)
    net = KioskNet(len(CLASS_NAMES), FEW_STAGES)
    if way in {"fine_tuned", "taught"}:
        encoder = {name: value for name, value in bench.encoder.state_dict().items() if not name.startswith("head.")}
        net.load_state_dict(encoder, strict=False)
    settings = replace(bench.settings, seed=seed)
    if way in {"supervised", "fine_tuned"}:
        settings = replace(settings, unlabelled_rows=0)
    logits = predict(train_few(net, labelled, bench.unlabelled, settings), bench.test)[1]
    return float((logits.argmax(1).numpy() == bench.test.labels).mean())


def scattered(bench: Bench) -> Measure:
    """Return what measures the way without a network; its seed decides nothing."""
    settings = ScatteredSettings()
    components = learn_components(bench.unlabelled[:SCATTERED_ROWS].numpy(), settings)
    places = components(bench.test.images)

    def measure(labelled: Labelled, _seed: int) -> float:
        return float((taught(components, labelled, settings)(places).argmax(1) == bench.test.labels).mean())

    return measure


def measures(bench: Bench, ways: Sequence[str]) -> dict[str, Measure]:
    """Return what measures each of these ways."""
    return {way: scattered(bench) if way == "scattered" else partial(measured, bench, way) for way in ways}


def main(words: Sequence[str] | None = None) -> int:
    """Print the figures as JSON, each as it is known on standard error."""
    parser = argparse.ArgumentParser(description="Measure the kiosk with few labels, over subsets of them.")
    parser.add_argument("--data", type=Path, help="directory of the idx files (default: Debian's package)")
    parser.add_argument("--encoder", type=Path, help="checkpoint of the pretraining: resumed, and written")
    parser.add_argument("--subsets", type=int, choices=COUNTS, default=5)
    parser.add_argument("--first", type=int, default=0, help="number of the first subset")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", type=int, help="of teaching, instead of the recipe's number")
    parser.add_argument("--epochs", type=int, help="of pretraining, instead of the recipe's number")
    parser.add_argument("--fit", action="store_true", help="measure on the fit split: for choosing settings")
    options = parser.parse_args(words)
    data = load_fashion_mnist(options.data)
    parts = split(data.pool, 0)
    images = torch.from_numpy(parts.train.images.copy())
    pretraining = replace(PRETRAINING, **({"epochs": options.epochs} if options.epochs else {}))
    torch.manual_seed(pretraining.seed)
    encoder, label_free_loss = KioskNet(len(CLASS_NAMES), FEW_STAGES), None
    if set(ENCODED) & set(options.ways):
        digest = digest_of([data.digests, len(parts.train)])
        encoder, history = pretrain(
            encoder, images, pretraining, checkpoint=options.encoder, data_digest=digest, on_step=_told
        )
        label_free_loss = history[-1].loss
    settings = replace(FewSettings(), **({"steps": options.steps} if options.steps else {}))
    ways = measures(Bench(encoder, images, parts.fit if options.fit else data.test, settings), options.ways)
    found: dict[str, list[float]] = {way: [] for way in ways}
    for subset in range(options.first, options.first + options.subsets):
        labelled = few_labels(parts.train, PER_CLASS, subset)
        for way, measure in ways.items():
            found[way].append(measure(labelled, subset))
            sys.stderr.write(f"subset {subset}, {way}: {found[way][-1]:.4f}\n")
    report: dict[str, Any] = {way: interval(values) for way, values in found.items()}
    report["label_free_loss"] = label_free_loss
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0


def _told(done: int, total: int, every: int = 100) -> None:
    if done % every == 0:
        sys.stderr.write(f"pretraining: step {done} of {total}\n")


if __name__ == "__main__":
    sys.exit(main())

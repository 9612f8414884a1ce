"""The pictures of a payments run: curves, every term, reliability, energies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from serving.train.payments.data import Applications
from serving.train.payments.report import TrainedPayments
from serving.train.plots import INSIDE, OUTSIDE, draw_calibration, draw_energies, save
from serving.train.screen import Outputs

COLUMNS = 4


def draw_all(
    directory: Path,
    trained: TrainedPayments,
    test: Applications,
    outputs: Outputs,
    *,
    strange: Mapping[str, Outputs],
    metrics: Mapping[str, Any],
) -> None:
    """Write the four pictures."""
    _draw_curves(trained, directory / "payments-curves.png")
    _draw_terms(trained, directory / "payments-terms.png")
    error = metrics["calibration_error"]
    draw_calibration(
        outputs["probabilities"], test.labels, error, directory / "payments-reliability.png", "test applications"
    )
    draw_energies(outputs, strange, directory / "payments-energies.png", "test applications")


def _draw_curves(trained: TrainedPayments, path: Path) -> None:
    """Log loss down the path on which terms are chosen, and the error of masked features by epoch."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    points = trained.model.path
    places = range(1, len(points) + 1)
    left.plot(places, [point.loss for point in points], color=OUTSIDE[0], label="fitted rows")
    left.plot(places, [point.held_out_loss for point in points], color=INSIDE, label="held out")
    for place, point in zip(places, points, strict=True):
        left.annotate(str(point.terms), (place, point.held_out_loss), fontsize=8, va="bottom")
    left.set(xlabel="point of the path", ylabel="log loss", title="Choosing terms (how many are in)")
    left.legend(frameon=False)
    epochs = [epoch.epoch for epoch in trained.surprise.history]
    right.plot(epochs, [epoch.loss for epoch in trained.surprise.history], color=OUTSIDE[0], label="train")
    right.plot(epochs, [epoch.held_out_loss for epoch in trained.surprise.history], color=INSIDE, label="held out")
    right.set(xlabel="epoch", ylabel="squared error", title="Masked features")
    right.legend(frameon=False)
    save(figure, path)


def _draw_terms(trained: TrainedPayments, path: Path) -> None:
    """Every term: what each value adds to the logit of bad."""
    terms = trained.model.terms
    levels = {feature.name: feature.levels for feature in trained.schema.features}
    rows = -(-len(terms) // COLUMNS)
    figure = Figure(figsize=(12, 2.7 * rows), layout="constrained")
    for axes, term in zip(figure.subplots(rows, COLUMNS, squeeze=False).flat, terms, strict=False):
        heights = term.start + np.concatenate([[0.0], np.cumsum(term.steps)])
        axes.axhline(0, color="black", linewidth=0.6)
        if names := levels.get(term.source):
            axes.bar(range(len(names)), heights, color=INSIDE)
            axes.set_xticks(range(len(names)), names, rotation=30, fontsize=8)
        else:
            axes.plot(term.knots, heights, color=INSIDE, marker=".")
        if term.missing:
            axes.axhline(term.missing, color=OUTSIDE[0], linestyle=":", linewidth=1, label="missing")
            axes.legend(frameon=False, fontsize=8)
        axes.set_title(term.source, fontsize=10)
    figure.supylabel("added to the logit of bad", fontsize=10)
    for axes in list(figure.axes)[len(terms) :]:
        axes.set_axis_off()
    save(figure, path)

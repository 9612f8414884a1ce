"""The pictures of a training run, as PNG files for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from serving.train.clickstream.loop import ClickEpoch
from serving.train.kiosk.loop import EpochReport
from serving.train.kiosk.robust import RobustEpoch
from serving.train.payments.additive import PathPoint, Term
from serving.train.payments.masked import MaskedEpoch
from serving.train.report import ENERGIES, Outputs

DPI = 110
BINS = 60
COLUMNS = 4
# Okabe and Ito's palette, told apart by every reader.
INSIDE = "#0072B2"
OUTSIDE = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def draw_curves(history: Sequence[EpochReport] | Sequence[RobustEpoch], test_accuracy: float, path: Path) -> None:
    """Loss and accuracy by epoch; under attack too, where the recipe measures it."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [report.epoch for report in history]
    left.plot(epochs, [report.loss for report in history], color=INSIDE)
    left.set(xlabel="epoch", ylabel="nats", title="Training loss")
    right.plot(epochs, [100 * report.train_accuracy for report in history], color=OUTSIDE[0], label="train, augmented")
    right.plot(epochs, [100 * report.held_out_accuracy for report in history], color=INSIDE, label="held out, averaged")
    robust = [100 * report.held_out_robust_accuracy for report in history if isinstance(report, RobustEpoch)]
    if robust:
        right.plot(epochs, robust, color=OUTSIDE[1], label="held out, averaged, attacked")
    right.axhline(100 * test_accuracy, color="black", linewidth=0.8, linestyle=":", label=f"test {test_accuracy:.2%}")
    right.set(xlabel="epoch", ylabel="accuracy (%)", title="Accuracy")
    right.legend(frameon=False)
    _save(figure, path)


def draw_click_curves(history: Sequence[ClickEpoch], path: Path) -> None:
    """Held-out log-loss and latent error by epoch."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [report.epoch for report in history]
    left.plot(epochs, [report.loss for report in history], color=OUTSIDE[0], label="train, whole loss")
    left.plot(epochs, [report.held_out_loss for report in history], color=INSIDE, label="held out, log-loss")
    left.set(xlabel="epoch", ylabel="nats", title="Next event")
    left.legend(frameon=False)
    right.plot(epochs, [report.latent_error for report in history], color=INSIDE, label="squared error")
    right.plot(epochs, [report.sigreg for report in history], color=OUTSIDE[1], label="SIGReg")
    right.set(xlabel="epoch", yscale="log", title="Latent prediction")
    right.legend(frameon=False)
    _save(figure, path)


def draw_confusion(counts: NDArray[np.int64], class_names: Sequence[str], path: Path) -> None:
    """Counts of test rows, true class down, predicted class across."""
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    axes: Axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(class_names)), class_names, rotation=45, ha="right")
    axes.set_yticks(range(len(class_names)), class_names)
    axes.set(xlabel="predicted", ylabel="true", title="Test images by true and predicted class")
    _save(figure, path)


def draw_outputs(
    stem: Path, rows: str, labels: NDArray[Any], error: float, *, test: Outputs, strange: Mapping[str, Outputs]
) -> None:
    """Reliability (`error` is the calibration error) and energies of test rows, which are called `rows`."""
    _draw_reliability(test["probabilities"], labels, error, rows, stem.with_name(f"{stem.name}-reliability.png"))
    _draw_energies(test, strange, rows, stem.with_name(f"{stem.name}-energies.png"))


def _draw_reliability(probabilities: NDArray[Any], labels: NDArray[Any], error: float, rows: str, path: Path) -> None:
    """How often the prediction is right, by the probability it is given."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, 16)
    index = np.minimum((confidence * 15).astype(int), 14)
    filled = [b for b in range(15) if np.any(index == b)]
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes: Axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    heights = [right[index == b].mean() for b in filled]
    axes.bar(edges[filled], heights, width=1 / 15, align="edge", color=INSIDE, edgecolor="white")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the prediction", ylabel="share right")
    axes.set_title(f"Reliability on {rows} (ECE {100 * error:.2f} %)")
    _save(figure, path)


def _draw_energies(inside: Outputs, foreign: Mapping[str, Outputs], rows: str, path: Path) -> None:
    """Histograms of the three energies, test rows against every foreign kind."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for axes, energy in zip(figure.subplots(1, 3), ENERGIES, strict=True):
        everything = np.concatenate([inside[energy], *(outputs[energy] for outputs in foreign.values())])
        low, high = np.percentile(everything, [0.1, 99.5])
        bins = np.linspace(low, high, BINS)
        axes.hist(np.clip(inside[energy], low, high), bins, density=True, color=INSIDE, alpha=0.5, label=rows)
        for colour, (kind, outputs) in zip(OUTSIDE, foreign.items(), strict=False):
            values = np.clip(outputs[energy], low, high)
            axes.hist(values, bins, density=True, histtype="step", linewidth=1.4, color=colour, label=kind)
        axes.set(xlabel=energy, yscale="log", title=energy)
    figure.axes[0].set_ylabel("density")
    figure.axes[0].legend(loc="upper right", frameon=False, fontsize=8)  # matplotlib would look for the best place
    _save(figure, path)


def draw_choice(points: Sequence[PathPoint], history: Sequence[MaskedEpoch], path: Path) -> None:
    """Log loss down the path on which terms are chosen, and the error of masked features by epoch."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = range(1, len(points) + 1)
    left.plot(places, [point.loss for point in points], color=OUTSIDE[0], label="fitted rows")
    left.plot(places, [point.held_out_loss for point in points], color=INSIDE, label="held out")
    for place, point in zip(places, points, strict=True):
        left.annotate(str(point.terms), (place, point.held_out_loss), fontsize=8, va="bottom")
    left.set(xlabel="point of the path", ylabel="log loss", title="Choosing terms (how many are in)")
    left.legend(frameon=False)
    epochs = [epoch.epoch for epoch in history]
    right.plot(epochs, [epoch.loss for epoch in history], color=OUTSIDE[0], label="train")
    right.plot(epochs, [epoch.held_out_loss for epoch in history], color=INSIDE, label="held out")
    right.set(xlabel="epoch", ylabel="squared error", title="Masked features")
    right.legend(frameon=False)
    _save(figure, path)


def draw_terms(terms: Sequence[Term], levels: Mapping[str, Sequence[str]], path: Path) -> None:
    """What each value of each term adds to the logit of bad; `levels` of the categories, by name."""
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
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})

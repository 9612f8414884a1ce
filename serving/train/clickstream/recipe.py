"""The clickstream recipe: a shop's events to a signed bundle, in one function.

The bundle's screen is fitted by a callable that is handed in, because serving knows models and nothing of screens.
Every split has one use: `train` the weights, the prior and the density, `fit` early stopping and the screen's tails,
`calibrate` the conformal threshold, `test` (later sessions) the published figures and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from serving.bundles.bundle import Bundle
from serving.train import plots
from serving.train.card import write_card
from serving.train.clickstream.ecom import (
    EVENTS,
    FIRST_EVENT,
    IDS,
    LENGTH,
    Clicks,
    Ecom,
    EcomSplits,
    load_ecom,
    sessions_of,
    split_ecom,
    strange_sequences,
)
from serving.train.clickstream.graph import write_click_graph
from serving.train.clickstream.loop import ClickSettings, predict_clicks, train_clicks
from serving.train.clickstream.network import ClickNet, ClickShape
from serving.train.clickstream.report import (
    USUAL,
    ClickGates,
    TrainedClicks,
    click_gates,
    click_lineage,
    click_metrics,
    click_signature,
    click_training,
)
from serving.train.density import fit_gaussian
from serving.train.pack import open_signing_key, write_trained
from serving.train.report import ScreenFitter, digest_of, measure_model
from serving.train.run import arrays_of, doubles_of, show_steps

PRIOR_COUNT = 0.5


@dataclass(frozen=True, slots=True)
class ClickstreamSettings:
    """Paths and sizes of a run; `rows_max` cuts the rows that are measured in a smoke run."""

    bundle: Path
    signing_key: Path
    data: Path | None = None
    checkpoint: Path | None = None
    plots: Path | None = None
    loop: ClickSettings = field(default_factory=ClickSettings)
    gates: ClickGates = field(default_factory=ClickGates)
    smoke: bool = False
    rows_max: int | None = None


def smoke_clicks(settings: ClickstreamSettings) -> ClickstreamSettings:
    """The same recipe in seconds: two epochs, few directions, and gates that only show that it learned something."""
    loop = replace(settings.loop, epochs=2, directions=8)
    gates = ClickGates(gain_min=-2.0, latent_rank_min=1.0, false_alarms_max=0.05)
    return replace(settings, loop=loop, gates=gates, smoke=True, rows_max=500)


def train_clickstream(settings: ClickstreamSettings, screen: ScreenFitter, console: Console) -> Bundle:
    """Train, measure, calibrate, gate, sign and write the bundle; return it as it was verified.

    Raises:
        TrainingError: the data, the key, the checkpoint or a gate; nothing has been written in place of a bundle.
    """
    key = open_signing_key(settings.signing_key)
    data = load_ecom(settings.data)
    parts = split_ecom(data, settings.loop.seed)
    parts = replace(parts, test=parts.test.take(np.arange(len(parts.test))[: settings.rows_max]))
    model = _fit(parts, settings, data.sha256, console)
    signature = click_signature(model.net)
    with console.status("measuring"):
        measurement = measure_model(
            signature,
            model.graph,
            screen,
            fit=parts.fit.ids,
            calibrate=parts.calibrate.ids,
            test=parts.test.ids,
            strange=strange_sequences(parts.test.ids, settings.loop.seed),
            usual=USUAL,
        )
        metrics = click_metrics(model, parts.test, measurement)
    manifest = signature.manifest(
        data=click_lineage(data, parts, settings.loop.seed),
        training=click_training(model, settings.loop, smoke=settings.smoke),
        metrics=metrics,
        evidence=measurement.evidence,
        gates=click_gates(settings.gates, metrics),
    )
    if settings.plots is not None:
        stem, error = settings.plots / "clickstream", metrics["next_click"]["calibration_error"]
        plots.draw_click_curves(model.history, settings.plots / "clickstream-curves.png")
        plots.draw_outputs(
            stem, "test events", parts.test.labels, error, test=measurement.test, strange=measurement.strange
        )
    return write_trained(
        settings.bundle,
        manifest,
        graph=model.graph,
        weights=_weights(model),
        calibration=measurement.calibration,
        card=write_card(manifest),
        key=key,
        public=settings.signing_key.with_suffix(".pub"),
    )


def markov_log_prior(train: Clicks) -> NDArray[np.float64]:
    """Return the log-probability of each event given the id before it, (IDS, classes), counted on the train rows."""
    counts = np.full((IDS, len(EVENTS)), PRIOR_COUNT)
    np.add.at(counts, (train.ids[:, -1], train.labels), 1)
    return np.asarray(np.log(counts / counts.sum(1, keepdims=True)))


def compare_clicks(data: Ecom, loop: ClickSettings) -> dict[str, float]:
    """Train, and return accuracy and log-loss on the test rows: the model's, Markov's, and the most popular event's."""
    parts = split_ecom(data, loop.seed)
    prior, labels = markov_log_prior(parts.train), parts.test.labels
    torch.manual_seed(loop.seed)
    net = ClickNet(ClickShape(IDS, FIRST_EVENT), torch.from_numpy(prior).float())
    best = train_clicks(net, sessions_of(parts.train), parts.fit, loop)[0]
    counts = np.bincount(parts.train.labels, minlength=len(EVENTS)) + 0.5
    scores = {
        "model": predict_clicks(best, parts.test)[2].log_softmax(1).double().numpy(),
        "markov": prior[parts.test.ids[:, -1]],
        "popular": np.broadcast_to(np.log(counts / counts.sum()), (len(labels), len(EVENTS))),
    }
    own = np.arange(len(labels))
    accuracies = {f"{name}_accuracy": float((values.argmax(1) == labels).mean()) for name, values in scores.items()}
    return accuracies | {f"{name}_log_loss": float(-values[own, labels].mean()) for name, values in scores.items()}


def _fit(parts: EcomSplits, settings: ClickstreamSettings, data_digest: str, console: Console) -> TrainedClicks:
    prior = torch.from_numpy(markov_log_prior(parts.train)).float()
    shape = ClickShape(IDS, FIRST_EVENT)
    with torch.random.fork_rng():
        torch.manual_seed(settings.loop.seed)
        net = ClickNet(shape, prior)
    with show_steps(console) as show:
        best, history = train_clicks(
            net,
            sessions_of(parts.train),
            parts.fit,
            settings.loop,
            checkpoint=settings.checkpoint,
            data_digest=digest_of([data_digest, len(parts.train), len(parts.fit)]),
            on_step=show("training"),
        )
    density = fit_gaussian(predict_clicks(best, parts.train)[0].double().numpy())
    return TrainedClicks(best, history, density, write_click_graph(doubles_of(best), shape, density, LENGTH))


def _weights(model: TrainedClicks) -> dict[str, NDArray[np.float32]]:
    """Return the averaged network and the density: what another recipe would go on from."""
    density = {"density.whitening": model.density.whitening, "density.mean": model.density.mean}
    return arrays_of(model.net) | {name: value.astype(np.float32) for name, value in density.items()}

"""The payments recipe: loan applications to a signed bundle, in one function.

What decides (an additive model of few terms) and what only screens (the error of masked features, and two densities)
share a graph and nothing else: the decision learns from train and calibrate, the energies from train. The tails of the
screen are fitted to energies of rows of train as models saw them that had not learned from them (cross-fitting); they
shape the score and promise nothing. The promise is made on calibrate, and checked on test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from rich.console import Console

from serving.bundles.bundle import Bundle
from serving.engines import measure
from serving.engines.inprocess import InProcessEngine
from serving.train.errors import GateFailed
from serving.train.pack import open_signing_key, write_trained
from serving.train.payments import plots as payments_plots
from serving.train.payments import report as payments_report
from serving.train.payments.additive import AdditiveModel, AdditiveSettings, fit_additive
from serving.train.payments.card import write_payments_card
from serving.train.payments.data import LICENCE, SOURCE, Applications, Parts, load_applications, split
from serving.train.payments.graph import write_payments_graph
from serving.train.payments.masked import MaskedSettings, Surprise, fit_surprise
from serving.train.payments.report import INPUT, PaymentsGates, TrainedPayments
from serving.train.payments.schema import CREDIT_DATA, Schema
from serving.train.payments.sources import clean, sources_of
from serving.train.payments.strange import strange_applications
from serving.train.progress import OnStep, shown_steps
from serving.train.screen import Outputs, ScreenFitter

FOLDS = 3


@dataclass(frozen=True, slots=True)
class PaymentsSettings:
    """Paths and sizes of a run. `other_data`: the table need not be the published one. The seed decides the splits."""

    bundle: Path
    signing_key: Path
    schema: Schema = CREDIT_DATA
    data: Path | None = None
    other_data: bool = False
    plots: Path | None = None
    seed: int = 0
    decision: AdditiveSettings = field(default_factory=AdditiveSettings)
    masked: MaskedSettings = field(default_factory=MaskedSettings)
    gates: PaymentsGates = field(default_factory=PaymentsGates)
    smoke: bool = False


def smoke_payments(settings: PaymentsSettings) -> PaymentsSettings:
    """The same recipe in seconds: a few epochs, and gates that only show that something was learned."""
    masked = replace(settings.masked, epochs=2)
    decision = replace(settings.decision, smooth=(10.0,), path_points=20)
    gates = replace(settings.gates, auc_min=0.6, calibration_error_max=0.15)
    return replace(settings, masked=masked, decision=decision, gates=gates, smoke=True)


def train_payments(settings: PaymentsSettings, screen: ScreenFitter, console: Console) -> Bundle:
    """Train, measure, calibrate, gate, sign and write the bundle; return it as it was verified.

    Raises:
        TrainingError: the data, the key or a gate; nothing has been written in place of a bundle.
    """
    key = open_signing_key(settings.signing_key)
    data = load_applications(settings.schema, settings.data, other=settings.other_data)
    parts = split(data.labels, settings.seed)
    with shown_steps(console) as shown:
        model, crossed = _fit(data, parts, settings, shown)
    engine = InProcessEngine(payments_report.draft(model))
    with console.status("measuring"):
        outputs = {
            "calibrate": measure.evaluate(engine, data.features[parts.calibrate], name=INPUT),
            "test": measure.evaluate(engine, data.features[parts.test], name=INPUT),
        }
        test = data.take(parts.test)
        strange = {
            kind: measure.evaluate(engine, rows, name=INPUT)
            for kind, rows in strange_applications(settings.schema, test.features, settings.seed).items()
        }
        calibration, report = screen.fit(crossed, outputs["calibrate"], outputs["test"])
        metrics = payments_report.metrics_of(model, engine, test, outputs["test"])
        metrics["foreign"] = payments_report.strange_metrics(
            lambda seen: screen.measure(calibration, seen), outputs["test"], strange
        )
    manifest = payments_report.manifest_of(
        model,
        payments_report.Run(settings.seed, settings.decision, settings.masked, settings.gates, smoke=settings.smoke),
        data=data,
        parts=parts,
        metrics=metrics,
        report=report,
    )
    if settings.plots is not None:
        payments_plots.draw_all(settings.plots, model, test, outputs["test"], strange=strange, metrics=metrics)
    return write_trained(
        settings.bundle,
        manifest,
        graph=model.graph,
        weights=payments_report.weights_of(model),
        calibration=calibration,
        card=write_payments_card(manifest),
        key=key,
        public=settings.signing_key.with_suffix(".pub"),
    )


def write_test_rows(settings: PaymentsSettings, path: Path) -> None:
    """Write the test rows of a run: features float32 (rows, d), labels uint8 (rows,), test_rows int32: their places."""
    data = load_applications(settings.schema, settings.data, other=settings.other_data)
    rows = split(data.labels, settings.seed).test
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, NDArray[Any]] = {
        INPUT: data.features[rows],
        "labels": data.labels[rows],
        "test_rows": rows.astype(np.int32),
    }
    licence = f"{LICENCE}; rows of {settings.schema.table} of {SOURCE}" if data.published else "unknown"
    path.write_bytes(safetensors.numpy.save(tensors, {"licence": licence}))


def decide(
    schema: Schema,
    data: Applications,
    rows: NDArray[np.intp],
    settings: AdditiveSettings,
    on_step: Callable[[int, int], None] | None = None,
) -> AdditiveModel:
    """Fit what decides to these rows.

    Raises:
        GateFailed: nothing in them tells good from bad.
    """
    sources = sources_of(data.features[rows], schema)
    model = fit_additive(sources, schema.candidates, data.labels[rows], settings, on_step)
    if not model.terms:
        raise GateFailed("terms_min", 0.0, 1.0)
    return model


def _fit(
    data: Applications, parts: Parts, settings: PaymentsSettings, shown: Callable[[str], OnStep]
) -> tuple[TrainedPayments, Outputs]:
    """Return the model, and the energies of the rows of train as cross-fitted models give them."""
    schema = settings.schema
    decision = replace(settings.decision, seed=settings.seed)
    model = decide(schema, data, parts.learn, decision, shown("choosing terms"))
    values = clean(data.features, schema)
    levels = [len(feature.levels) for feature in schema.features]
    masked = replace(settings.masked, seed=settings.seed)
    surprise = fit_surprise(values[parts.train], levels, masked, shown("masked features"))
    trained = TrainedPayments(schema, model, surprise, write_payments_graph(schema, model, surprise))
    order = np.random.default_rng([settings.seed, 0xF01D]).permutation(parts.train)
    crossed = []
    for number, held_out in enumerate(np.array_split(order, FOLDS)):
        rest = np.setdiff1d(order, held_out)
        fold = fit_surprise(values[rest], levels, masked, shown(f"cross-fitting {number + 1} of {FOLDS}"))
        crossed.append(_energies(schema, model, fold, data.features[held_out]))
    return trained, {name: np.concatenate([part[name] for part in crossed]) for name in payments_report.ENERGIES}


def _energies(schema: Schema, model: AdditiveModel, surprise: Surprise, rows: NDArray[np.float32]) -> Outputs:
    graph = write_payments_graph(schema, model, surprise)
    engine = InProcessEngine(payments_report.draft(TrainedPayments(schema, model, surprise, graph)))
    return measure.evaluate(engine, rows, name=INPUT)

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
from numpy.typing import NDArray
from rich.console import Console

from serving.bundles.bundle import Bundle
from serving.train import plots
from serving.train.card import write_card
from serving.train.errors import GateFailed
from serving.train.pack import open_signing_key, write_rows, write_trained
from serving.train.payments.additive import AdditiveModel, AdditiveSettings, fit_additive
from serving.train.payments.data import (
    LICENCE,
    SOURCE,
    Applications,
    Parts,
    clean,
    load_applications,
    sources_of,
    split,
    strange_applications,
)
from serving.train.payments.graph import write_payments_graph
from serving.train.payments.masked import MaskedSettings, Surprise, fit_surprise
from serving.train.payments.report import (
    INPUT,
    USUAL,
    PaymentsGates,
    TrainedPayments,
    gates_of,
    lineage_of,
    metrics_of,
    reasons_of,
    signature_of,
    training_of,
    weights_of,
)
from serving.train.payments.schema import CREDIT_DATA, Schema
from serving.train.report import ENERGIES, Outputs, ScreenFitter, measure_model
from serving.train.run import OnStep, show_steps

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
    with show_steps(console) as show:
        model, crossed = _fit(data, parts, settings, show)
    signature, test = signature_of(model), data.take(parts.test)
    with console.status("measuring"):
        measurement = measure_model(
            signature,
            model.graph,
            screen,
            fit=crossed,
            calibrate=data.features[parts.calibrate],
            test=test.features,
            strange=strange_applications(settings.schema, test.features, settings.seed),
            usual=USUAL,
        )
        metrics = metrics_of(model, test, measurement)
    manifest = signature.manifest(
        data=lineage_of(model.schema, data, parts),
        training=training_of(
            model, seed=settings.seed, decision=settings.decision, masked=settings.masked, smoke=settings.smoke
        ),
        metrics=metrics,
        evidence=measurement.evidence,
        gates=gates_of(settings.gates, metrics),
    ) | {"reasons": reasons_of(model)}
    if settings.plots is not None:
        levels = {feature.name: feature.levels for feature in settings.schema.features}
        stem, error = settings.plots / "payments", metrics["calibration_error"]
        plots.draw_choice(model.model.path, model.surprise.history, settings.plots / "payments-curves.png")
        plots.draw_terms(model.model.terms, levels, settings.plots / "payments-terms.png")
        plots.draw_outputs(
            stem, "test applications", test.labels, error, test=measurement.test, strange=measurement.strange
        )
    return write_trained(
        settings.bundle,
        manifest,
        graph=model.graph,
        weights=weights_of(model),
        calibration=measurement.calibration,
        card=write_card(manifest),
        key=key,
        public=settings.signing_key.with_suffix(".pub"),
    )


def write_test_rows(settings: PaymentsSettings, path: Path) -> None:
    """Write the test rows of a run: features float32 (rows, d), labels uint8 (rows,), test_rows int32: their places."""
    data = load_applications(settings.schema, settings.data, other=settings.other_data)
    rows = split(data.labels, settings.seed).test
    tensors: dict[str, NDArray[Any]] = {
        INPUT: data.features[rows],
        "labels": data.labels[rows],
        "test_rows": rows.astype(np.int32),
    }
    write_rows(
        path, tensors, f"{LICENCE}; rows of {settings.schema.table} of {SOURCE}" if data.published else "unknown"
    )


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
    data: Applications, parts: Parts, settings: PaymentsSettings, show: Callable[[str], OnStep]
) -> tuple[TrainedPayments, Outputs]:
    """Return the model, and the energies of the rows of train as cross-fitted models give them."""
    schema = settings.schema
    decision = replace(settings.decision, seed=settings.seed)
    model = decide(schema, data, parts.learn, decision, show("choosing terms"))
    values = clean(data.features, schema)
    levels = [len(feature.levels) for feature in schema.features]
    masked = replace(settings.masked, seed=settings.seed)
    surprise = fit_surprise(values[parts.train], levels, masked, show("masked features"))
    trained = TrainedPayments(schema, model, surprise, write_payments_graph(schema, model, surprise))
    order = np.random.default_rng([settings.seed, 0xF01D]).permutation(parts.train)
    crossed = []
    for number, held_out in enumerate(np.array_split(order, FOLDS)):
        rest = np.setdiff1d(order, held_out)
        fold = fit_surprise(values[rest], levels, masked, show(f"cross-fitting {number + 1} of {FOLDS}"))
        crossed.append(_energies(schema, model, fold, data.features[held_out]))
    return trained, {name: np.concatenate([part[name] for part in crossed]) for name in ENERGIES}


def _energies(schema: Schema, model: AdditiveModel, surprise: Surprise, rows: NDArray[np.float32]) -> Outputs:
    graph = write_payments_graph(schema, model, surprise)
    return signature_of(TrainedPayments(schema, model, surprise, graph)).outputs_on(graph, rows)

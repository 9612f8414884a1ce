"""What is published about a trained payments model: its signature, metrics, gates and manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bundles.manifest import TensorSpec
from serving.engines import measure
from serving.engines.engine import Engine
from serving.train.payments.additive import AdditiveModel, AdditiveSettings
from serving.train.payments.data import LICENCE, SOURCE, Applications, Parts, sources_of
from serving.train.payments.graph import reasons_shown
from serving.train.payments.masked import MaskedSettings, Surprise
from serving.train.payments.schema import MISSING, Schema
from serving.train.report import Measurement, Signature, at_least, at_most, code_versions, served_gates
from serving.train.run import arrays_of

INPUT, USUAL = "features", "applications"
CLASS_NAMES = ("good", "bad")
NO_REASON = "No further reason"
GRID = 2_000


@dataclass(frozen=True, slots=True)
class TrainedPayments:
    """A trained model and everything fitted to it."""

    schema: Schema
    model: AdditiveModel
    surprise: Surprise
    graph: bytes


@dataclass(frozen=True, slots=True)
class PaymentsGates:
    """Bounds a model must keep to be signed."""

    auc_min: float = 0.7
    calibration_error_max: float = 0.06
    terms_max: int = 8
    sum_apart_max: float = 1e-5
    wrong_way_max: float = 0.0
    rows_apart_max: float = 1e-4
    parity_max: float = 1e-3
    false_alarms_max: float = 0.01


def signature_of(trained: TrainedPayments) -> Signature:
    """Return what the graph takes and gives."""
    schema, terms = trained.schema, len(trained.model.terms)
    return Signature(
        name="payments",
        version="1",
        inputs=(TensorSpec(INPUT, "FP32", (-1, len(schema.features)), MISSING, schema.input_high),),
        outputs=(
            TensorSpec("probabilities", "FP32", (-1, len(CLASS_NAMES)), 0.0, 1.0),
            TensorSpec("logit", "FP32", (-1,)),
            TensorSpec("contributions", "FP32", (-1, terms)),
            TensorSpec("reason_codes", "INT64", (-1, reasons_shown(trained.model)), 0.0, float(terms)),
            TensorSpec("latent", "FP32", (-1, trained.surprise.predictor.middle.out_features)),
            TensorSpec("energy", "FP32", (-1,), 0.0),
            TensorSpec("mahalanobis", "FP32", (-1,), 0.0),
            TensorSpec("residual", "FP32", (-1,), 0.0),
        ),
        class_names=CLASS_NAMES,
        roles={
            "prediction": ["probabilities"],
            "latent": ["latent"],
            "contributions": ["contributions"],
            "reasons": ["reason_codes"],
        },
    )


def metrics_of(trained: TrainedPayments, test: Applications, measurement: Measurement) -> dict[str, Any]:
    """Measure decision and explanation on the test rows, beside what all recipes measure."""
    outputs = measurement.test
    logit, probabilities = outputs["logit"], outputs["probabilities"]
    bad = test.labels == 1
    total = trained.model.intercept + outputs["contributions"].astype(np.float64).sum(axis=1)
    own = trained.model.logit(sources_of(test.features, trained.schema))
    return {
        "auc": measure.ranking_area(logit[~bad], logit[bad]),
        "accuracy": measure.accuracy(probabilities, test.labels),
        "calibration_error": measure.calibration_error(probabilities, test.labels),
        "brier": float(np.mean((probabilities[:, 1] - test.labels) ** 2)),
        "confusion": measure.confusion(probabilities, test.labels).tolist(),
        "terms": len(trained.model.terms),
        "sum_apart": float(np.abs(total - logit).max()),
        "wrong_way": wrong_way(trained, measurement.engine, test.features),
        "parity": float(np.abs(own - logit).max()),
        **measurement.metrics,
    }


def wrong_way(trained: TrainedPayments, engine: Engine, features: NDArray[np.float32]) -> float:
    """Return the largest step against its direction that the contribution of a term takes, over a grid of its feature.

    Terms of ratios are left to the tests: their grid has several features.
    """
    names = [feature.name for feature in trained.schema.features]
    worst = 0.0
    for index, term in enumerate(trained.model.terms):
        if term.direction and term.source in names:
            column = names.index(term.source)
            grid = np.repeat(features[:1], GRID, axis=0)
            top = min(trained.schema.features[column].top, 2.0 * float(term.knots[-1]))
            grid[:, column] = np.linspace(0, top, GRID, dtype=np.float32)
            steps = np.diff(engine.infer({INPUT: grid})["contributions"][:, index]) * term.direction
            worst = max(worst, float(-steps.min()))
    return worst


def reasons_of(trained: TrainedPayments) -> list[str]:
    """Return what each reason code says."""
    return [NO_REASON, *(term.reason for term in trained.model.terms)]


def weights_of(trained: TrainedPayments) -> dict[str, NDArray[Any]]:
    """Return the terms, the predictor and the densities: what another recipe would go on from."""
    weights = {f"predictor.{name}": value for name, value in arrays_of(trained.surprise.predictor).items()}
    for term in trained.model.terms:
        weights[f"term.{term.source}.knots"] = term.knots
        weights[f"term.{term.source}.steps"] = term.steps
        weights[f"term.{term.source}.start"] = np.array([term.start])
        weights[f"term.{term.source}.missing"] = np.array([term.missing])
    return weights | {
        "error_scales": trained.surprise.error_scales,
        "gaussian.whitening": trained.surprise.gaussian.whitening,
        "gaussian.mean": trained.surprise.gaussian.mean,
        "plane.mean": trained.surprise.plane.mean,
        "plane.components": trained.surprise.plane.components,
    }


def lineage_of(schema: Schema, data: Applications, parts: Parts) -> dict[str, Any]:
    """Return where the rows come from, how many each split has, and what a client sends."""
    return {
        "name": schema.table,
        "licence": LICENCE,
        "source": SOURCE,
        "sha256": {schema.table: data.digest},
        "published": data.published,
        "rows": {"train": len(parts.train), "calibrate": len(parts.calibrate), "test": len(parts.test)},
        "splits": parts.digests,
        "share_bad": float(data.labels.mean()),
        "missing": MISSING,
        "features": [
            {"name": feature.name, "low": 0.0, "high": feature.top, "levels": list(feature.levels or feature.ranks)}
            for feature in schema.features
        ],
        "left_out": list(schema.left_out),
    }


def training_of(
    trained: TrainedPayments, *, seed: int, decision: AdditiveSettings, masked: MaskedSettings, smoke: bool
) -> dict[str, Any]:
    """Return what decided the weights, the terms and the learning curve."""
    model, surprise = trained.model, trained.surprise
    numbers = sum(parameter.numel() for parameter in surprise.predictor.parameters())
    return {
        "objective": "log loss of a monotone piecewise linear additive model, terms chosen by group lasso; "
        "squared error of masked features",
        "seed": seed,
        "decision": asdict(decision),
        "masked": asdict(masked),
        "intercept": model.intercept,
        "smooth": model.smooth,
        "terms": [
            {
                "source": term.source,
                "direction": term.direction,
                "reason": term.reason,
                "knots": term.knots.tolist(),
                "contributions": (term.start + np.concatenate([[0.0], np.cumsum(term.steps)])).tolist(),
                "missing": term.missing,
            }
            for term in model.terms
        ],
        "ratios": [asdict(ratio) for ratio in trained.schema.ratios],
        "path": [asdict(point) for point in model.path],
        "history": [asdict(epoch) for epoch in surprise.history],
        "plane": {"components": surprise.plane.components.shape[1], "explained": surprise.plane.explained},
        "shrinkage": surprise.gaussian.shrinkage,
        "parameters": {"terms": sum(len(term.steps) + 2 for term in model.terms), "predictor": numbers},
        "smoke": smoke,
        "code": code_versions("rdata"),
    }


def gates_of(gates: PaymentsGates, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold the metrics against their bounds."""
    return [
        at_least("auc", metrics["auc"], gates.auc_min),
        at_most("calibration_error", metrics["calibration_error"], gates.calibration_error_max),
        at_most("terms", metrics["terms"], gates.terms_max),
        at_most("sum_apart", metrics["sum_apart"], gates.sum_apart_max),
        at_most("wrong_way", metrics["wrong_way"], gates.wrong_way_max),
        *served_gates(metrics, USUAL, gates),
    ]

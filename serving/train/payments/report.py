"""What is published about a trained payments model: metrics, gates, the manifest. Pure, but for the costs' clock."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bundles.bundle import Bundle
from serving.bundles.manifest import TensorSpec
from serving.engines import measure
from serving.engines.engine import Engine
from serving.train.arrays import arrays_of
from serving.train.kiosk.report import code_digest
from serving.train.payments.additive import AdditiveModel, AdditiveSettings
from serving.train.payments.data import LICENCE, SOURCE, Applications, Parts
from serving.train.payments.graph import reasons_shown
from serving.train.payments.masked import MaskedSettings, Surprise
from serving.train.payments.schema import MISSING, Schema
from serving.train.payments.sources import sources_of
from serving.train.screen import Outputs

NAME, VERSION, GRAPH, INPUT = "payments", "1", "dense", "features"
CLASS_NAMES = ("good", "bad")
NO_REASON = "No further reason"
ENERGIES = ("energy", "mahalanobis", "residual")
GRID = 2_000
COST_RUNS = 200


@dataclass(frozen=True, slots=True)
class TrainedPayments:
    """A trained model and everything fitted to it."""

    schema: Schema
    model: AdditiveModel
    surprise: Surprise
    graph: bytes


@dataclass(frozen=True, slots=True)
class PaymentsGates:
    """Bounds a model must keep to be signed. False alarms: the measured rate may not be proven above its promise."""

    auc_min: float = 0.7
    calibration_error_max: float = 0.06
    terms_max: int = 8
    sum_apart_max: float = 1e-5
    wrong_way_max: float = 0.0
    rows_apart_max: float = 1e-4
    parity_max: float = 1e-3
    false_alarms_max: float = 0.01


@dataclass(frozen=True, slots=True)
class Run:
    """What decided the weights, and the gates, for the record."""

    seed: int
    decision: AdditiveSettings
    masked: MaskedSettings
    gates: PaymentsGates
    smoke: bool


def draft(trained: TrainedPayments) -> Bundle:
    """Return an unsigned bundle in memory, so the engine can measure the graph before there is anything to sign."""
    inputs, outputs = _tensors(trained)
    return Bundle(NAME, VERSION, "", inputs, outputs, CLASS_NAMES, {}, {GRAPH: trained.graph}, {})


def metrics_of(trained: TrainedPayments, engine: Engine, test: Applications, outputs: Outputs) -> dict[str, Any]:
    """Measure decision and explanation on the test rows, given the engine's outputs for them."""
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
        "wrong_way": wrong_way(trained, engine, test.features),
        "rows_apart": measure.rows_apart(engine, test.features, outputs, name=INPUT),
        "parity": float(np.abs(own - logit).max()),
        "cost_us": {
            f"rows_{rows}": measure.costs_us(engine, test.features, rows, COST_RUNS, name=INPUT) for rows in (1, 8, 32)
        },
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


def strange_metrics(
    flag: Callable[[Outputs], list[dict[str, Any]]], real: Outputs, strange: Mapping[str, Outputs]
) -> dict[str, Any]:
    """Measure what is noticed: by the screen at its operating points, and by each energy alone."""
    return {
        kind: {
            "rows": len(outputs["energy"]),
            "flagged": flag(outputs),
            "auroc": {energy: measure.ranking_area(real[energy], outputs[energy]) for energy in ENERGIES},
        }
        for kind, outputs in {"applications": real, **strange}.items()
    }


def manifest_of(
    trained: TrainedPayments,
    run: Run,
    *,
    data: Applications,
    parts: Parts,
    metrics: Mapping[str, Any],
    report: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the manifest but for its list of files."""
    inputs, outputs = _tensors(trained)
    return {
        "format": "stockade.bundle/1",
        "name": NAME,
        "version": VERSION,
        "inputs": [asdict(spec) for spec in inputs],
        "outputs": [asdict(spec) for spec in outputs],
        "class_names": list(CLASS_NAMES),
        "roles": {
            "prediction": ["probabilities"],
            "latent": ["latent"],
            "energies": list(ENERGIES),
            "contributions": ["contributions"],
            "reasons": ["reason_codes"],
        },
        "reasons": [NO_REASON, *(term.reason for term in trained.model.terms)],
        "graphs": {GRAPH: "model.onnx"},
        "weights": "weights.safetensors",
        "calibration": "calibration.safetensors",
        "data": _lineage(trained.schema, data, parts),
        "training": _training(trained, run),
        "metrics": dict(metrics),
        "calibration_report": {"evidence": dict(report)},
        "gates": _gates(run.gates, metrics),
    }


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


def _tensors(trained: TrainedPayments) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    schema, terms = trained.schema, len(trained.model.terms)
    return (TensorSpec(INPUT, "FP32", (-1, len(schema.features)), MISSING, schema.input_high),), (
        TensorSpec("probabilities", "FP32", (-1, len(CLASS_NAMES)), 0.0, 1.0),
        TensorSpec("logit", "FP32", (-1,)),
        TensorSpec("contributions", "FP32", (-1, terms)),
        TensorSpec("reason_codes", "INT64", (-1, reasons_shown(trained.model)), 0.0, float(terms)),
        TensorSpec("latent", "FP32", (-1, trained.surprise.predictor.middle.out_features)),
        TensorSpec("energy", "FP32", (-1,), 0.0),
        TensorSpec("mahalanobis", "FP32", (-1,), 0.0),
        TensorSpec("residual", "FP32", (-1,), 0.0),
    )


def _lineage(schema: Schema, data: Applications, parts: Parts) -> dict[str, Any]:
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


def _training(trained: TrainedPayments, run: Run) -> dict[str, Any]:
    model, surprise = trained.model, trained.surprise
    numbers = sum(parameter.numel() for parameter in surprise.predictor.parameters())
    return {
        "objective": "log loss of a monotone piecewise linear additive model, terms chosen by group lasso; "
        "squared error of masked features",
        "seed": run.seed,
        "decision": asdict(run.decision),
        "masked": asdict(run.masked),
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
        "smoke": run.smoke,
        "code": {
            "sha256": code_digest(),
            **{
                name: importlib.metadata.version(name)
                for name in ("stockade", "torch", "onnx", "onnxruntime", "numpy", "rdata")
            },
        },
    }


def _gates(gates: PaymentsGates, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    alarms = next(
        point for point in metrics["foreign"]["applications"]["flagged"] if point["fpr_max"] == gates.false_alarms_max
    )
    at_most = {
        "calibration_error": (metrics["calibration_error"], gates.calibration_error_max),
        "terms": (metrics["terms"], gates.terms_max),
        "sum_apart": (metrics["sum_apart"], gates.sum_apart_max),
        "wrong_way": (metrics["wrong_way"], gates.wrong_way_max),
        "rows_apart": (max(metrics["rows_apart"].values()), gates.rows_apart_max),
        "parity": (metrics["parity"], gates.parity_max),
        "false_alarms_low": (alarms["interval"][0], gates.false_alarms_max),
    }
    auc = {"name": "auc", "value": metrics["auc"], "bound": gates.auc_min, "passed": metrics["auc"] >= gates.auc_min}
    return [
        auc,
        *(
            {"name": name, "value": value, "bound": bound, "passed": value <= bound}
            for name, (value, bound) in at_most.items()
        ),
    ]

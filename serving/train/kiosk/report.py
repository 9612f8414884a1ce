"""What is published about a trained kiosk model: metrics, gates, the manifest. Pure, but for the clock of the costs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.bundles.bundle import Bundle
from serving.bundles.manifest import TensorSpec
from serving.engines import measure
from serving.engines.engine import Engine
from serving.train.density import ClassDensities, Plane
from serving.train.kiosk.data import CLASS_NAMES, FashionMnist, Labelled, Splits
from serving.train.kiosk.foreign import DIGITS_SOURCE
from serving.train.kiosk.loop import EpochReport, predict
from serving.train.kiosk.network import MIDDLE, KioskNet
from serving.train.kiosk.robust import RobustEpoch
from serving.train.kiosk.robustness import PGD_STEPS
from serving.train.screen import Outputs

NAME, GRAPH = "kiosk", "dense"
ENERGIES = ("energy", "mahalanobis", "residual")
SIDE = 28
COST_RUNS = 200


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which of the kiosk's recipes: its name for the command line, the version it makes, what decides its weights."""

    name: str
    version: str
    objective: str
    loop: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model and everything fitted to it."""

    recipe: Recipe
    net: KioskNet
    history: Sequence[EpochReport] | Sequence[RobustEpoch]
    plane: Plane
    densities: ClassDensities
    graph: bytes


@dataclass(frozen=True, slots=True)
class Gates:
    """Bounds a model must keep to be signed. False alarms: the measured rate may not be proven above its promise.

    `robust_accuracy_min` is of AutoAttack where it was measured, of projected gradient descent where it was not; 0
    for a recipe that promises none.
    """

    accuracy_min: float = 0.905
    robust_accuracy_min: float = 0.0
    rows_apart_max: float = 1e-5
    parity_max: float = 1e-3
    false_alarms_max: float = 0.01


def draft(model: Trained) -> Bundle:
    """Return an unsigned bundle in memory, so the engine can measure the graph before there is anything to sign."""
    inputs, outputs = _tensors(model.net.width)
    return Bundle(NAME, model.recipe.version, "", inputs, outputs, CLASS_NAMES, {}, {GRAPH: model.graph}, {})


def metrics_of(model: Trained, engine: Engine, test: Labelled, outputs: Outputs) -> dict[str, Any]:
    """Measure the prediction on the test rows, given the engine's outputs for them."""
    probabilities = outputs["probabilities"]
    counts = measure.confusion(probabilities, test.labels)
    _, logits = predict(model.net, test)
    return {
        "accuracy": measure.accuracy(probabilities, test.labels),
        "calibration_error": measure.calibration_error(probabilities, test.labels),
        "recall": dict(zip(CLASS_NAMES, (np.diag(counts) / counts.sum(axis=1)).tolist(), strict=True)),
        "confusion": counts.tolist(),
        "rows_apart": measure.rows_apart(engine, test.images, outputs),
        "parity": float(np.abs(logits.numpy() - outputs["logits"]).max()),
        "cost_us": {f"rows_{rows}": measure.costs_us(engine, test.images, rows, COST_RUNS) for rows in (1, 8, 32)},
    }


def foreign_metrics(
    flag: Callable[[Outputs], list[dict[str, Any]]], products: Outputs, strange: Mapping[str, Outputs]
) -> dict[str, Any]:
    """Measure what is noticed: by the screen at its operating points, and by each energy alone."""
    return {
        kind: {
            "rows": len(outputs["energy"]),
            "flagged": flag(outputs),
            "auroc": {energy: measure.ranking_area(products[energy], outputs[energy]) for energy in ENERGIES},
        }
        for kind, outputs in {"products": products, **strange}.items()
    }


def manifest_of(
    model: Trained,
    *,
    gates: Gates,
    smoke: bool,
    data: FashionMnist,
    parts: Splits,
    test: Labelled,
    metrics: Mapping[str, Any],
    report: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the manifest but for its list of files."""
    inputs, outputs = _tensors(model.net.width)
    return {
        "format": "stockade.bundle/1",
        "name": NAME,
        "version": model.recipe.version,
        "inputs": [asdict(spec) for spec in inputs],
        "outputs": [asdict(spec) for spec in outputs],
        "class_names": list(CLASS_NAMES),
        "roles": {"prediction": ["probabilities"], "latent": ["latent"], "energies": list(ENERGIES)},
        "graphs": {GRAPH: "model.onnx"},
        "weights": "weights.safetensors",
        "calibration": "calibration.safetensors",
        "data": _lineage(data, parts, test),
        "training": _training(model, smoke=smoke),
        "metrics": dict(metrics),
        "calibration_report": {"evidence": dict(report)},
        "gates": _gates(gates, metrics),
    }


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _tensors(width: int) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    classes = len(CLASS_NAMES)
    return (TensorSpec("image", "FP32", (-1, SIDE, SIDE), 0.0, 1.0),), (
        TensorSpec("probabilities", "FP32", (-1, classes), 0.0, 1.0),
        TensorSpec("logits", "FP32", (-1, classes)),
        TensorSpec("latent", "FP32", (-1, width)),
        TensorSpec("energy", "FP32", (-1,)),
        TensorSpec("mahalanobis", "FP32", (-1,), 0.0),
        TensorSpec("residual", "FP32", (-1,), 0.0),
    )


def _lineage(data: FashionMnist, parts: Splits, test: Labelled) -> dict[str, Any]:
    return {
        "name": "Fashion-MNIST",
        "licence": "MIT, (c) 2017 Zalando SE",
        "source": "https://github.com/zalandoresearch/fashion-mnist",
        "sha256": dict(data.digests),
        "rows": {
            "train": len(parts.train),
            "fit": len(parts.fit),
            "calibrate": len(parts.calibrate),
            "test": len(test),
        },
        "foreign": {"digits": DIGITS_SOURCE},
    }


def _training(model: Trained, *, smoke: bool) -> dict[str, Any]:
    return {
        "recipe": model.recipe.name,
        "objective": model.recipe.objective,
        "loop": dict(model.recipe.loop),
        "stages": [asdict(stage) for stage in model.net.stages],
        "plane": {"components": model.plane.components.shape[1], "explained": model.plane.explained},
        "densities": {"middle_stages": list(MIDDLE), "shrinkage": model.densities.shrinkage.tolist()},
        "parameters": sum(parameter.numel() for parameter in model.net.parameters()),
        "history": [asdict(epoch) for epoch in model.history],
        "smoke": smoke,
        "code": {
            "sha256": code_digest(),
            **{
                name: importlib.metadata.version(name) for name in ("stockade", "torch", "onnx", "onnxruntime", "numpy")
            },
        },
    }


def code_digest() -> str:
    """SHA-256 over the recipe's sources: the version of the code, also where there is no repository."""
    sources = sorted(Path(__file__).parent.parent.rglob("*.py"))
    return digest_of([[f"{path.parent.name}/{path.name}", path.read_text("utf-8")] for path in sources])


def _gates(gates: Gates, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    alarms = next(
        point for point in metrics["foreign"]["products"]["flagged"] if point["fpr_max"] == gates.false_alarms_max
    )
    apart = max(metrics["rows_apart"].values())
    low = alarms["interval"][0]
    found = [
        _gate("accuracy", metrics["accuracy"], gates.accuracy_min, passed=metrics["accuracy"] >= gates.accuracy_min),
        _gate("rows_apart", apart, gates.rows_apart_max, passed=apart <= gates.rows_apart_max),
        _gate("parity", metrics["parity"], gates.parity_max, passed=metrics["parity"] <= gates.parity_max),
        _gate("false_alarms_low", low, gates.false_alarms_max, passed=low <= gates.false_alarms_max),
    ]
    if gates.robust_accuracy_min:
        robust = robust_accuracy(metrics["robustness"])
        least = gates.robust_accuracy_min
        found.append(_gate("robust_accuracy", robust, least, passed=robust >= least))
    return found


def robust_accuracy(robustness: Mapping[str, Any]) -> float:
    """Return the share that AutoAttack leaves right; that of projected gradient descent where it was not run."""
    return float((robustness["auto_attack"] or robustness[f"pgd_{PGD_STEPS}"])["right"])


def _gate(name: str, value: float, bound: float, *, passed: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "bound": bound, "passed": passed}

"""What is published about a trained kiosk model: its signature, metrics, gates and manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from serving.bundles.bundle import Bundle
from serving.bundles.manifest import TensorSpec
from serving.engines import measure
from serving.train.density import ClassDensities, Plane
from serving.train.kiosk.data import CLASS_NAMES, SIDE, FashionMnist, Labelled, Splits
from serving.train.kiosk.foreign import DIGITS_SOURCE
from serving.train.kiosk.loop import EpochReport, predict
from serving.train.kiosk.network import MIDDLE, KioskNet
from serving.train.kiosk.robust import RobustEpoch
from serving.train.kiosk.robustness import PGD_STEPS
from serving.train.report import Measurement, Signature, at_least, code_versions, served_gates

USUAL = "products"


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
    """Bounds a model must keep to be signed.

    `robust_accuracy_min` is of AutoAttack where it was measured, of projected gradient descent where it was not; 0
    for a recipe that promises none.
    """

    accuracy_min: float = 0.905
    robust_accuracy_min: float = 0.0
    rows_apart_max: float = 1e-5
    parity_max: float = 1e-3
    false_alarms_max: float = 0.01


def signature_of(model: Trained) -> Signature:
    """Return what the graph takes and gives."""
    return Signature(
        name="kiosk",
        version=model.recipe.version,
        inputs=(TensorSpec("image", "FP32", (-1, SIDE, SIDE), 0.0, 1.0),),
        outputs=(
            TensorSpec("probabilities", "FP32", (-1, len(CLASS_NAMES)), 0.0, 1.0),
            TensorSpec("logits", "FP32", (-1, len(CLASS_NAMES))),
            TensorSpec("latent", "FP32", (-1, model.net.width)),
            TensorSpec("energy", "FP32", (-1,)),
            TensorSpec("mahalanobis", "FP32", (-1,), 0.0),
            TensorSpec("residual", "FP32", (-1,), 0.0),
        ),
        class_names=CLASS_NAMES,
        roles={"prediction": ["probabilities"], "latent": ["latent"]},
    )


def draft(model: Trained) -> Bundle:
    """Return an unsigned bundle in memory, so the engine can measure the graph before there is anything to sign."""
    return signature_of(model).draft(model.graph)


def metrics_of(model: Trained, test: Labelled, measurement: Measurement) -> dict[str, Any]:
    """Measure the prediction on the test rows, beside what all recipes measure."""
    probabilities = measurement.test["probabilities"]
    counts = measure.confusion(probabilities, test.labels)
    _, logits = predict(model.net, test)
    return {
        "accuracy": measure.accuracy(probabilities, test.labels),
        "calibration_error": measure.calibration_error(probabilities, test.labels),
        "recall": dict(zip(CLASS_NAMES, (np.diag(counts) / counts.sum(axis=1)).tolist(), strict=True)),
        "confusion": counts.tolist(),
        "parity": float(np.abs(logits.numpy() - measurement.test["logits"]).max()),
        **measurement.metrics,
    }


def lineage_of(data: FashionMnist, parts: Splits, test: Labelled) -> dict[str, Any]:
    """Return where the rows come from and how many each split has."""
    splits = {"train": parts.train, "fit": parts.fit, "calibrate": parts.calibrate, "test": test}
    return {
        "name": "Fashion-MNIST",
        "licence": "MIT, (c) 2017 Zalando SE",
        "source": "https://github.com/zalandoresearch/fashion-mnist",
        "sha256": dict(data.digests),
        "rows": {name: len(part) for name, part in splits.items()},
        "foreign": {"digits": DIGITS_SOURCE},
    }


def training_of(model: Trained, *, smoke: bool) -> dict[str, Any]:
    """Return what decided the weights, and the learning curve."""
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
        "code": code_versions(),
    }


def gates_of(gates: Gates, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold the metrics against their bounds."""
    results = [
        at_least("accuracy", metrics["accuracy"], gates.accuracy_min),
        *served_gates(metrics, USUAL, gates),
    ]
    if gates.robust_accuracy_min:
        robust = robust_accuracy(metrics["robustness"])
        results.append(at_least("robust_accuracy", robust, gates.robust_accuracy_min))
    return results


def robust_accuracy(robustness: Mapping[str, Any]) -> float:
    """Return the share that AutoAttack leaves right; that of projected gradient descent where it was not run."""
    return float((robustness["auto_attack"] or robustness[f"pgd_{PGD_STEPS}"])["right"])

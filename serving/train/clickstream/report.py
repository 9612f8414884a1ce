"""What is published about a trained clickstream model: its signature, metrics, gates and manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bundles.manifest import TensorSpec
from serving.engines.measure import calibration_error
from serving.train.clickstream.ecom import ECOM, EVENTS, IDS, LENGTH, PADDING, SESSION, Clicks, Ecom, EcomSplits
from serving.train.clickstream.loop import ClickEpoch, ClickSettings, predict_clicks
from serving.train.clickstream.network import ClickNet
from serving.train.density import Gaussian
from serving.train.report import Measurement, Outputs, Signature, at_least, code_versions, served_gates

USUAL = "sessions"
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class TrainedClicks:
    """A trained model and everything fitted to it."""

    net: ClickNet
    history: list[ClickEpoch]
    density: Gaussian
    graph: bytes


@dataclass(frozen=True, slots=True)
class ClickGates:
    """Bounds a model must keep to be signed; the gain over Markov is in nats, its lower 95 % bound over sessions.

    `latent_rank_min` is the label-free gate: how many directions the user embeddings of held-out rows use (the
    exponential of the entropy of their covariance's spectrum), which falls where a joint-embedding loss collapses.
    """

    gain_min: float = 0.05
    latent_rank_min: float = 8.0
    rows_apart_max: float = 1e-5
    parity_max: float = 1e-3
    false_alarms_max: float = 0.01


def click_signature(net: ClickNet) -> Signature:
    """Return what the graph takes and gives."""
    shape = net.shape
    return Signature(
        name="clickstream",
        version="1",
        inputs=(TensorSpec("events", "INT64", (-1, LENGTH), 0.0, float(IDS - 1)),),
        outputs=(
            TensorSpec("probabilities", "FP32", (-1, shape.classes), 0.0, 1.0),
            TensorSpec("embedding", "FP32", (-1, shape.state_width), -1.0, 1.0),
            TensorSpec("latent", "FP32", (-1, shape.latent_width)),
            TensorSpec("energy", "FP32", (-1,)),
            TensorSpec("mahalanobis", "FP32", (-1,), 0.0),
            TensorSpec("residual", "FP32", (-1,), 0.0),
        ),
        class_names=EVENTS,
        roles={"prediction": ["probabilities"], "embedding": ["embedding"], "latent": ["latent"]},
    )


def click_metrics(model: TrainedClicks, test: Clicks, measurement: Measurement) -> dict[str, Any]:
    """Measure the prediction on the test rows, beside what all recipes measure."""
    probabilities, own = measurement.test["probabilities"], np.arange(len(test))
    prior = model.net.log_prior.double().numpy()[test.ids[:, -1]]
    loss, markov = -np.log(probabilities.astype(np.float64))[own, test.labels], -prior[own, test.labels]
    return {
        "next_click": {
            "accuracy": float((probabilities.argmax(1) == test.labels).mean()),
            "log_loss": float(loss.mean()),
            "calibration_error": calibration_error(probabilities, test.labels),
            "markov_accuracy": float((prior.argmax(1) == test.labels).mean()),
            "markov_log_loss": float(markov.mean()),
            "gain_interval": by_sessions(markov - loss, test.sessions),
        },
        "latent_rank": effective_rank(measurement.test["embedding"]),
        "parity": _parity(model.net, test, measurement.test),
        **measurement.metrics,
    }


def _parity(net: ClickNet, rows: Clicks, outputs: Outputs) -> float:
    embedding, _, logits = predict_clicks(net, rows)
    pairs = ((embedding, outputs["embedding"]), (logits.softmax(1), outputs["probabilities"]))
    return max(float(np.abs(ours.numpy() - theirs).max()) for ours, theirs in pairs)


def by_sessions(values: NDArray[np.float64], sessions: NDArray[np.int64]) -> list[float]:
    """Return the 95 % bootstrap interval of the mean of rows that come in sessions, which are what is drawn again."""
    groups = np.unique(sessions, return_inverse=True)[1]
    sums, counts = np.bincount(groups, values), np.bincount(groups)
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return [float(low), float(high)]


def effective_rank(rows: NDArray[Any]) -> float:
    """Return exp of the entropy of the covariance's normalised spectrum (Roy and Vetterli 2007)."""
    spectrum = np.linalg.eigvalsh(np.cov(rows.astype(np.float64).T))
    shares = np.clip(spectrum, 1e-12, None) / np.clip(spectrum, 1e-12, None).sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def click_lineage(data: Ecom, parts: EcomSplits, seed: int) -> dict[str, Any]:
    """Return where the rows come from and how many each split has."""
    splits = {"train": parts.train, "fit": parts.fit, "calibrate": parts.calibrate, "test": parts.test}
    return {
        "name": "retentioneering ecom",
        "licence": "Apache-2.0, (c) 2026 Maxim Godzi, Vladimir Kukushkin, Anatoly Zaytsev",
        "source": f"https://pypi.org/project/{ECOM.package}/{ECOM.version}/ ({ECOM.member})",
        "sha256": {ECOM.file: data.sha256},
        "pinned": data.sha256 == ECOM.sha256,
        "split": {"seed": seed, "test": "the last fifth of the sessions by time", "others": "sessions at random"},
        "rows": {name: len(part) for name, part in splits.items()},
        "sessions": {name: len(np.unique(part.sessions)) for name, part in splits.items()},
        "ids": {"padding": PADDING, "session": SESSION, **{name: SESSION + 1 + i for i, name in enumerate(EVENTS)}},
    }


def click_training(model: TrainedClicks, loop: ClickSettings, *, smoke: bool) -> dict[str, Any]:
    """Return what decided the weights, and the learning curve."""
    return {
        "objective": "next item: cross-entropy beside latent prediction under SIGReg; AdamW, averaged weights",
        "loop": asdict(loop),
        "shape": asdict(model.net.shape),
        "density": {"shrinkage": model.density.shrinkage},
        "parameters": sum(parameter.numel() for parameter in model.net.parameters()),
        "history": [asdict(epoch) for epoch in model.history],
        "smoke": smoke,
        "code": code_versions(),
    }


def click_gates(gates: ClickGates, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold the metrics against their bounds."""
    return [
        at_least("gain_over_markov_low", metrics["next_click"]["gain_interval"][0], gates.gain_min),
        at_least("latent_rank", metrics["latent_rank"], gates.latent_rank_min),
        *served_gates(metrics, USUAL, gates),
    ]

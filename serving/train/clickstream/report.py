"""What is published about a trained clickstream model: metrics, gates, the manifest. Pure, but for the costs' clock."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bundles.bundle import Bundle
from serving.bundles.manifest import TensorSpec
from serving.engines.engine import Engine
from serving.engines.measure import calibration_error, costs_us, evaluate, ranking_area, rows_apart
from serving.train.clickstream.ecom import ECOM, EVENTS, IDS, LENGTH, PADDING, SESSION, Clicks, Ecom, EcomSplits
from serving.train.clickstream.loop import ClickEpoch, ClickSettings, predict_clicks
from serving.train.clickstream.network import ClickNet
from serving.train.density import Gaussian
from serving.train.kiosk.report import code_digest
from serving.train.screen import Outputs

NAME, VERSION, GRAPH, INPUT = "clickstream", "1", "dense", "events"
ENERGIES = ("energy", "mahalanobis", "residual")
COST_RUNS = 200
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


def outputs_on(engine: Engine, ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return every output for every row of ids."""
    return evaluate(engine, ids, name=INPUT)


def draft_clicks(model: TrainedClicks) -> Bundle:
    """Return an unsigned bundle in memory, so the engine can measure the graph before there is anything to sign."""
    inputs, outputs = _tensors(model.net)
    return Bundle(NAME, VERSION, "", inputs, outputs, EVENTS, {}, {GRAPH: model.graph}, {})


def click_metrics(
    model: TrainedClicks,
    engine: Engine,
    *,
    test: Clicks,
    outputs: Outputs,
    strange: Mapping[str, Outputs],
    flag: Callable[[Outputs], list[dict[str, Any]]],
) -> dict[str, Any]:
    """Measure on the test rows, given the engine's outputs for them and for strange sequences."""
    probabilities = outputs["probabilities"]
    prior = model.net.log_prior.double().numpy()[test.ids[:, -1]]
    loss, markov = (-_of(log, test.labels) for log in (np.log(probabilities.astype(np.float64)), prior))
    return {
        "next_click": {
            "accuracy": float((probabilities.argmax(1) == test.labels).mean()),
            "log_loss": float(loss.mean()),
            "calibration_error": calibration_error(probabilities, test.labels),
            "markov_accuracy": float((prior.argmax(1) == test.labels).mean()),
            "markov_log_loss": float(markov.mean()),
            "gain_interval": by_sessions(markov - loss, test.sessions),
        },
        "latent_rank": effective_rank(outputs["embedding"]),
        "foreign": {
            kind: {
                "rows": len(seen["energy"]),
                "flagged": flag(seen),
                "auroc": {energy: ranking_area(outputs[energy], seen[energy]) for energy in ENERGIES},
            }
            for kind, seen in {"sessions": outputs, **strange}.items()
        },
        "rows_apart": rows_apart(engine, test.ids, outputs, name=INPUT),
        "parity": _parity(model.net, test, outputs),
        "cost_us": {f"rows_{rows}": costs_us(engine, test.ids, rows, COST_RUNS, name=INPUT) for rows in (1, 8, 32)},
    }


def _of(values: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(values[np.arange(len(labels)), labels])


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


def click_manifest(
    model: TrainedClicks,
    *,
    loop: ClickSettings,
    gates: ClickGates,
    smoke: bool,
    data: Ecom,
    parts: EcomSplits,
    metrics: Mapping[str, Any],
    report: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the manifest but for its list of files."""
    inputs, outputs = _tensors(model.net)
    return {
        "format": "stockade.bundle/1",
        "name": NAME,
        "version": VERSION,
        "inputs": [asdict(spec) for spec in inputs],
        "outputs": [asdict(spec) for spec in outputs],
        "class_names": list(EVENTS),
        "roles": {
            "prediction": ["probabilities"],
            "embedding": ["embedding"],
            "latent": ["latent"],
            "energies": list(ENERGIES),
        },
        "graphs": {GRAPH: "model.onnx"},
        "weights": "weights.safetensors",
        "calibration": "calibration.safetensors",
        "data": _lineage(data, parts, loop.seed),
        "training": _training(model, loop, smoke=smoke),
        "metrics": dict(metrics),
        "calibration_report": {"evidence": dict(report)},
        "gates": _gates(gates, metrics),
    }


def _tensors(net: ClickNet) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    shape = net.shape
    return (TensorSpec(INPUT, "INT64", (-1, LENGTH), 0.0, float(IDS - 1)),), (
        TensorSpec("probabilities", "FP32", (-1, shape.classes), 0.0, 1.0),
        TensorSpec("embedding", "FP32", (-1, shape.state_width), -1.0, 1.0),
        TensorSpec("latent", "FP32", (-1, shape.latent_width)),
        TensorSpec("energy", "FP32", (-1,)),
        TensorSpec("mahalanobis", "FP32", (-1,), 0.0),
        TensorSpec("residual", "FP32", (-1,), 0.0),
    )


def _lineage(data: Ecom, parts: EcomSplits, seed: int) -> dict[str, Any]:
    shares = (("train", parts.train), ("fit", parts.fit), ("calibrate", parts.calibrate), ("test", parts.test))
    return {
        "name": "retentioneering ecom",
        "licence": "Apache-2.0, (c) 2026 Maxim Godzi, Vladimir Kukushkin, Anatoly Zaytsev",
        "source": f"https://pypi.org/project/{ECOM.package}/{ECOM.version}/ ({ECOM.member})",
        "sha256": {ECOM.file: data.sha256},
        "pinned": data.sha256 == ECOM.sha256,
        "split": {"seed": seed, "test": "the last fifth of the sessions by time", "others": "sessions at random"},
        "rows": {name: len(part) for name, part in shares},
        "sessions": {name: len(np.unique(part.sessions)) for name, part in shares},
        "ids": {"padding": PADDING, "session": SESSION, **{name: SESSION + 1 + i for i, name in enumerate(EVENTS)}},
    }


def _training(model: TrainedClicks, loop: ClickSettings, *, smoke: bool) -> dict[str, Any]:
    libraries = ("stockade", "torch", "onnx", "onnxruntime", "numpy")
    return {
        "objective": "next item: cross-entropy beside latent prediction under SIGReg; AdamW, averaged weights",
        "loop": asdict(loop),
        "shape": asdict(model.net.shape),
        "density": {"shrinkage": model.density.shrinkage},
        "parameters": sum(parameter.numel() for parameter in model.net.parameters()),
        "history": [asdict(epoch) for epoch in model.history],
        "smoke": smoke,
        "code": {"sha256": code_digest(), **{name: importlib.metadata.version(name) for name in libraries}},
    }


def _gates(gates: ClickGates, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    flagged = metrics["foreign"]["sessions"]["flagged"]
    alarms = next(point for point in flagged if point["fpr_max"] == gates.false_alarms_max)["interval"][0]
    gain, rank = metrics["next_click"]["gain_interval"][0], metrics["latent_rank"]
    apart = max(metrics["rows_apart"].values())
    return [
        _gate("gain_over_markov_low", gain, gates.gain_min, passed=gain >= gates.gain_min),
        _gate("latent_rank", rank, gates.latent_rank_min, passed=rank >= gates.latent_rank_min),
        _gate("rows_apart", apart, gates.rows_apart_max, passed=apart <= gates.rows_apart_max),
        _gate("parity", metrics["parity"], gates.parity_max, passed=metrics["parity"] <= gates.parity_max),
        _gate("false_alarms_low", alarms, gates.false_alarms_max, passed=alarms <= gates.false_alarms_max),
    ]


def _gate(name: str, value: float, bound: float, *, passed: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "bound": bound, "passed": passed}

"""What is published about a trained model, and what a recipe hands to its screen: the parts that all recipes share.

A recipe says what its graph takes and gives (`Signature`) and how each split is asked (`measure_model`). Serving knows
nothing of screens, so the one of a bundle is calibrated by callables that are handed in (`ScreenFitter`).
Pure, but for the clock of the costs and the digest of the sources.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from serving.bundles.bundle import Bundle
from serving.bundles.manifest import TensorSpec
from serving.engines import measure
from serving.engines.inprocess import InProcessEngine

GRAPH = "dense"
ENERGIES = ("energy", "mahalanobis", "residual")
COST_RUNS = 200
LIBRARIES = ("stockade", "torch", "onnx", "onnxruntime", "numpy")

Outputs = Mapping[str, NDArray[Any]]
"""What a model answers on rows, by output."""


@dataclass(frozen=True, slots=True)
class ScreenFitter:
    """How the bundle's screen is calibrated, given the model's outputs on rows.

    `fit(fit, calibrate, measure)` returns the arrays to store and a report in plain JSON; `measure(arrays, outputs)`
    returns how many rows are flagged at each operating point, with `fpr_max`, `rate` and `interval`.
    """

    fit: Callable[[Outputs, Outputs, Outputs], tuple[dict[str, NDArray[Any]], dict[str, Any]]]
    measure: Callable[[Outputs, Outputs], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a recipe's graph takes and gives, and what its outputs are for. There is one input."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    class_names: tuple[str, ...]
    roles: Mapping[str, list[str]]

    def draft(self, graph: bytes) -> Bundle:
        """Return an unsigned bundle in memory, so the engine can measure the graph before there is anything to sign."""
        return Bundle(self.name, self.version, "", self.inputs, self.outputs, self.class_names, {}, {GRAPH: graph}, {})

    def outputs_on(self, graph: bytes, rows: NDArray[Any]) -> Outputs:
        """Return every output of a graph for every row."""
        return measure.evaluate(InProcessEngine(self.draft(graph)), rows, name=self.inputs[0].name)

    def manifest(
        self,
        *,
        data: Mapping[str, Any],
        training: Mapping[str, Any],
        metrics: Mapping[str, Any],
        evidence: Mapping[str, Any],
        gates: list[dict[str, Any]],
    ) -> dict[str, Any]:
        """Return the manifest but for its list of files; `evidence` is the report of the screen's calibration."""
        return {
            "format": "stockade.bundle/1",
            "name": self.name,
            "version": self.version,
            "inputs": [asdict(spec) for spec in self.inputs],
            "outputs": [asdict(spec) for spec in self.outputs],
            "class_names": list(self.class_names),
            "roles": {**self.roles, "energies": list(ENERGIES)},
            "graphs": {GRAPH: "model.onnx"},
            "weights": "weights.safetensors",
            "calibration": "calibration.safetensors",
            "data": dict(data),
            "training": dict(training),
            "metrics": dict(metrics),
            "calibration_report": {"evidence": dict(evidence)},
            "gates": gates,
        }


@dataclass(frozen=True, slots=True)
class Measurement:
    """Outputs on the test rows and on strange rows by kind, the screen's arrays and report, and the first metrics."""

    engine: InProcessEngine
    test: Outputs
    strange: Mapping[str, Outputs]
    calibration: dict[str, NDArray[Any]]
    evidence: dict[str, Any]
    metrics: dict[str, Any]


def measure_model(
    signature: Signature,
    graph: bytes,
    screen: ScreenFitter,
    *,
    fit: NDArray[Any] | Outputs,
    calibrate: NDArray[Any],
    test: NDArray[Any],
    strange: Mapping[str, NDArray[Any]],
    usual: str,
) -> Measurement:
    """Ask the graph, calibrate the screen, and measure what all recipes publish.

    Args:
        signature: of the graph.
        graph: the model's bytes.
        screen: calibrates.
        fit: rows, or outputs, that the tails of the screen are fitted to.
        calibrate: rows that its thresholds are set on.
        test: rows that are measured.
        strange: rows of other kinds, by kind.
        usual: what the test rows are called among the kinds.
    """
    engine, name = InProcessEngine(signature.draft(graph)), signature.inputs[0].name

    def ask(rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return measure.evaluate(engine, rows, name=name)

    outputs, kinds = ask(test), {kind: ask(rows) for kind, rows in strange.items()}
    calibration, evidence = screen.fit(fit if isinstance(fit, Mapping) else ask(fit), ask(calibrate), outputs)
    metrics = {
        "rows_apart": measure.rows_apart(engine, test, outputs, name=name),
        "cost_us": {f"rows_{rows}": measure.costs_us(engine, test, rows, COST_RUNS, name=name) for rows in (1, 8, 32)},
        "foreign": {
            kind: {
                "rows": len(seen["energy"]),
                "flagged": screen.measure(calibration, seen),
                "auroc": {energy: measure.ranking_area(outputs[energy], seen[energy]) for energy in ENERGIES},
            }
            for kind, seen in {usual: outputs, **kinds}.items()
        },
    }
    return Measurement(engine, outputs, kinds, calibration, evidence, metrics)


def at_least(name: str, value: float, bound: float) -> dict[str, Any]:
    """Return a gate on a value that must not be below its bound."""
    return {"name": name, "value": value, "bound": bound, "passed": value >= bound}


def at_most(name: str, value: float, bound: float) -> dict[str, Any]:
    """Return a gate on a value that must not be above its bound."""
    return {"name": name, "value": value, "bound": bound, "passed": value <= bound}


class ServedBounds(Protocol):
    """Bounds of every recipe. `false_alarms_max`: the rate at this promise may not be proven to be above it."""

    @property
    def rows_apart_max(self) -> float: ...
    @property
    def parity_max(self) -> float: ...
    @property
    def false_alarms_max(self) -> float: ...


def served_gates(metrics: Mapping[str, Any], usual: str, bounds: ServedBounds) -> list[dict[str, Any]]:
    """Return the gates of every recipe; `usual` is what the test rows are called among the kinds."""
    flagged = metrics["foreign"][usual]["flagged"]
    alarms = next(point for point in flagged if point["fpr_max"] == bounds.false_alarms_max)
    return [
        at_most("rows_apart", max(metrics["rows_apart"].values()), bounds.rows_apart_max),
        at_most("parity", metrics["parity"], bounds.parity_max),
        at_most("false_alarms_low", alarms["interval"][0], bounds.false_alarms_max),
    ]


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def code_versions(*more: str) -> dict[str, str]:
    """SHA-256 over the recipes' sources, which works without a repository, and the versions of the libraries."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    sha256 = digest_of([[f"{path.parent.name}/{path.name}", path.read_text("utf-8")] for path in sources])
    return {"sha256": sha256, **{name: importlib.metadata.version(name) for name in (*LIBRARIES, *more)}}

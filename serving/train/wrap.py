"""Make a bundle of somebody else's ONNX model: its own outputs, and beside them what the screens read.

A sample of ordinary requests, labelled or not, is split by seed: half fits two densities and the screen's tails, three
tenths calibrate, a fifth measures. Into the graph go, named `energy`, `mahalanobis` and `residual`:

- energy: -logsumexp of the logits (the input of the last Softmax, or the prediction where it is not one of
  probabilities); where there are only probabilities, -log of the largest.
- mahalanobis: distance of the latent from the sample's Gaussian. The latent is the tensor that is named, or what the
  last layer (Gemm or MatMul) before the logits takes, or the logits.
- residual: what the leading half of the principal components of the inputs, 48 at most, leaves over; of the latent,
  where a row of input has more than 4,096 values.

The densities have seen the rows that the tails are fitted to, so the tails are a little short; that shapes the score
and breaks no promise, which is made on other rows. Nothing is trained, and no output that the model has is changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, shape_inference

from serving.bundles.graph import check_graph
from serving.bundles.manifest import TensorSpec
from serving.engines import measure
from serving.engines.inprocess import InProcessEngine, outputs_of
from serving.registry.measure import predictions
from serving.train.density import Gaussian, Plane, fit_gaussian, leading_plane
from serving.train.errors import WrapRefused
from serving.train.pack import tensor_bytes
from serving.train.report import ENERGIES, ScreenFitter, Signature
from serving.train.wrap_graph import Fitted, Tensors, write_energies

FILE = "model.onnx"
ROWS_MIN = 2_000
OPERATOR_SET_MIN = 13
RESIDUAL_WIDTH_MAX, COMPONENTS_MAX = 4_096, 48
SUM_APART_MAX = 1e-3
CLASSES_MIN = 2
MATRIX = 2

Rows = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Foreign:
    """A model as somebody brings it. `source` says what it came from, for the lineage."""

    graph: bytes
    name: str
    version: str
    class_names: tuple[str, ...] = ()
    source: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Ordinary requests: the rows of each input, by name, and their labels where they are known."""

    inputs: Mapping[str, Rows]
    labels: NDArray[np.int64] | None
    file: str
    sha256: str


def wrap(
    foreign: Foreign, sample: Sample, screen: ScreenFitter, *, prediction: str = "", latent: str = "", seed: int = 0
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files and the manifest, not yet sealed, of a bundle of this model.

    Args:
        foreign: the model, whose graph has one float32 input whose first dimension is the rows.
        sample: at least ROWS_MIN rows.
        screen: calibrates the screen.
        prediction: the output of rows x classes (default: the first such).
        latent: a tensor of the graph, rows x values (default: as the module says).
        seed: decides the split.

    Raises:
        BundleRejected, GraphRejected: the graph holds what no bundle may, or cannot be run.
        WrapRefused: the model or the sample will not do.
        DefenseError: the sample cannot calibrate a screen.
    """
    check_graph(foreign.graph, FILE)
    model = onnx.load_from_string(foreign.graph)
    _require_usable(model, foreign)
    (spec,) = _inputs(foreign, sample)
    outputs = outputs_of(foreign.graph, foreign.name)
    _require_rows(outputs)
    tensors = _tensors(model, spec.name, outputs, prediction=prediction, latent=latent, class_names=foreign.class_names)
    rows = sample.inputs[spec.name]
    parts = _split(len(rows), seed)
    seen = _seen(model, tensors, outputs, foreign, spec=spec, rows=rows[parts["fit"]])
    gaussian, plane, flat = _densities(seen["latent"], rows[parts["fit"]])
    fitted = Fitted(gaussian, plane, flat, probable=_probable(seen["prediction"]))
    graph = write_energies(model, tensors, fitted, outputs)
    signature = _signature(foreign, spec, graph, tensors.latent)
    engine = InProcessEngine(signature.draft(graph))
    given = {
        part: {name: predictions(engine, {spec.name: rows[places]}, name) for name in ("probabilities", *ENERGIES)}
        for part, places in parts.items()
    }
    calibration, report = screen.fit(given["fit"], given["calibrate"], given["measure"])
    files = {
        FILE: graph,
        "weights.safetensors": tensor_bytes(
            {
                "gaussian.whitening": gaussian.whitening,
                "gaussian.mean": gaussian.mean,
                "plane.mean": plane.mean,
                "plane.components": plane.components,
            }
        ),
        "calibration.safetensors": tensor_bytes(calibration),
    }
    metrics = _metrics(given["measure"], sample, parts["measure"], screen.measure(calibration, given["measure"]))
    return files, signature.manifest(
        data={
            "name": f"sample {sample.file}",
            "sha256": {sample.file: sample.sha256},
            "rows": {part: len(places) for part, places in parts.items()},
        },
        training={
            "wrapped": {**(foreign.source or {}), "sha256": hashlib.sha256(foreign.graph).hexdigest()},
            "latent": tensors.latent,
            "logits": tensors.logits,
        },
        metrics=metrics,
        evidence=report,
        gates=[],
    )


def _require_usable(model: onnx.ModelProto, foreign: Foreign) -> None:
    newest = max(each.version for each in model.opset_import)
    if newest < OPERATOR_SET_MIN:
        raise WrapRefused(f"{foreign.name}: operator set {newest}; export it with {OPERATOR_SET_MIN} or later")
    names = {name for node in model.graph.node for name in node.output}
    if taken := sorted(names & set(ENERGIES)):
        raise WrapRefused(f"{foreign.name} has a tensor {taken[0]!r} of its own, and screens read it; rename it")


def _inputs(foreign: Foreign, sample: Sample) -> tuple[TensorSpec, ...]:
    model = onnx.load_from_string(foreign.graph)
    constants = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in constants]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        raise WrapRefused(f"{foreign.name} does not take exactly one tensor of float32")
    dimensions = inputs[0].type.tensor_type.shape.dim
    sizes = tuple(each.dim_value for each in dimensions[1:])
    if not dimensions or dimensions[0].dim_value or not all(sizes) or not sizes:
        raise WrapRefused(f"input {inputs[0].name}: export it with a free first dimension, the rows, and others fixed")
    name = inputs[0].name
    if name not in sample.inputs:
        raise WrapRefused(f"{sample.file} has no tensor {name!r}, which the model takes")
    rows = sample.inputs[name]
    if rows.dtype != np.float32 or rows.shape[1:] != sizes or not bool(np.isfinite(rows).all()):
        raise WrapRefused(f"{sample.file}: {name} is not finite float32 of rows x {' x '.join(map(str, sizes))}")
    if len(rows) < ROWS_MIN:
        raise WrapRefused(f"{sample.file} has {len(rows)} rows; {ROWS_MIN:,} are the least that calibrate a screen")
    return (TensorSpec(name, "FP32", (-1, *sizes)),)


def _require_rows(outputs: tuple[TensorSpec, ...]) -> None:
    for spec in outputs:
        if spec.shape[:1] != (-1,) or any(size < 1 for size in spec.shape[1:]):
            raise WrapRefused(f"output {spec.name} has the shape {spec.shape}; rows first, and the others fixed")


def _tensors(
    model: onnx.ModelProto,
    taken: str,
    outputs: tuple[TensorSpec, ...],
    *,
    prediction: str,
    latent: str,
    class_names: Sequence[str],
) -> Tensors:
    fitting = [spec.name for spec in outputs if spec.datatype == "FP32" and len(spec.shape) == MATRIX]
    if (prediction and prediction not in fitting) or not fitting:
        raise WrapRefused(f"no output {prediction or 'of float32'} is rows x classes; there are {', '.join(fitting)}")
    chosen = prediction or fitting[0]
    width = next(spec.shape[1] for spec in outputs if spec.name == chosen)
    if width < CLASSES_MIN:
        raise WrapRefused(f"output {chosen} has {width} column; write both classes, as probabilities or logits")
    if class_names and len(class_names) != width:
        raise WrapRefused(f"{len(class_names)} class names for the {width} columns of {chosen}")
    made = {name: node for node in model.graph.node for name in node.output}
    logits, last = "", made.get(chosen)
    while last is not None and last.op_type == "Identity":
        last = made.get(last.input[0])
    if last is not None and last.op_type == "Softmax":
        logits = last.input[0]
    if latent:
        if latent not in {*made, taken}:
            raise WrapRefused(f"the graph has no tensor {latent!r}")
        return Tensors(taken, chosen, logits, latent)
    return Tensors(taken, chosen, logits, _before(made, logits or chosen) or logits or chosen)


def _before(made: Mapping[str, onnx.NodeProto], tensor: str) -> str:
    """Return what the layer that makes a tensor takes; empty where it is made otherwise."""
    node = made.get(tensor)
    while node is not None and node.op_type in {"Add", "Identity"}:
        node = next((made[name] for name in node.input if name in made), None)
    return str(node.input[0]) if node is not None and node.op_type in {"Gemm", "MatMul"} else ""


def _split(rows: int, seed: int) -> dict[str, NDArray[np.intp]]:
    order = np.random.default_rng([seed, 0x3A9]).permutation(rows)
    fit, calibrate, rest = np.split(order, [rows // 2, rows // 2 + 3 * rows // 10])
    return {"fit": np.sort(fit), "calibrate": np.sort(calibrate), "measure": np.sort(rest)}


def _seen(
    model: onnx.ModelProto,
    tensors: Tensors,
    outputs: tuple[TensorSpec, ...],
    foreign: Foreign,
    *,
    spec: TensorSpec,
    rows: Rows,
) -> dict[str, Rows]:
    """Return prediction and latent of rows, as the graph computes them."""
    known = {each.name: each for each in shape_inference.infer_shapes(model).graph.value_info}
    looked = onnx.ModelProto()
    looked.CopyFrom(model)
    names = {each.name for each in outputs}
    if tensors.latent not in {*names, tensors.input}:
        if tensors.latent not in known or len(known[tensors.latent].type.tensor_type.shape.dim) != MATRIX:
            raise WrapRefused(f"{tensors.latent} is not a tensor of rows x values; name another with --latent")
        looked.graph.output.append(known[tensors.latent])
    graph = looked.SerializeToString()
    engine = InProcessEngine(_signature(foreign, spec, graph, tensors.latent).draft(graph))
    inputs = {spec.name: rows}
    latents = rows if tensors.latent == tensors.input else predictions(engine, inputs, tensors.latent)
    if latents.ndim != MATRIX:
        raise WrapRefused(f"{tensors.latent} is not a tensor of rows x values; name another with --latent")
    return {"prediction": predictions(engine, inputs, tensors.prediction), "latent": latents}


def _probable(scores: Rows) -> bool:
    if scores.min() < 0 or scores.max() > 1:
        return False
    if np.abs(scores.sum(axis=1) - 1).max() <= SUM_APART_MAX:
        return True
    raise WrapRefused(
        "the prediction lies between 0 and 1 and does not add up to 1: labels that do not exclude each other are not "
        "classes; give an output of logits or of probabilities with --prediction"
    )


def _densities(latents: Rows, rows: Rows) -> tuple[Gaussian, Plane, bool]:
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    narrow = flat.shape[1] <= RESIDUAL_WIDTH_MAX
    of = flat if narrow else latents.astype(np.float64)
    plane = leading_plane(of, max(1, min(COMPONENTS_MAX, of.shape[1] // 2)))
    return fit_gaussian(latents.astype(np.float64)), plane, narrow


def _metrics(
    outputs: Mapping[str, Rows], sample: Sample, places: NDArray[np.intp], flagged: list[dict[str, Any]]
) -> dict[str, Any]:
    found: dict[str, Any] = {"foreign": {"sample": {"rows": len(places), "flagged": flagged}}}
    if sample.labels is not None:
        labels = sample.labels[places]
        found["accuracy"] = measure.accuracy(outputs["probabilities"], labels)
        found["calibration_error"] = measure.calibration_error(outputs["probabilities"], labels)
    return found


def _signature(foreign: Foreign, spec: TensorSpec, graph: bytes, latent: str) -> Signature:
    """Return what a graph takes and gives; the latent has a role where it is an output."""
    outputs = outputs_of(graph, foreign.name)
    roles = {"prediction": ["probabilities"], "latent": [each.name for each in outputs if each.name == latent]}
    return Signature(foreign.name, foreign.version, (spec,), outputs, foreign.class_names, roles)

"""Write into somebody else's ONNX graph what a wrapped model gains: `probabilities` and the energies.

    logits, or a prediction of another kind -> energy = -logsumexp; of probabilities alone -> -log of the largest
    latent -> whitened by the sample's Gaussian -> mahalanobis
    input, or latent -> minus its projection on the sample's plane -> residual (root mean square)

Every tensor that is added has a name of ours, and no node of the model is changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from serving.bundles.manifest import TensorSpec
from serving.train.density import Gaussian, Plane
from serving.train.errors import WrapRefused
from serving.train.graph import GraphBuilder
from serving.train.report import ENERGIES

PROBABILITIES = "probabilities"
OWN = "stockade."
AXIS = f"{OWN}axis"
LEAST = 1e-30


@dataclass(frozen=True, slots=True)
class Tensors:
    """Names in the graph: the input, the prediction as it is, the logits if there are any, and the latent."""

    input: str
    prediction: str
    logits: str
    latent: str


@dataclass(frozen=True, slots=True)
class Fitted:
    """What goes into the graph. `flat`: the residual is of the inputs. `probable`: it predicts probabilities."""

    gaussian: Gaussian
    plane: Plane
    flat: bool
    probable: bool


def write_energies(model: onnx.ModelProto, tensors: Tensors, fitted: Fitted, outputs: tuple[TensorSpec, ...]) -> bytes:
    """Return the graph with `probabilities`, where it has none by that name, and the three energies.

    Raises:
        WrapRefused: an output by that name is something else.
    """
    build = GraphBuilder()
    build.constant(AXIS, np.array([1], np.int64))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"]) for name in ENERGIES]
    if _write_probabilities(build, tensors, fitted, {spec.name for spec in outputs}):
        width = next(spec.shape[1] for spec in outputs if spec.name == tensors.prediction)
        values.append(helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["rows", width]))
    _write_energy(build, tensors.logits or ("" if fitted.probable else tensors.prediction))
    _write_mahalanobis(build, tensors.latent, fitted.gaussian)
    _write_residual(build, tensors, fitted)
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    graph.graph.initializer.extend(build.constants)
    graph.graph.node.extend(build.nodes)
    graph.graph.output.extend(values)
    return bytes(graph.SerializeToString(deterministic=True))


def _write_probabilities(build: GraphBuilder, tensors: Tensors, fitted: Fitted, names: set[str]) -> bool:
    """Say whether `probabilities` was added: not where it is there."""
    if PROBABILITIES in names:
        if tensors.prediction != PROBABILITIES or not fitted.probable:
            raise WrapRefused("an output is called `probabilities` and is not the prediction, or no probabilities")
        return False
    if fitted.probable:
        build.node("Identity", [tensors.prediction], PROBABILITIES)
    else:
        build.node("Softmax", [tensors.prediction], PROBABILITIES, axis=1)
    return True


def _write_energy(build: GraphBuilder, scores: str) -> None:
    """Of scores that are no probabilities, or where there are none ("") of `probabilities`."""
    if scores:
        log_shares = build.node("LogSoftmax", [scores], f"{OWN}log_shares", axis=1)
        evidence = build.node("Sub", [scores, log_shares], f"{OWN}evidence")  # in every column the logsumexp
        first = build.constant(f"{OWN}first", np.array([0], np.int64))
        one = build.node("Gather", [evidence, first], f"{OWN}evidence.first", axis=1)
    else:
        least = build.constant(f"{OWN}least", np.array([LEAST]))
        logs = build.node("Log", [build.node("Max", [PROBABILITIES, least], f"{OWN}bounded")], f"{OWN}logs")
        count, one = build.constant(f"{OWN}one", np.array([1], np.int64)), f"{OWN}top"
        build.nodes.append(helper.make_node("TopK", [logs, count], [one, f"{one}.place"], name=one, axis=1))
    build.node("Neg", [build.node("Squeeze", [one, AXIS], f"{OWN}one_a_row")], "energy")


def _write_mahalanobis(build: GraphBuilder, latent: str, gaussian: Gaussian) -> None:
    whitening = build.constant(f"{OWN}whitening", gaussian.whitening)
    mean = build.constant(f"{OWN}mean", gaussian.mean)
    white = build.node("MatMul", [latent, whitening], f"{OWN}white")
    _write_length(build, build.node("Sub", [white, mean], f"{OWN}white.apart"), "mahalanobis")


def _write_residual(build: GraphBuilder, tensors: Tensors, fitted: Fitted) -> None:
    mean = build.constant(f"{OWN}plane.mean", fitted.plane.mean)
    components = build.constant(f"{OWN}plane", fitted.plane.components)
    expansion = build.constant(f"{OWN}plane.back", fitted.plane.components.T)
    scale = build.constant(f"{OWN}scale", np.array([len(fitted.plane.mean) ** -0.5]))
    rows = tensors.latent
    if fitted.flat:
        shape = build.constant(f"{OWN}flat", np.array([-1, len(fitted.plane.mean)], np.int64))
        rows = build.node("Reshape", [tensors.input, shape], f"{OWN}rows")
    centred = build.node("Sub", [rows, mean], f"{OWN}centred")
    leading = build.node("MatMul", [centred, components], f"{OWN}leading")
    expected = build.node("MatMul", [leading, expansion], f"{OWN}expected")
    norm = _write_length(build, build.node("Sub", [centred, expected], f"{OWN}rest"), f"{OWN}norm")
    build.node("Mul", [norm, scale], "residual")


def _write_length(build: GraphBuilder, rows: str, output: str) -> str:
    """The Euclidean length of each row; written out, since what Reduce operators take changed with operator set 18."""
    squares = build.node("Mul", [rows, rows], f"{rows}.squares")
    total = build.node("ReduceSum", [squares, AXIS], f"{rows}.sum", keepdims=0)
    return build.node("Sqrt", [total], output)

"""Write the clickstream's ONNX graph: next item, user embedding, latent and energies in one pass.

    events (rows, L) int64 -> embeddings -> GRU -> states -> latents -> logits at every place
      last place: embedding (state), latent, logits -> probabilities
                                            '--------> energy = -logsumexp(logits)
      embedding, whitened -> mahalanobis = distance to the training rows' mean
      places before it -> residual = mean surprise, -log probability, of the window's own events

Written node by node as the kiosk's is: the names are ours, and no step mixes rows. Squared distances are sums of
squared differences: the shorter form (|p|^2 + |z|^2 - 2 pz) cancels, and would differ between batch sizes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from serving.train.clickstream.network import ClickShape
from serving.train.density import Gaussian
from serving.train.graph import GraphBuilder, rows_of

Weights = Mapping[str, NDArray[np.float64]]


def write_click_graph(weights: Weights, shape: ClickShape, density: Gaussian, length: int) -> bytes:
    """Return the model's bytes; `weights` are ClickNet's state, in float64."""
    build = GraphBuilder()
    build.constant("axis.0", np.array([0], np.int64))
    build.constant("axis.1", np.array([1], np.int64))
    build.constant("place.last", np.array([length - 1], np.int64))
    _write_states(build, weights)
    _write_prediction(build, weights, shape)
    build.constant("density.whitening", density.whitening)
    build.constant("density.mean", -density.mean)
    build.node("Gemm", ["embedding", "density.whitening", "density.mean"], "density.white")
    build.node("ReduceL2", ["density.white"], "mahalanobis", axes=[1], keepdims=0)
    _write_residual(build, shape, length)
    return build.model(
        "clickstream",
        [rows_of("events", length, kind=TensorProto.INT64)],
        [
            rows_of("probabilities", shape.classes),
            rows_of("embedding", shape.state_width),
            rows_of("latent", shape.latent_width),
            rows_of("energy"),
            rows_of("mahalanobis"),
            rows_of("residual"),
        ],
    )


def _write_states(build: GraphBuilder, weights: Weights) -> None:
    """The GRU over all places; torch orders its gates r, z, n and ONNX z, r, h."""
    width = weights["encoder.weight_hh_l0"].shape[1]
    build.constant("items", weights["items.weight"])
    build.node("Transpose", ["events"], "events.by_place", perm=[1, 0])
    build.node("Gather", ["items", "events.by_place"], "items.by_place")
    for name in ("weight_ih_l0", "weight_hh_l0"):
        build.constant(f"encoder.{name}", _reordered(weights[f"encoder.{name}"])[None])
    both = [_reordered(weights[f"encoder.{name}"]) for name in ("bias_ih_l0", "bias_hh_l0")]
    build.constant("encoder.bias", np.concatenate(both)[None])
    gru = ["items.by_place", "encoder.weight_ih_l0", "encoder.weight_hh_l0", "encoder.bias"]
    build.node("GRU", gru, "states.by_direction", hidden_size=width, linear_before_reset=1)
    build.node("Squeeze", ["states.by_direction", "axis.1"], "states.by_place")
    build.node("Gather", ["states.by_place", "place.last"], "states.last", axis=0)
    build.node("Squeeze", ["states.last", "axis.0"], "embedding")


def _reordered(gates: NDArray[np.float64]) -> NDArray[np.float64]:
    reset, update, new = np.split(gates, 3)
    return np.concatenate([update, reset, new])


def _write_prediction(build: GraphBuilder, weights: Weights, shape: ClickShape) -> None:
    for name in ("hidden", "predictor"):
        build.constant(f"{name}.weight", weights[f"{name}.weight"].T)
        build.constant(f"{name}.bias", weights[f"{name}.bias"])
    places = weights["items.weight"][shape.first_class :] @ weights["projector.weight"].T + weights["projector.bias"]
    build.constant("places", places)
    build.constant("steepness", np.array(-0.5 * np.exp(weights["log_scale"])))
    build.constant("prior", weights["prior_weight"] * weights["log_prior"])
    build.constant("axis.2", np.array([2], np.int64))
    _write_latents(build, "embedding", "latent")
    build.node("Unsqueeze", ["latent", "axis.1"], "latent.beside")
    build.node("Sub", ["latent.beside", "places"], "latent.apart")
    build.node("ReduceSumSquare", ["latent.apart"], "latent.squares", axes=[2], keepdims=0)
    build.node("Gather", ["events.by_place", "place.last"], "events.at_last", axis=0)
    build.node("Squeeze", ["events.at_last", "axis.0"], "events.last")
    build.node("Gather", ["prior", "events.last"], "prior.last")
    build.node("Mul", ["latent.squares", "steepness"], "logits.latent")
    build.node("Add", ["logits.latent", "prior.last"], "logits")
    build.node("Softmax", ["logits"], "probabilities", axis=1)
    build.node("ReduceLogSumExp", ["logits"], "log_evidence", axes=[1], keepdims=0)
    build.node("Neg", ["log_evidence"], "energy")


def _write_latents(build: GraphBuilder, states: str, output: str) -> None:
    build.node("MatMul", [states, "hidden.weight"], f"{output}.mixed")
    build.node("Add", [f"{output}.mixed", "hidden.bias"], f"{output}.shifted")
    build.node("Relu", [f"{output}.shifted"], f"{output}.hidden")
    build.node("MatMul", [f"{output}.hidden", "predictor.weight"], f"{output}.predicted")
    build.node("Add", [f"{output}.predicted", "predictor.bias"], output)


def _write_residual(build: GraphBuilder, shape: ClickShape, length: int) -> None:
    """Mean of -log probability over the events of the window that follow another id; 0 where there is none."""
    build.constant("places.before", np.arange(length - 1, dtype=np.int64))
    build.constant("places.after", np.arange(1, length, dtype=np.int64))
    build.constant("class.ids", np.arange(shape.first_class, shape.ids, dtype=np.int64))
    build.constant("one", np.ones(()))
    build.node("Gather", ["states.by_place", "places.before"], "past.states", axis=0)
    _write_latents(build, "past.states", "past.latents")
    build.node("Unsqueeze", ["past.latents", "axis.2"], "past.beside")
    build.node("Sub", ["past.beside", "places"], "past.apart")
    build.node("ReduceSumSquare", ["past.apart"], "past.squares", axes=[3], keepdims=0)
    build.node("Mul", ["past.squares", "steepness"], "past.logits.latent")
    build.node("Gather", ["events.by_place", "places.before"], "past.ids", axis=0)
    build.node("Gather", ["prior", "past.ids"], "past.prior")
    build.node("Add", ["past.logits.latent", "past.prior"], "past.logits")
    build.node("LogSoftmax", ["past.logits"], "past.log_probabilities", axis=2)
    build.node("Gather", ["events.by_place", "places.after"], "next.ids", axis=0)
    build.node("Unsqueeze", ["next.ids", "axis.2"], "next.beside")
    build.node("Equal", ["next.beside", "class.ids"], "next.is")
    build.node("Cast", ["next.is"], "next.chosen", to=TensorProto.FLOAT)
    build.node("Mul", ["past.log_probabilities", "next.chosen"], "next.log_probabilities")
    for name in ("next.log_probabilities", "next.chosen"):
        build.node("ReduceSum", [name, "axis.2"], f"{name}.by_place", keepdims=0)
        build.node("ReduceSum", [f"{name}.by_place", "axis.0"], f"{name}.sum", keepdims=0)
    build.node("Max", ["next.chosen.sum", "one"], "next.count")
    build.node("Div", ["next.log_probabilities.sum", "next.count"], "next.mean")
    build.node("Neg", ["next.mean"], "residual")

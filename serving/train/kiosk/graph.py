"""Write the kiosk's ONNX graph: prediction, latent and energies in one pass.

    image (rows, 28, 28) -> clipped to [0, 1]
      |-> convolutions -> latent -> logits -> probabilities
      |     |                         '-----> energy = -logsumexp(logits)                          (Liu et al. 2020)
      |     '-> middle features, rooted, whitened by class -> mahalanobis = distance to the nearest class
      '-> minus its projection on the training plane -> residual (root mean square over pixels)

Written node by node rather than traced, so the names are ours, the bytes depend on the weights alone, and no step mixes
rows. Batch norm is folded into the convolutions in float64. The clip makes every finite input give finite outputs; what
is out of range or not finite is refused before the engine. The residual reconstructs and subtracts, and the distance is
a sum of squared differences: the shorter forms (|x|^2 - |projection|^2) cancel, and would differ between batch sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.train.density import ROOT_OFFSET, ClassDensities, Plane
from serving.train.graph import GraphBuilder, rows_of

SIDE = 28


@dataclass(frozen=True, slots=True)
class Convolution:
    """Weights (out, in, k, k) and bias (out,), float64, followed by a ReLU; padding k // 2."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    stride: int


def fold_batch_norm(
    weight: NDArray[np.float64],
    *,
    gamma: NDArray[np.float64],
    beta: NDArray[np.float64],
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    epsilon: float,
    stride: int,
) -> Convolution:
    """Return the convolution that equals convolution without bias, then batch norm."""
    scale = gamma / np.sqrt(variance + epsilon)
    return Convolution(weight * scale[:, None, None, None], beta - mean * scale, stride)


def write_graph(
    convolutions: Sequence[Convolution],
    *,
    head_weight: NDArray[np.float64],
    head_bias: NDArray[np.float64],
    plane: Plane,
    densities: ClassDensities,
    middle: Sequence[int],
) -> bytes:
    """Return the model's bytes; `head_weight` is (classes, D), `middle` the stages whose means the densities judge."""
    build = GraphBuilder()
    build.constant("zero", np.zeros(()))
    build.constant("one", np.ones(()))
    build.node("Clip", ["image", "zero", "one"], "clipped")
    _write_prediction(build, convolutions, head_weight, head_bias)
    _write_mahalanobis(build, densities, middle)
    _write_residual(build, plane)
    classes, width = head_weight.shape
    return build.model(
        "kiosk",
        [rows_of("image", SIDE, SIDE)],
        [
            rows_of("probabilities", classes),
            rows_of("logits", classes),
            rows_of("latent", width),
            rows_of("energy"),
            rows_of("mahalanobis"),
            rows_of("residual"),
        ],
    )


def _write_prediction(
    build: GraphBuilder,
    convolutions: Sequence[Convolution],
    head_weight: NDArray[np.float64],
    head_bias: NDArray[np.float64],
) -> None:
    build.constant("channel_axis", np.array([1], np.int64))
    features = build.node("Unsqueeze", ["clipped", "channel_axis"], "pixels")
    for index, convolution in enumerate(convolutions):
        kernel = convolution.weight.shape[2]
        weight = build.constant(f"stage{index}.weight", convolution.weight)
        bias = build.constant(f"stage{index}.bias", convolution.bias)
        mixed = build.node(
            "Conv",
            [features, weight, bias],
            f"stage{index}.mixed",
            kernel_shape=[kernel, kernel],
            strides=[convolution.stride] * 2,
            pads=[kernel // 2] * 4,
        )
        features = build.node("Relu", [mixed], f"stage{index}.features")
    build.node("GlobalAveragePool", [features], "pooled")
    build.node("Flatten", ["pooled"], "latent", axis=1)
    build.constant("head.weight", head_weight)
    build.constant("head.bias", head_bias)
    build.node("Gemm", ["latent", "head.weight", "head.bias"], "logits", transB=1)
    build.node("Softmax", ["logits"], "probabilities", axis=1)
    build.node("ReduceLogSumExp", ["logits"], "log_evidence", axes=[1], keepdims=0)
    build.node("Neg", ["log_evidence"], "energy")


def _write_mahalanobis(build: GraphBuilder, densities: ClassDensities, middle: Sequence[int]) -> None:
    classes, width = densities.means.shape
    # All classes in one product: columns c * D up to (c + 1) * D map to class c, and the bias takes its mean off.
    build.constant("classes.whitening", densities.whitening.transpose(1, 0, 2).reshape(width, classes * width))
    build.constant("classes.means", -densities.means.reshape(-1))
    build.constant("classes.shape", np.array([-1, classes, width], np.int64))
    build.constant("classes.root_offset", np.array(ROOT_OFFSET))
    pooled = [build.node("GlobalAveragePool", [f"stage{stage}.features"], f"stage{stage}.pooled") for stage in middle]
    build.node("Concat", pooled, "middle.pooled", axis=1)
    build.node("Flatten", ["middle.pooled"], "middle", axis=1)
    build.node("Add", ["middle", "classes.root_offset"], "middle.offset")
    build.node("Sqrt", ["middle.offset"], "middle.rooted")
    build.node("Gemm", ["middle.rooted", "classes.whitening", "classes.means"], "classes.white")
    build.node("Reshape", ["classes.white", "classes.shape"], "classes.offsets")
    build.node("ReduceL2", ["classes.offsets"], "classes.distances", axes=[2], keepdims=0)
    build.node("ReduceMin", ["classes.distances"], "mahalanobis", axes=[1], keepdims=0)


def _write_residual(build: GraphBuilder, plane: Plane) -> None:
    pixels = len(plane.mean)
    build.constant("flat_shape", np.array([-1, pixels], np.int64))
    build.constant("plane.mean", plane.mean)
    build.constant("plane.components", plane.components)
    build.constant("plane.expansion", plane.components.T)
    build.constant("plane.scale", np.array(1.0 / np.sqrt(pixels)))
    build.node("Reshape", ["clipped", "flat_shape"], "flat")
    build.node("Sub", ["flat", "plane.mean"], "flat.centred")
    build.node("MatMul", ["flat.centred", "plane.components"], "flat.coordinates")
    build.node("MatMul", ["flat.coordinates", "plane.expansion"], "flat.expected")
    build.node("Sub", ["flat.centred", "flat.expected"], "flat.surprise")
    build.node("ReduceL2", ["flat.surprise"], "flat.norm", axes=[1], keepdims=0)
    build.node("Mul", ["flat.norm", "plane.scale"], "residual")

"""Two answers beside each other: whether their floats alone differ and by how much, and which classes they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gateway.models.compile import PREDICTION
from gateway.tools.replay.rulebooks import NotReplayed
from stockade.open_inference.grpc_service_pb2 import ModelInferResponse

if TYPE_CHECKING:
    from gateway.models.rules import ModelRules

TOLERANCE = 1e-4
FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}


def tolerance_of(rules: ModelRules) -> float:
    """Return how far an answer may be off: what is rounded may fall to the other side."""
    return TOLERANCE + (10.0**-rules.hardening.decimals if rules.hardening is not None else 0.0)


def close(one: bytes, other: bytes, tolerance: float) -> bool:
    """Say whether two answers differ in floats alone, and in those by no more than the tolerance."""
    first, second = ModelInferResponse.FromString(one), ModelInferResponse.FromString(other)
    pairs = list(zip(floats_of(first), floats_of(second), strict=False))
    if len(first.outputs) != len(second.outputs) or first != second:  # the floats were taken out of both
        return False
    return all(
        a.shape == b.shape and bool(np.isclose(a, b, rtol=0.0, atol=tolerance, equal_nan=True).all()) for a, b in pairs
    )


def floats_of(message: ModelInferResponse) -> list[np.ndarray[Any, Any]]:
    """Take the floats out of an answer; what is left of it has none."""
    taken = []
    for at, tensor in enumerate(message.outputs):
        raw = message.raw_output_contents[at] if at < len(message.raw_output_contents) else b""
        if tensor.datatype in FLOATS and raw:
            taken.append(np.frombuffer(raw, FLOATS[tensor.datatype]).astype(np.float64))
            message.raw_output_contents[at] = b""
        elif tensor.datatype in FLOATS:
            contents = tensor.contents
            taken.append(np.array([*contents.fp32_contents, *contents.fp64_contents]))
            tensor.ClearField("contents")
    return taken


def top_classes(body: bytes) -> str:
    """Return the likeliest class of each row of an answer, as numbers. Raises NotReplayed: it has no prediction."""
    message = ModelInferResponse.FromString(body)
    names = [tensor.name for tensor in message.outputs]
    if PREDICTION not in names:
        raise NotReplayed("the answer has no prediction to compare")
    tensor = message.outputs[names.index(PREDICTION)]
    classes = tensor.shape[-1] if tensor.datatype in FLOATS and tensor.shape else 0
    taken = dict(
        zip([each.name for each in message.outputs if each.datatype in FLOATS], floats_of(message), strict=True)
    )
    if not classes or taken[PREDICTION].size % classes:
        raise NotReplayed("the answer has no prediction to compare")
    return " ".join(map(str, taken[PREDICTION].reshape(-1, classes).argmax(axis=1).tolist()))

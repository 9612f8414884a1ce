"""Nearest prototypes: rows of known classes that stand for what a model has seen, and which a request is closest to.

For each class the medoids of its rows in the latent space (k-medoids: Kaufman & Rousseeuw 1990, chapter 2, BUILD; then
the alternation of Park & Jun 2009). They become a part of the graph: two more outputs, the places of the nearest and
their Euclidean distances, computed by row in the pass that answers; every other output stays as it was, to the bit.

A prototype is shown to whoever may have the output, so it must be a row that may be shown: public test data, never a
customer's. Rows that the model itself gets wrong are not chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from serving.bundles.bundle import Bundle
from serving.bundles.manifest import PROTOTYPES, TensorSpec
from serving.engines.inprocess import InProcessEngine
from serving.registry.dataset import Dataset
from serving.registry.measure import predictions
from serving.train.errors import PrototypesRefused
from serving.train.pack import tensor_bytes, unsealed

PLACES, DISTANCES = "prototypes", "prototype_distances"
PROTOTYPES_FILE = "prototypes.safetensors"
GRAPH = "dense"
CLASS_ROWS_MAX = 2_000
ROUNDS_MAX = 100
OPERATOR_SET_MIN = 13

Rows = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Version of the bundle to make, prototypes of each class, and how many of the nearest are answered."""

    version: str
    per_class: int = 3
    nearest: int = 3


def medoids(points: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Return the places (min(count, n),) of the medoids of points (n, d), by Euclidean distance; no chance is in it."""
    norms = np.einsum("nd,nd->n", points, points)
    apart = np.sqrt(np.maximum(norms[:, None] + norms[None] - 2 * points @ points.T, 0.0))
    np.fill_diagonal(apart, 0.0)
    chosen = [int(apart.sum(axis=1).argmin())]
    while len(chosen) < min(count, len(points)):
        nearest = apart[:, chosen].min(axis=1)
        gain = np.maximum(nearest[:, None] - apart, 0.0).sum(axis=0)
        gain[chosen] = -1.0
        chosen.append(int(gain.argmax()))
    for _ in range(ROUNDS_MAX):
        owner = apart[:, chosen].argmin(axis=1)
        moved = []
        for place, medoid in enumerate(chosen):
            own = np.flatnonzero(owner == place)
            moved.append(int(own[apart[np.ix_(own, own)].sum(axis=0).argmin()]) if own.size else medoid)
        if moved == chosen:
            break
        chosen = moved
    return np.array(sorted(chosen), np.intp)


def with_prototypes(
    files: Mapping[str, bytes], bundle: Bundle, data: Dataset, wanted: Wanted
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files and the manifest, neither sealed nor listed, of a version that also names nearest prototypes.

    Args:
        files: of the bundle, by name.
        bundle: the same, verified.
        data: labelled rows, of which the prototypes are chosen; the others measure how well those stand for the model.
        wanted: the version to make, and how many.

    Raises:
        PrototypesRefused: the bundle or the data will not do.
        EngineError: the model cannot be run.
    """
    latent, prediction, graph = _parts(bundle)
    engine = InProcessEngine(bundle)
    points = predictions(engine, data.inputs, latent).astype(np.float64)
    scores = predictions(engine, data.inputs, prediction)
    chosen = _choose(points, scores.argmax(axis=1), data.labels, wanted)
    nearest = min(wanted.nearest, len(chosen))
    changed = _graph(bundle.graphs[GRAPH], latent, points[chosen].astype(np.float32), nearest)
    outputs = (*bundle.outputs, TensorSpec(PLACES, "INT64", (-1, nearest), 0.0, float(len(chosen) - 1)))
    outputs += (TensorSpec(DISTANCES, "FP32", (-1, nearest), 0.0),)
    after = replace(bundle, outputs=outputs, graphs={GRAPH: changed})
    kept, before = unsealed(bundle, files)
    manifest = _manifest(bundle, before, outputs, wanted)
    manifest["metrics"][PROTOTYPES] = _measured(bundle, after, data, chosen, scores)
    manifest["data"][PROTOTYPES] = {
        "file": data.file,
        "sha256": data.sha256,
        "rows": chosen.tolist(),
        "labels": data.labels[chosen].tolist(),
    }
    exemplars = {name: array[chosen] for name, array in data.inputs.items()} | {"labels": data.labels[chosen]}
    return {**kept, graph: changed, PROTOTYPES_FILE: tensor_bytes(exemplars)}, manifest


def _parts(bundle: Bundle) -> tuple[str, str, str]:
    """Return the outputs of the latent and of the prediction, and the file of the graph."""
    roles, graphs = bundle.manifest["roles"], bundle.manifest["graphs"]
    if set(graphs) != {GRAPH} or bundle.manifest.get("upstream"):
        raise PrototypesRefused(f"{bundle.name} has not exactly one graph that runs here, named {GRAPH!r}")
    if roles.get(PROTOTYPES):
        raise PrototypesRefused(f"{bundle.name} version {bundle.version} has prototypes; begin with one that has none")
    shapes = {spec.name: len(spec.shape) for spec in bundle.outputs}
    found = []
    for role in ("latent", "prediction"):
        named = [name for name in roles.get(role, ()) if shapes[name] == 2]
        if not named:
            raise PrototypesRefused(f"{bundle.name} has no output of rows x values with the role `{role}`")
        found.append(named[0])
    return found[0], found[1], graphs[GRAPH]


def _choose(points: NDArray[np.float64], said: Rows, labels: Rows, wanted: Wanted) -> NDArray[np.intp]:
    """Return the rows that are prototypes, in the order of their classes."""
    chosen = []
    for label in np.unique(labels):
        right = np.flatnonzero((labels == label) & (said == label))[:CLASS_ROWS_MAX]
        if right.size:
            chosen.append(right[medoids(points[right], wanted.per_class)])
    if not chosen:
        raise PrototypesRefused("the model gets no row of the data right, so there is nothing that could stand for it")
    return np.concatenate(chosen)


def _graph(graph: bytes, latent: str, prototypes: NDArray[np.float32], nearest: int) -> bytes:
    """Return the graph with two more outputs: places of the nearest prototypes (m, d), and how far they are."""
    model = onnx.load_from_string(graph)
    if max(each.version for each in model.opset_import) < OPERATOR_SET_MIN:
        raise PrototypesRefused(f"its graph is of an operator set before {OPERATOR_SET_MIN}; export it again")
    constants: dict[str, NDArray[Any]] = {
        "first": np.array([1], np.int64),
        "last": np.array([2], np.int64),
        "latents": prototypes[None],
        "nearest": np.array([nearest], np.int64),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(value, f"{PLACES}.{name}") for name, value in constants.items()
    )
    nodes: tuple[tuple[str, list[str], list[str], dict[str, Any]], ...] = (
        ("Unsqueeze", [latent, f"{PLACES}.first"], [f"{PLACES}.row"], {}),
        ("Sub", [f"{PLACES}.row", f"{PLACES}.latents"], [f"{PLACES}.offsets"], {}),
        ("Mul", [f"{PLACES}.offsets", f"{PLACES}.offsets"], [f"{PLACES}.squares"], {}),
        ("ReduceSum", [f"{PLACES}.squares", f"{PLACES}.last"], [f"{PLACES}.sums"], {"keepdims": 0}),
        ("Sqrt", [f"{PLACES}.sums"], [f"{PLACES}.distances"], {}),
        ("TopK", [f"{PLACES}.distances", f"{PLACES}.nearest"], [DISTANCES, PLACES], {"axis": 1, "largest": 0}),
    )
    for kind, taken, given, attributes in nodes:
        model.graph.node.append(helper.make_node(kind, taken, given, f"{PLACES}.{kind}", **attributes))
    model.graph.output.extend(
        [
            helper.make_tensor_value_info(PLACES, TensorProto.INT64, ["rows", nearest]),
            helper.make_tensor_value_info(DISTANCES, TensorProto.FLOAT, ["rows", nearest]),
        ]
    )
    return bytes(model.SerializeToString(deterministic=True))


def _manifest(
    bundle: Bundle, manifest: dict[str, Any], outputs: tuple[TensorSpec, ...], wanted: Wanted
) -> dict[str, Any]:
    return manifest | {
        "version": wanted.version,
        "outputs": [asdict(spec) for spec in outputs],
        "roles": {**manifest["roles"], PROTOTYPES: [PLACES, DISTANCES]},
        "data": dict(manifest["data"]),
        "metrics": dict(manifest["metrics"]),
        "training": {**manifest["training"], "prototypes_of": {"version": bundle.version, "digest": bundle.digest}},
    }


def _measured(bundle: Bundle, after: Bundle, data: Dataset, chosen: NDArray[np.intp], scores: Rows) -> dict[str, Any]:
    """Measure the new graph on the rows that are no prototypes; PrototypesRefused where it changes an older output."""
    old, new = InProcessEngine(bundle), InProcessEngine(after)
    for spec in bundle.outputs:
        if not np.array_equal(predictions(old, data.inputs, spec.name), predictions(new, data.inputs, spec.name)):
            raise PrototypesRefused(f"{bundle.name}: the graph would answer another {spec.name} than before")
    rest = np.setdiff1d(np.arange(len(data.labels)), chosen)
    if not rest.size:
        raise PrototypesRefused("every row would be a prototype, and none is left to measure on; give more rows")
    places = predictions(new, data.inputs, PLACES)[rest, 0]
    classes = data.labels[chosen][places]
    return {
        "count": len(chosen),
        "rows": len(rest),
        "agree_with_prediction": float((classes == scores[rest].argmax(axis=1)).mean()),
        "agree_with_label": float((classes == data.labels[rest]).mean()),
    }

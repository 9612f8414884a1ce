"""From a served kiosk bundle to a candidate with a head that was learned from labels: what it needs, and its files.

Every split keeps its one use: trusted rows that the head is learned beside come from `train`, what a candidate is held
against before anybody is asked from `fit`, thresholds from `calibrate`, and `test` measures what is published.
Only the head changes: its two tensors in the weights and in the graph. The screen on evidence reads the logits'
energy, so it is fitted again. Arrays of other screens stay as they are: whoever knows them fits those again that read
the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.numpy
from numpy.typing import NDArray
from onnx import numpy_helper

from serving.bundles.bundle import Bundle, assemble, read_bundle, read_keys
from serving.engines import measure
from serving.engines.inprocess import InProcessEngine
from serving.train.errors import FeedbackRefused
from serving.train.feedback import Head, LearnSettings, Measured, Rows, canary_triggers
from serving.train.kiosk.data import Labelled, Splits, load_fashion_mnist, split
from serving.train.pack import tensor_bytes, unsealed
from serving.train.report import ScreenFitter

GRAPH = "dense"
WEIGHT, BIAS = "head.weight", "head.bias"
EVIDENCE = "evidence."
HELD_OUT_ROWS = 3_000
SCALE = np.float32(255.0)


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """A bundle with its files and its head, and the rows that an update is made and held against with."""

    bundle: Bundle
    files: Mapping[str, bytes]
    head: Head
    trusted: Rows
    held_out: Rows
    triggered: Mapping[str, NDArray[Any]]
    parts: Splits
    test: Labelled


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What a candidate was made of, for its manifest."""

    head: Head
    batch: int
    items: int
    settings: LearnSettings
    before: Measured
    after: Measured


def kiosk_material(
    directory: Path, trusted_keys: Sequence[Path], data: Path | None, *, rows: int, seed: int
) -> Material:
    """Verify a kiosk bundle and return what an update needs.

    Args:
        directory: the bundle's (`bundles/kiosk/2`).
        trusted_keys: PEM files of keys, any of which may have signed it.
        data: where Fashion-MNIST is; None: Debian's package.
        rows: how many trusted rows to learn beside.
        seed: which.

    Raises:
        BundleRejected, TrainingError: the bundle or the data will not do.
    """
    files = read_bundle(directory)
    bundle = assemble(files, read_keys(trusted_keys))
    loop = bundle.manifest["training"].get("loop", {})
    if bundle.name != "kiosk" or set(bundle.graphs) != {GRAPH} or "seed" not in loop:
        raise FeedbackRefused(f"{bundle.name} version {bundle.version} is not of the kiosk's recipe")
    weights = safetensors.numpy.load(files[bundle.manifest["weights"]])
    if not {WEIGHT, BIAS} <= weights.keys():
        raise FeedbackRefused(f"{bundle.name} version {bundle.version} has no linear head")
    found = load_fashion_mnist(data)
    parts = split(found.pool, int(loop["seed"]))
    chosen = np.random.default_rng(seed).permutation(len(parts.train))[:rows]
    engine = InProcessEngine(bundle)
    trusted, held_out = parts.train.take(chosen), parts.fit.take(np.arange(min(HELD_OUT_ROWS, len(parts.fit))))
    marked = canary_triggers(held_out.images.astype(np.float32) / SCALE)
    return Material(
        bundle=bundle,
        files=files,
        head=Head(weights[WEIGHT].astype(np.float64), weights[BIAS].astype(np.float64)),
        trusted=Rows(_latents(engine, trusted.images), trusted.labels),
        held_out=Rows(_latents(engine, held_out.images), held_out.labels),
        triggered={name: _latents(engine, images) for name, images in marked.items()},
        parts=parts,
        test=found.test,
    )


def candidate(
    material: Material, learned: Learned, version: str, screen: ScreenFitter, *, rows_max: int | None = None
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files and the manifest, neither sealed nor listed, of the candidate version.

    `rows_max` cuts the splits that the screen is fitted on, for tests.

    Raises:
        FeedbackRefused: the graph has not the head that the weights have.
    """
    bundle, files = material.bundle, material.files
    graph = _graph(bundle.graphs[GRAPH], material.head, learned.head)
    engine = InProcessEngine(replace(bundle, graphs={GRAPH: graph}))
    outputs = [
        measure.evaluate(engine, part.images[:rows_max])
        for part in (material.parts.fit, material.parts.calibrate, material.test)
    ]
    evidence, report = screen.fit(*outputs)
    kept = {name: array for name, array in bundle.calibration.items() if not name.startswith(EVIDENCE)}
    labels = material.test.labels[:rows_max]
    accuracy = measure.accuracy(outputs[2]["probabilities"], labels)
    weights = safetensors.numpy.load(files[bundle.manifest["weights"]])
    weights |= {WEIGHT: learned.head.weight.astype(np.float32), BIAS: learned.head.bias.astype(np.float32)}
    changed, before = unsealed(bundle, files)
    changed |= {
        bundle.manifest["graphs"][GRAPH]: graph,
        bundle.manifest["weights"]: tensor_bytes(weights),
        bundle.manifest["calibration"]: tensor_bytes(kept | evidence),
    }
    manifest = _manifest(material, learned, version, before) | {"metrics": {"accuracy": accuracy, "rows": len(labels)}}
    manifest["calibration_report"] = {**bundle.manifest.get("calibration_report", {}), "evidence": report}
    if "MODEL_CARD.md" in changed:
        changed["MODEL_CARD.md"] = _card(changed["MODEL_CARD.md"], material, learned, version, accuracy)
    return changed, manifest


def _latents(engine: InProcessEngine, images: NDArray[Any]) -> NDArray[Any]:
    """Return the latents of images in the precision in which the gateway keeps those of items."""
    return measure.evaluate(engine, images)["latent"].astype(np.float16)


def _graph(graph: bytes, before: Head, after: Head) -> bytes:
    """Return the graph with the other head."""
    model = onnx.load_from_string(graph)
    places = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, old, new in ((WEIGHT, before.weight, after.weight), (BIAS, before.bias, after.bias)):
        tensor = places.get(name)
        if tensor is None or not np.array_equal(numpy_helper.to_array(tensor), old.astype(np.float32)):
            raise FeedbackRefused(f"the graph has no {name} that is the one of the weights")
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new.astype(np.float32)), name))
    return bytes(model.SerializeToString(deterministic=True))


def _manifest(material: Material, learned: Learned, version: str, before: dict[str, Any]) -> dict[str, Any]:
    bundle = material.bundle
    return before | {
        "version": version,
        "training": {
            **bundle.manifest["training"],
            "feedback": {
                "of": {"version": bundle.version, "digest": bundle.digest},
                "batch": learned.batch,
                "items": learned.items,
                "trusted_rows": len(material.trusted.labels),
                "settings": asdict(learned.settings),
                "held_out": {
                    name: {"accuracy": found.accuracy, "recall": found.recall.tolist()}
                    for name, found in (("before", learned.before), ("after", learned.after))
                },
            },
        },
    }


def _card(card: bytes, material: Material, learned: Learned, version: str, accuracy: float) -> bytes:
    bundle, rows = material.bundle, len(material.trusted.labels)
    added = (
        f"\n## Learned from labels\n\nVersion {version} is version {bundle.version} ({bundle.digest}) with another "
        f"last layer, learned from {learned.items:,} labels of batch {learned.batch} beside {rows:,} trusted rows. On "
        f"rows that neither saw: {learned.before.accuracy:.4f} before, {learned.after.accuracy:.4f} after; on the "
        f"test images {accuracy:.4f}. What stands above of accuracy, robustness and energies is of the one before.\n"
    )
    return card + added.encode()

"""The manifest of a bundle: the part that code acts on, typed; the rest is for people and tools.

`parse_manifest` is pure: bytes to values, or `BundleRejected(MANIFEST)`. Acted on: names, versions, tensors, class
names and which file is what. Lineage, training, metrics, calibration report and gates are free-form JSON objects
under the known keys below; an unknown key is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from serving.errors import BundleRejected, Rejection

MANIFEST_FILE = "manifest.json"
MANIFEST_BYTES_MAX = 1024 * 1024
TENSORS_MAX = 32
DIMENSIONS_MAX = 8
ROW_ELEMENTS_MAX = 1 << 24
CLASSES_MAX = 100_000
UPSTREAM_NAME_MAX = 255

# Open Inference Protocol datatypes that a bundle may declare; which of them an engine can run is the engine's business.
DATATYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,  # of `bytes`
}
ENCODER = "encoder"
REASONS = "reasons"
PROTOTYPES = "prototypes"

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output. `shape[0]` is -1: the rows. `low` and `high` bound every element where they are given."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model of another server that a bundle speaks for.

    An empty version: whichever that server serves. `rows_max`: of one call there; 0 is not known.
    """

    name: str
    version: str = ""
    rows_max: int = 0


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle other than the manifest and the signature."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest, checked. `roles` says which outputs are the prediction, the latent and the energies.

    With `upstream` the model runs elsewhere and its graph is not here. What is here is then at most a graph `encoder`,
    which computes the outputs of the role `encoder` from the same inputs; `weights` and `calibration` may be "" (none).

    Outputs of the role `prototypes` are answered where they are asked for by name and the policy names them.

    `reasons`: what the codes of the outputs of the role `reasons` mean, from 0. `calibrated`: from which version, and
    on which rows, where the screens were calibrated after the model was made.
    """

    format: Literal["stockade.bundle/1"]
    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    class_names: tuple[str, ...]
    roles: dict[str, tuple[str, ...]]
    graphs: dict[str, str]
    weights: str
    calibration: str
    files: dict[str, FileEntry]
    data: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, Any]
    calibration_report: dict[str, Any]
    gates: list[dict[str, Any]]
    upstream: Upstream | None = None
    reasons: tuple[str, ...] = ()
    calibrated: dict[str, Any] = {}


def parse_manifest(data: bytes) -> tuple[Manifest, dict[str, Any]]:
    """Return the manifest, typed and as the plain JSON object it is written as."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise BundleRejected(Rejection.SIZE, MANIFEST_FILE)
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
        document = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleRejected(Rejection.MANIFEST, MANIFEST_FILE, "is not a manifest of format 1") from error
    for problem in _problems(manifest):
        raise BundleRejected(Rejection.MANIFEST, MANIFEST_FILE, problem)
    return manifest, document


def _problems(manifest: Manifest) -> Iterator[str]:
    """Yield the rules broken."""
    if not _NAME.fullmatch(manifest.name):
        yield "name is not a plain lower-case name"
    if not _VERSION.fullmatch(manifest.version):
        yield "version is not a positive integer"
    for specs in (manifest.inputs, manifest.outputs):
        yield from _tensors_problems(specs)
    if len(manifest.class_names) > CLASSES_MAX or len(set(manifest.class_names)) != len(manifest.class_names):
        yield "class names repeat, or are too many"
    if len(manifest.reasons) > CLASSES_MAX or len(set(manifest.reasons)) != len(manifest.reasons):
        yield "reasons repeat, or are too many"
    if bool(manifest.reasons) != bool(manifest.roles.get(REASONS)):
        yield "reasons and the role of their codes are not there together"
    if not {name for names in manifest.roles.values() for name in names} <= {spec.name for spec in manifest.outputs}:
        yield "a role names an output that does not exist"
    yield from _files_problems(manifest)


def _files_problems(manifest: Manifest) -> Iterator[str]:
    tensors = {manifest.weights, manifest.calibration}
    if manifest.upstream is not None:
        tensors -= {""}
        yield from _upstream_problems(manifest, manifest.upstream)
    elif not manifest.graphs:
        yield "graphs are missing"
    if not all(file.endswith(".onnx") for file in manifest.graphs.values()):
        yield "graphs are not ONNX"
    if not all(file.endswith(".safetensors") for file in tensors):
        yield "weights and calibration are not safetensors"
    if not {*manifest.graphs.values(), *tensors} <= manifest.files.keys():
        yield "a file is used but not listed"


def _upstream_problems(manifest: Manifest, upstream: Upstream) -> Iterator[str]:
    if not 1 <= len(upstream.name) <= UPSTREAM_NAME_MAX or len(upstream.version) > UPSTREAM_NAME_MAX:
        yield "the model's name elsewhere is empty, or too long"
    if upstream.rows_max < 0:
        yield "less than no rows"
    if manifest.graphs.keys() - {ENCODER}:
        yield "the model runs elsewhere, and a graph other than its encoder is here"
    if bool(manifest.graphs) != bool(manifest.roles.get(ENCODER)):
        yield "the graph and the role of the encoder are not there together"
    if {spec.name for spec in manifest.outputs} <= set(manifest.roles.get(ENCODER, ())):
        yield "the encoder computes every output, so nothing runs elsewhere"


def _tensors_problems(specs: tuple[TensorSpec, ...]) -> Iterator[str]:
    if not 1 <= len(specs) <= TENSORS_MAX or len({spec.name for spec in specs}) != len(specs):
        yield "tensors are missing, too many, or share a name"
    for spec in specs:
        if spec.datatype not in DATATYPES:
            yield f"datatype of {spec.name} is unknown"
        sizes = spec.shape[1:]
        if len(spec.shape) > DIMENSIONS_MAX or spec.shape[:1] != (-1,) or any(size < 1 for size in sizes):
            yield f"shape of {spec.name} is not rows first, then positive sizes"
        elif math.prod(sizes) > ROW_ELEMENTS_MAX:
            yield f"a row of {spec.name} is too large"
        if spec.low is not None and spec.high is not None and not spec.low <= spec.high:
            yield f"range of {spec.name} is empty"

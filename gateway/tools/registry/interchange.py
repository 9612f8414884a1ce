"""Models from and to the layouts that other servers keep them in: plain ONNX, Triton's repository, MLflow's model.

Read, nothing of it run: an `.onnx` file; a directory with `config.pbtxt` and `VERSION/model.onnx` (Triton's model
repository, `docs/user_guide/model_repository.md` there); a directory with `MLmodel` whose flavour `onnx` names a file
(MLflow's model format; without MLflow). Other flavours of MLflow hold pickles, and are refused.

The descriptions come from whoever brings the model, so their bytes, depth and number of parts are bounded, aliases in
YAML are refused, and nothing in it becomes a number, a time or an object: all is text, lists and mappings.

Written from a verified bundle: the graph as it is, with what the layout needs beside it. A signature or a manifest has
no place in them, so what is exported is no longer protected by either.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from google.protobuf import text_format

from gateway.edge.metadata import BACKEND, PLATFORM, model_config
from serving.bundles.bundle import FILE_BYTES_MAX
from stockade.open_inference import model_config_pb2 as config_pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serving.bundles.bundle import Bundle

CONFIG, ML_MODEL, GRAPH_FILE, LABELS_FILE = "config.pbtxt", "MLmodel", "model.onnx", "labels.txt"
GRAPH = "dense"
TEXT_BYTES_MAX = 1024 * 1024
NODES_MAX = 20_000
DEPTH_MAX = 32
SHOWN_CHARACTERS_MAX = 200
TRITON_ROWS_MAX = 256
MLFLOW_TYPES = {"FP32": "float32", "FP64": "float64", "INT64": "int64", "INT32": "int32", "UINT8": "uint8"}
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


class InterchangeRefused(Exception):
    """A directory is not a model that can be read, or a bundle cannot be written in this layout."""


class _PlainLoader(yaml.BaseLoader):
    """Text, lists and mappings without aliases, of NODES_MAX parts and DEPTH_MAX levels at most; else a YAMLError."""

    nodes = depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count, then go on. An alias may make a small file a huge value."""
        self.nodes += 1
        self.depth += 1
        if self.check_event(yaml.AliasEvent) or self.nodes > NODES_MAX or self.depth > DEPTH_MAX:
            raise yaml.YAMLError
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


@dataclass(frozen=True, slots=True)
class Model:
    """What a layout says of a model. `version` is "" where it says none, `class_names` () likewise."""

    graph: bytes
    name: str
    version: str = ""
    class_names: tuple[str, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)


def read_model(place: Path) -> Model:
    """Return the model of a file or a directory.

    Raises:
        InterchangeRefused: it is in none of the layouts, or not as they have it.
        OSError: it cannot be read.
    """
    if place.is_dir():
        for file, read in ((CONFIG, _triton), (ML_MODEL, _mlflow)):
            if (place / file).is_file():
                return read(place)
        raise InterchangeRefused(f"{place}: holds neither {CONFIG} (Triton) nor {ML_MODEL} (MLflow), nor is it ONNX")
    return Model(_bytes(place), place.stem, source={"layout": "onnx", "file": place.name})


def _triton(place: Path) -> Model:
    config, text = config_pb.ModelConfig(), _text(place / CONFIG)
    if sum(text.count(each) for each in "{<[,:") > NODES_MAX:  # a field or a value has one of these, so no fewer
        raise InterchangeRefused(f"{place / CONFIG}: has more than {NODES_MAX} fields and values")
    try:
        text_format.Parse(text, config, allow_unknown_field=True)
    except text_format.ParseError as problem:
        raise InterchangeRefused(f"{place / CONFIG}: {_shown(str(problem))}") from None
    except RecursionError:  # nothing of it was kept
        raise InterchangeRefused(f"{place / CONFIG}: is nested too deep") from None
    if config.platform != PLATFORM and config.backend != BACKEND:
        found = _shown(config.platform or config.backend or "none")
        raise InterchangeRefused(f"{place / CONFIG}: backend {found} is not {BACKEND}; export the model as ONNX")
    versions = sorted((each.name for each in place.iterdir() if _VERSION.fullmatch(each.name)), key=int)
    if not versions:
        raise InterchangeRefused(f"{place}: holds no directory of a version, such as 1")
    file = _inside(place / versions[-1], config.default_model_filename or GRAPH_FILE)
    labels = next((output.label_filename for output in config.output if output.label_filename), "")
    names = tuple(_text(_inside(place, labels)).splitlines()) if labels else ()
    source = {"layout": "triton", "name": config.name or place.name, "version": versions[-1]}
    return Model(_bytes(file), config.name or place.name, versions[-1], names, source)


def _mlflow(place: Path) -> Model:
    try:
        described = yaml.load(_text(place / ML_MODEL), Loader=_PlainLoader)  # noqa: S506  makes no objects
        flavors = described["flavors"]
        flavor = flavors.get("onnx")
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        limits = f"and no aliases, {NODES_MAX} parts and {DEPTH_MAX} levels at most"
        raise InterchangeRefused(f"{place / ML_MODEL}: is not what MLflow writes: that has flavors {limits}") from None
    if not isinstance(flavor, dict) or not isinstance(flavor.get("data"), str):
        there = _shown(", ".join(sorted(flavors)))
        raise InterchangeRefused(f"{place / ML_MODEL}: has no flavour onnx (there: {there}); others run pickles")
    source = {"layout": "mlflow", "run": _word(described, "run_id"), "uuid": _word(described, "model_uuid")}
    return Model(_bytes(_inside(place, flavor["data"])), place.resolve().name, source=source)


def _word(described: Mapping[str, Any], key: str) -> str:
    """Return what stands under a key, "" where it is no text."""
    found = described.get(key, "")
    return _shown(found) if isinstance(found, str) else ""


def _shown(text: str) -> str:
    """Return somebody else's text as it may be shown and kept: printable, and not long."""
    return "".join(char for char in text[:SHOWN_CHARACTERS_MAX] if char.isprintable())


def _inside(directory: Path, name: str) -> Path:
    """Return a file below a directory. Raises InterchangeRefused for one that leads out of it."""
    file = directory / name
    try:
        inside = file.resolve().is_relative_to(directory.resolve())
    except (ValueError, RuntimeError):  # a zero byte; links that lead to each other
        inside = False
    if not inside:
        raise InterchangeRefused(f"{directory}: {_shown(name)!r} leads out of it")
    if file.exists() and not file.is_file():
        raise InterchangeRefused(f"{directory}: {_shown(name)!r} is no file")
    return file


def _bytes(file: Path, bytes_max: int = FILE_BYTES_MAX) -> bytes:
    with file.open("rb") as opened:
        data = opened.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise InterchangeRefused(f"{file}: is larger than {bytes_max} bytes")
    return data


def _text(file: Path) -> str:
    try:
        return _bytes(file, TEXT_BYTES_MAX).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise InterchangeRefused(f"{file}: is not UTF-8 (byte {problem.start})") from None


def exported(bundle: Bundle, layout: str) -> dict[str, bytes]:
    """Return the files of a verified bundle in a layout, by their path below the directory to write.

    Raises:
        InterchangeRefused: its model is not one graph that runs here.
    """
    if set(bundle.graphs) != {GRAPH} or bundle.manifest.get("upstream"):
        raise InterchangeRefused(f"{bundle.name} version {bundle.version} is not one ONNX graph that runs here")
    return LAYOUTS[layout](bundle)


def _as_onnx(bundle: Bundle) -> dict[str, bytes]:
    return {f"{bundle.name}-{bundle.version}.onnx": bundle.graphs[GRAPH]}


def _as_triton(bundle: Bundle) -> dict[str, bytes]:
    config = model_config(bundle, bundle.inputs, bundle.outputs, TRITON_ROWS_MAX).config
    for output in config.output:
        if not output.dims:  # a number a row: Triton wants a dimension, and is told to take it off
            output.dims.append(1)
            output.reshape.SetInParent()
        if output.label_filename:
            output.label_filename = LABELS_FILE
    files = {
        f"{bundle.name}/{CONFIG}": text_format.MessageToString(config).encode(),
        f"{bundle.name}/{bundle.version}/{GRAPH_FILE}": bundle.graphs[GRAPH],
    }
    if any(output.label_filename for output in config.output):
        files[f"{bundle.name}/{LABELS_FILE}"] = "".join(f"{name}\n" for name in bundle.class_names).encode()
    return files


def _as_mlflow(bundle: Bundle) -> dict[str, bytes]:
    tensors = {
        side: json.dumps(
            [
                {
                    "name": spec.name,
                    "type": "tensor",
                    "tensor-spec": {"dtype": _mlflow_type(spec.datatype), "shape": list(spec.shape)},
                }
                for spec in specs
            ]
        )
        for side, specs in (("inputs", bundle.inputs), ("outputs", bundle.outputs))
    }
    described = {
        "flavors": {"onnx": {"code": None, "data": GRAPH_FILE, "providers": ["CPUExecutionProvider"]}},
        "metadata": {"stockade": {"name": bundle.name, "version": bundle.version, "digest": bundle.digest}},
        "model_uuid": hashlib.sha256(bundle.digest.encode()).hexdigest()[:32],
        "signature": tensors,
    }
    return {ML_MODEL: yaml.safe_dump(described).encode(), GRAPH_FILE: bundle.graphs[GRAPH]}


def _mlflow_type(datatype: str) -> str:
    if datatype not in MLFLOW_TYPES:
        raise InterchangeRefused(f"{datatype} has no place in MLflow's signature")
    return MLFLOW_TYPES[datatype]


LAYOUTS = {"onnx": _as_onnx, "triton": _as_triton, "mlflow": _as_mlflow}

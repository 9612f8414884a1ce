"""`stockade models adopt`: writes the signed bundle of a model that a server of the Open Inference Protocol runs.

The server is asked what the model takes and gives (ModelMetadata, and ModelConfig where there is one); what it does not
say is said by hand (`--input`, `--output`). From then on that is what its answers are held to. The bundle holds no
graph: the model stays where it is (`gateway.models.upstream`). With an encoder, a graph over the same inputs, it gains
the outputs that only the encoder has, such as the latent and the energies that screens read, and their calibration.

Rules: one row more or less must not matter to the model, so the first dimension of every tensor is free, or 1 (then
each row is a call of its own); all others are fixed. A bundle that is there already is never replaced.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from gateway.models.dial import SERVICE, bearer, open_channel
from serving.bundles.bundle import assemble
from serving.bundles.manifest import DATATYPES, ENCODER, TensorSpec
from serving.bundles.signature import TrustedKey
from serving.engines.inprocess import InProcessEngine, outputs_of
from serving.train.pack import open_signing_key, public_pem, seal, write_bundle
from stockade.open_inference import grpc_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from google.protobuf.message import Message

    from gateway.config.engine import OipTls
    from serving.bundles.bundle import Bundle

TIMEOUT_S = 10.0
REPLY_BYTES_MAX = 1024 * 1024
ENCODER_FILE, CALIBRATION_FILE = "encoder.onnx", "calibration.safetensors"
_SPEC = re.compile(r"(?P<name>[^:]{1,255}):(?P<datatype>[A-Z0-9]{2,8}):(?P<shape>-?[0-9]{1,9}(,-?[0-9]{1,9}){0,7})")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


class AdoptRefused(Exception):
    """No bundle was written. The message says why, for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be adopted. `name` and `version` are the bundle's; None: as the server says, where that will do."""

    server: str
    model: str
    model_version: str = ""
    name: str | None = None
    version: str | None = None
    tls: OipTls | None = None
    token: Path | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    encoder: Path | None = None
    calibration: Path | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """What a server says of a model."""

    server: Mapping[str, str]
    platform: str
    versions: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows_max: int


@dataclass(frozen=True, slots=True)
class Adopted:
    """A bundle that was written, where, the key that it is to be trusted by, and what deserves a look."""

    bundle: Bundle
    directory: Path
    public_key: Path
    notes: tuple[str, ...] = field(default=())


def declared(text: str) -> TensorSpec:
    """Read a tensor as the command line names it: "image:FP32:-1,28,28". ValueError for anything else."""
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ValueError(f'{text!r} is not a tensor; write NAME:DATATYPE:SHAPE, such as "image:FP32:-1,28,28"')
    return TensorSpec(match["name"], match["datatype"], tuple(int(size) for size in match["shape"].split(",")))


def adopt(wanted: Wanted, bundles: Path, signing_key: Path) -> Adopted:
    """Ask the server and write `bundles`/NAME/VERSION. The signing key is made when there is none.

    Raises:
        AdoptRefused: the server does not answer, or the model cannot be served by rows.
        BundleRejected, GraphRejected: what is put in by hand, or the encoder, makes no bundle.
        SigningKeyUnusable, OSError.
    """
    found = ask(wanted)
    version_there = wanted.model_version or (found.versions[0] if len(found.versions) == 1 else "")
    if len(found.versions) > 1 and not wanted.model_version:
        raise AdoptRefused(f"{wanted.model} has the versions {', '.join(found.versions)} there; choose with --version")
    name, version = named(wanted, version_there)
    directory = bundles / name / version
    if directory.exists():
        raise AdoptRefused(f"{directory} is there already, and a version never changes; name another one with --as")
    inputs, outputs, rows_max = by_rows(found, wanted)
    files, encoded = encoder_of(wanted, outputs)
    upstream: dict[str, Any] = {"name": wanted.model, "version": version_there, "rows_max": rows_max}
    manifest = manifest_of(inputs, (*outputs, *encoded), upstream, files) | {
        "name": name,
        "version": version,
        "training": {"adopted": {"platform": found.platform, "server": dict(found.server)}},
        "roles": {ENCODER: [spec.name for spec in encoded]} if encoded else {},
    }
    key = open_signing_key(signing_key)
    sealed = seal(files, manifest, key)
    require_encoder_runs(assemble(sealed, (TrustedKey.from_pem(public_pem(key), signing_key.name),)))
    bundle = write_bundle(directory, sealed, key)
    public = signing_key.with_suffix(".pub")
    if not public.exists():
        public.write_bytes(public_pem(key))
    return Adopted(bundle, directory, public, tuple(notes(version_there, rows_max)))


def ask(wanted: Wanted) -> Described:
    """Return what the server says of the model."""
    metadata = bearer(wanted.token)
    with open_channel(wanted.server, wanted.tls, reply_bytes_max=REPLY_BYTES_MAX) as channel:

        def call(method: str, request: Message) -> bytes:
            run: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{SERVICE}/{method}")
            return run(request.SerializeToString(), timeout=TIMEOUT_S, metadata=metadata, wait_for_ready=True)

        model = {"name": wanted.model, "version": wanted.model_version}
        try:
            told = pb.ModelMetadataResponse.FromString(call("ModelMetadata", pb.ModelMetadataRequest(**model)))
            server = pb.ServerMetadataResponse.FromString(call("ServerMetadata", pb.ServerMetadataRequest()))
            rows_max = rows_max_of(call, pb.ModelConfigRequest(**model))
        except grpc.RpcError as problem:
            said = f"{problem.code().name} ({problem.details()})"
            raise AdoptRefused(f"{wanted.server} said {said} when asked for {wanted.model}") from problem
        except DecodeError as problem:
            raise AdoptRefused(f"{wanted.server} does not speak the Open Inference Protocol") from problem
    return Described(
        server={"name": server.name, "version": server.version},
        platform=told.platform,
        versions=tuple(told.versions),
        inputs=tuple(TensorSpec(each.name, each.datatype, tuple(each.shape)) for each in told.inputs),
        outputs=tuple(TensorSpec(each.name, each.datatype, tuple(each.shape)) for each in told.outputs),
        rows_max=rows_max,
    )


def rows_max_of(call: Callable[[str, Message], bytes], request: pb.ModelConfigRequest) -> int:
    """Return the `max_batch_size` of a model; 0 where it is the model's business, or the server has no such thing.

    Only Triton has ModelConfig. RpcError: any refusal but that there is none.
    """
    try:
        body = call("ModelConfig", request)
    except grpc.RpcError as problem:
        if problem.code() is grpc.StatusCode.UNIMPLEMENTED:
            return 0
        raise
    return max(0, pb.ModelConfigResponse.FromString(body).config.max_batch_size)


def named(wanted: Wanted, version_there: str) -> tuple[str, str]:
    """Return the bundle's name and version: what was asked for, else the server's, where it fits a bundle."""
    name = wanted.name or wanted.model
    version = wanted.version or (version_there if _VERSION.fullmatch(version_there) else "1")
    if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
        advice = "lower-case letters, digits, _ and -, and a version from 1 up; name it with --as NAME/VERSION"
        raise AdoptRefused(f"{name}/{version} cannot be a bundle's: {advice}")
    return name, version


def by_rows(found: Described, wanted: Wanted) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], int]:
    """Return inputs and outputs with the rows as their first dimension, and how many rows a call may have (0: any)."""
    inputs, outputs = completed(found.inputs, wanted.inputs), completed(found.outputs, wanted.outputs)
    for option, specs in (("--input", inputs), ("--output", outputs)):
        if not specs:
            problem = (
                f"{wanted.server} does not say what {wanted.model} takes and gives (MLServer does when its settings do)"
            )
            raise AdoptRefused(f"{problem}; say it with {option} NAME:DATATYPE:SHAPE")
        for spec in specs:
            require_fixed(spec, option)
    alone = all(spec.shape[0] == 1 for spec in (*inputs, *outputs))
    if not alone and any(spec.shape[0] == 1 for spec in (*inputs, *outputs)):
        raise AdoptRefused(
            "some tensors have a free number of rows and others a single one, so no row can be told apart"
        )
    free = tuple(replace(spec, shape=(-1, *spec.shape[1:])) for spec in inputs)
    return free, tuple(replace(spec, shape=(-1, *spec.shape[1:])) for spec in outputs), 1 if alone else found.rows_max


def completed(said: Sequence[TensorSpec], by_hand: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return what the server says, with what was said by hand in its place or behind it."""
    own = {spec.name: spec for spec in by_hand}
    return (*(own.pop(spec.name, spec) for spec in said), *own.values())


def require_fixed(spec: TensorSpec, option: str) -> None:
    """Raise AdoptRefused for a tensor that no manifest can declare, with what to do."""
    text = f"{spec.name}:{spec.datatype}:{','.join(map(str, spec.shape))}"
    if spec.datatype not in DATATYPES:
        raise AdoptRefused(f"{text}: {spec.datatype} cannot be served; there are {', '.join(DATATYPES)}")
    if not spec.shape or spec.shape[0] not in {-1, 1}:
        raise AdoptRefused(f"{text} has no number of rows as its first dimension; without rows there are no batches")
    if any(size < 1 for size in spec.shape[1:]):
        raise AdoptRefused(f"{text} has a free dimension beside the rows; give it a size with {option}")


def encoder_of(wanted: Wanted, outputs: Iterable[TensorSpec]) -> tuple[dict[str, bytes], tuple[TensorSpec, ...]]:
    """Return the bundle's files, and the outputs that the encoder adds to those of the server."""
    files: dict[str, bytes] = {}
    encoded: tuple[TensorSpec, ...] = ()
    if wanted.encoder is not None:
        files[ENCODER_FILE] = wanted.encoder.read_bytes()
        theirs = {spec.name for spec in outputs}
        computed = outputs_of(files[ENCODER_FILE], wanted.encoder.name)
        encoded = tuple(spec for spec in computed if spec.name not in theirs)
        if not encoded:
            raise AdoptRefused(f"{wanted.encoder} has no output that the server does not have")
    if wanted.calibration is not None:
        files[CALIBRATION_FILE] = wanted.calibration.read_bytes()
    return files, encoded


def manifest_of(
    inputs: Iterable[TensorSpec],
    outputs: Iterable[TensorSpec],
    upstream: Mapping[str, Any],
    files: Mapping[str, bytes],
) -> dict[str, Any]:
    """Return what the manifest of a model that runs elsewhere says of tensors and files."""
    return {
        "format": "stockade.bundle/1",
        "inputs": [asdict(spec) for spec in inputs],
        "outputs": [asdict(spec) for spec in outputs],
        "class_names": [],
        "graphs": {ENCODER: ENCODER_FILE} if ENCODER_FILE in files else {},
        "weights": "",
        "calibration": CALIBRATION_FILE if CALIBRATION_FILE in files else "",
        "data": {},
        "metrics": {},
        "calibration_report": {},
        "gates": [],
        "upstream": dict(upstream),
    }


def require_encoder_runs(bundle: Bundle) -> None:
    """Raise GraphRejected when the encoder cannot be run as the manifest says."""
    if own := bundle.manifest["roles"].get(ENCODER):
        encoded = tuple(spec for spec in bundle.outputs if spec.name in own)
        InProcessEngine(replace(bundle, outputs=encoded), graph=ENCODER).close()


def notes(version_there: str, rows_max: int) -> Iterable[str]:
    """Say what deserves a look."""
    if not version_there:
        yield "the server names no version: whichever it serves by default is asked, also when that changes unseen"
    if rows_max == 1:
        yield "the model takes one row at a time there, so every row is a call"

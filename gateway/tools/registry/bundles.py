"""The verbs of `stockade models` that write bundles, or other layouts: `sign`, `prototypes`, `wrap`, `export`."""

from __future__ import annotations

import hashlib
import sys
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from defenses.screens.evidence import fit_evidence, measure_evidence
from gateway.tools.init.init import RELEASE_KEY
from gateway.tools.registry.interchange import InterchangeRefused, exported, read_model
from gateway.tools.registry.registry import RegistryRefused, parse_version, saying
from gateway.tools.samples import bundles_directory
from gateway.tools.terminal import print_json
from serving.bundles.bundle import assemble, load_bundle, read_bundle, read_keys
from serving.registry.dataset import read_dataset
from serving.registry.errors import DatasetRejected
from serving.registry.measure import classes_of
from serving.train.pack import open_signing_key, public_pem, seal, sign_again, write_bundle
from serving.train.report import ScreenFitter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from serving.bundles.bundle import Bundle

CARD = "MODEL_CARD.md"
LABELS = "labels"
SAMPLE_BYTES_MAX = 1024 * 1024 * 1024
CALIBRATE_SHARE = 0.3
POINTS = ((0.05, 59), (0.01, 299), (0.001, 2995))  # operating points, and the rows that promise them


@saying
def run_sign(options: SimpleNamespace) -> int:
    key = open_key(options.signing_key)
    signed = [(directory, sign_again(directory, key)) for directory in options.directories]
    told(signed, options)
    return 0


@saying
def run_prototypes(options: SimpleNamespace) -> int:
    """Write a version of a bundle whose answers can name the nearest prototypes."""
    try:
        from serving.train.prototypes import PROTOTYPES_FILE, Wanted, with_prototypes  # noqa: PLC0415 - needs onnx
    except ModuleNotFoundError as missing:
        raise RegistryRefused(f"this needs {missing.name}: pip install 'stockade[train]'") from None
    files = read_bundle(options.directory)
    bundle = assemble(files, read_keys(trusted_keys(options)))
    target = options.out / bundle.name / str(options.version)
    require_new(target)
    data = read_dataset(options.data, bundle, classes_of(bundle))
    wanted = Wanted(str(options.version), options.per_class, options.nearest)
    changed, manifest = with_prototypes(files, bundle, data, wanted)
    if CARD in changed:
        changed[CARD] += card_of(bundle, manifest["metrics"]["prototypes"], PROTOTYPES_FILE).encode()
    told([(target, write(target, changed, manifest, options.signing_key))], options)
    return 0


@saying
def run_wrap(options: SimpleNamespace) -> int:
    """Write the bundle of a model that somebody brings, with energies and a screen calibrated on a sample."""
    try:
        from serving.train.wrap import Foreign, Sample, wrap  # noqa: PLC0415 - needs onnx
    except ModuleNotFoundError as missing:
        raise RegistryRefused(f"this needs {missing.name}: pip install 'stockade[train]'") from None
    name, version = parse_version(options.bundle)
    target = options.out / name / version
    require_new(target)
    try:
        model = read_model(options.source)
    except InterchangeRefused as problem:
        raise RegistryRefused(str(problem)) from problem
    tensors, digest = sample_of(options.sample)
    labels = tensors.pop(LABELS, None)
    names = tuple(options.classes.split(",")) if options.classes else model.class_names
    points = [point for point, rows in POINTS if int(CALIBRATE_SHARE * len(next(iter(tensors.values())))) >= rows]
    files, manifest = wrap(
        Foreign(model.graph, name, version, names, model.source),
        Sample(tensors, None if labels is None else labels.astype(np.int64), options.sample.name, digest),
        ScreenFitter(partial(fit_evidence, points=points), partial(measure_evidence, points=points)),
        prediction=options.prediction,
        latent=options.latent,
        seed=options.seed,
    )
    told([(target, write(target, files, manifest, options.signing_key))], options)
    return 0


def sample_of(file: Path) -> tuple[dict[str, Any], str]:
    """Return the tensors of a sample, all of as many rows, and its digest. Raises DatasetRejected, OSError."""
    with file.open("rb") as opened:
        data = opened.read(SAMPLE_BYTES_MAX + 1)
    if len(data) > SAMPLE_BYTES_MAX:
        raise DatasetRejected(f"{file}: is larger than {SAMPLE_BYTES_MAX} bytes")
    try:
        tensors = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError):
        raise DatasetRejected(f"{file}: is not safetensors") from None
    if not tensors.keys() - {LABELS} or len({len(array) if array.ndim else 0 for array in tensors.values()}) != 1:
        raise DatasetRejected(f"{file}: needs a tensor for the model's input, and as many labels if there are any")
    return tensors, hashlib.sha256(data).hexdigest()


@saying
def run_export(options: SimpleNamespace) -> int:
    """Write a verified bundle in a layout of another server."""
    bundle = load_bundle(options.directory, trusted_keys(options))
    try:
        files = exported(bundle, options.layout)
    except InterchangeRefused as problem:
        raise RegistryRefused(str(problem)) from problem
    if there := [name for name in files if (options.out / name).exists()]:
        raise RegistryRefused(f"{options.out / there[0]} is there already; name another directory")
    for name, data in files.items():
        (options.out / name).parent.mkdir(parents=True, exist_ok=True)
        (options.out / name).write_bytes(data)
    if options.json:
        print_json({"digest": bundle.digest, "files": sorted(files)})
    else:
        sys.stdout.write("".join(f"written   {options.out / name}\n" for name in sorted(files)))
    return 0


def card_of(bundle: Bundle, found: Mapping[str, Any], file: str) -> str:
    """Return what the model's card says of the prototypes."""
    return (
        f"\n## Prototypes\n\nMade from version {bundle.version} ({bundle.digest}), whose outputs it gives to the bit. "
        f"`{file}` holds {found['count']} rows that stand for the classes. Of {found['rows']:,} other rows "
        f"{found['agree_with_prediction']:.1%} are nearest to one of the class that is predicted.\n"
    )


def trusted_keys(options: SimpleNamespace) -> list[Path]:
    """Return the file of who signed a bundle: the one that was named, or the project's."""
    return [options.trusted_key or bundles_directory() / RELEASE_KEY]


def require_new(directory: Path) -> None:
    """Return if nothing is there yet. Raises RegistryRefused."""
    if directory.exists():
        raise RegistryRefused(f"{directory} is there already, and a version never changes; name another one")


def open_key(file: Path) -> ec.EllipticCurvePrivateKey:
    """Return the signing key, made where there is none, and its public half beside it."""
    key = open_signing_key(file)
    file.with_suffix(".pub").write_bytes(public_pem(key))
    return key


def write(directory: Path, files: Mapping[str, bytes], manifest: Mapping[str, Any], key_file: Path) -> Bundle:
    """Seal and write a bundle, and return it as it will be loaded."""
    key = open_key(key_file)
    write_bundle(directory, seal(files, manifest, key), key)
    return load_bundle(directory, [key_file.with_suffix(".pub")])


def told(written: list[tuple[Path, Bundle]], options: SimpleNamespace) -> None:
    """Say what was signed, and by which key it is to be trusted."""
    public = options.signing_key.with_suffix(".pub")
    if options.json:
        facts = [
            {"directory": str(directory), "model": bundle.name, "version": bundle.version, "digest": bundle.digest}
            for directory, bundle in written
        ]
        print_json({"public_key": str(public), "signed": facts})
        return
    for directory, bundle in written:
        sys.stdout.write(f"signed    {directory}: {bundle.name}/{bundle.version}, digest {bundle.digest}\n")
    sys.stdout.write(f"trust     {public}\n")

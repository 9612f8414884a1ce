"""The verbs of `stockade models` that write bundles: `sign`, and `prototypes`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from gateway.init import RELEASE_KEY
from gateway.registry import RegistryRefused
from gateway.samples import bundles_directory
from serving.bundle import assemble, load_bundle, read_bundle, read_keys
from serving.registry.dataset import read_dataset
from serving.registry.measure import classes_of
from serving.train.pack import open_signing_key, public_pem, seal, sign_again, write_bundle

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from serving.bundle import Bundle

__all__ = ["run_prototypes", "run_sign", "trusted_keys"]

CARD = "MODEL_CARD.md"


def run_sign(options: argparse.Namespace) -> int:
    key = open_key(options.signing_key)
    signed = [(directory, sign_again(directory, key)) for directory in options.directories]
    told(signed, options)
    return 0


def run_prototypes(options: argparse.Namespace) -> int:
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


def card_of(bundle: Bundle, found: Mapping[str, Any], file: str) -> str:
    """Return what the model's card says of the prototypes."""
    return (
        f"\n## Prototypes\n\nMade from version {bundle.version} ({bundle.digest}), whose outputs it gives to the bit. "
        f"`{file}` holds {found['count']} rows that stand for the classes. Of {found['rows']:,} other rows "
        f"{found['agree_with_prediction']:.1%} are nearest to one of the class that is predicted.\n"
    )


def trusted_keys(options: argparse.Namespace) -> list[Path]:
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


def told(written: list[tuple[Path, Bundle]], options: argparse.Namespace) -> None:
    """Say what was signed, and by which key it is to be trusted."""
    public = options.signing_key.with_suffix(".pub")
    if options.json:
        facts = [
            {"directory": str(directory), "model": bundle.name, "version": bundle.version, "digest": bundle.digest}
            for directory, bundle in written
        ]
        sys.stdout.write(json.dumps({"public_key": str(public), "signed": facts}, indent=2) + "\n")
        return
    for directory, bundle in written:
        sys.stdout.write(f"signed    {directory}: {bundle.name}/{bundle.version}, digest {bundle.digest}\n")
    sys.stdout.write(f"trust     {public}\n")

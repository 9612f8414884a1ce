"""Write and sign a bundle.

The directory is staged beside its destination and verified there with the public half of the signing key, by the code
that will serve it; only then does it take the destination's place. A failed recipe leaves the old bundle as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from numpy.typing import NDArray

from serving.bundles.bundle import Bundle, assemble, read_bundle
from serving.bundles.manifest import MANIFEST_FILE
from serving.bundles.signature import SIGNATURE_FILE, TrustedKey, sign
from serving.train.errors import GateFailed, SigningKeyUnusable


def open_signing_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 private key in PEM; create one, readable by its owner only, when there is none."""
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
    try:
        loaded = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, OSError) as error:
        raise SigningKeyUnusable(path, "not an unencrypted private key in PEM") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or not isinstance(loaded.curve, ec.SECP256R1):
        raise SigningKeyUnusable(path, "not on the curve P-256")
    return loaded


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half as servers are given it."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def tensor_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as safetensors, C-contiguous."""
    return bytes(safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def unsealed(bundle: Bundle, files: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files and the manifest, neither sealed nor listed, that another version of a bundle is made from."""
    kept = {name: data for name, data in files.items() if name not in (MANIFEST_FILE, SIGNATURE_FILE)}
    return kept, {name: value for name, value in bundle.manifest.items() if name != "files"}


def write_rows(path: Path, tensors: Mapping[str, NDArray[Any]], licence: str) -> None:
    """Write rows as safetensors, with the licence that they are under: for demonstrations, and where data are not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors.numpy.save(dict(tensors), {"licence": licence}))


def seal(files: Mapping[str, bytes], manifest: Mapping[str, Any], key: ec.EllipticCurvePrivateKey) -> dict[str, bytes]:
    """Return the complete bundle: these files, the manifest with their digests filled in, and the signature."""
    listed = {name: {"bytes": len(data), "sha256": _digest(data)} for name, data in sorted(files.items())}
    document = json.dumps({**manifest, "files": listed}, indent=1, ensure_ascii=False, allow_nan=False)
    sealed = {**files, MANIFEST_FILE: (document + "\n").encode()}
    return _signed(sealed, str(manifest["version"]), key)


def write_bundle(directory: Path, sealed: Mapping[str, bytes], key: ec.EllipticCurvePrivateKey) -> Bundle:
    """Verify the sealed files, write them in place of `directory`, and return the bundle."""
    bundle = assemble(sealed, (TrustedKey.from_pem(public_pem(key), "signing key"),))
    staged = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    for name, data in sealed.items():
        (staged / name).write_bytes(data)
    if directory.exists():
        shutil.rmtree(directory)
    staged.replace(directory)  # from here on the new bundle is the one served after the next load
    return bundle


def write_trained(
    directory: Path,
    manifest: Mapping[str, Any],
    *,
    graph: bytes,
    weights: Mapping[str, NDArray[Any]],
    calibration: Mapping[str, NDArray[Any]],
    card: str,
    key: ec.EllipticCurvePrivateKey,
    public: Path,
) -> Bundle:
    """Write and return the bundle of what a recipe made, and the key's public half to `public`.

    Raises:
        GateFailed: by its manifest it is not good enough; nothing was written.
    """
    for gate in manifest["gates"]:
        if not gate["passed"]:
            raise GateFailed(gate["name"], gate["value"], gate["bound"])
    files = {
        "model.onnx": graph,
        "weights.safetensors": tensor_bytes(weights),
        "calibration.safetensors": tensor_bytes(calibration),
        "MODEL_CARD.md": card.encode(),
    }
    bundle = write_bundle(directory, seal(files, manifest, key), key)
    public.write_bytes(public_pem(key))
    return bundle


def sign_again(directory: Path, key: ec.EllipticCurvePrivateKey) -> Bundle:
    """Sign a bundle as it lies there: its signature is replaced, no other byte changes, and its digest stays.

    The old signature is not looked at; whoever signs vouches for what is there.

    Raises:
        BundleRejected: it would not be loaded with the new signature; the old one stays.
        OSError: the signature cannot be written; the old one stays.
    """
    unsigned = {name: data for name, data in read_bundle(directory).items() if name != SIGNATURE_FILE}
    signed = _signed(unsigned, directory.name, key)
    bundle = assemble(signed, (TrustedKey.from_pem(public_pem(key), "signing key"),))
    staged = directory.with_name(f".{directory.name}.{SIGNATURE_FILE}")  # beside it: a bundle holds nothing unlisted
    staged.write_bytes(signed[SIGNATURE_FILE])
    staged.replace(directory / SIGNATURE_FILE)
    return bundle


def _signed(files: Mapping[str, bytes], version: str, key: ec.EllipticCurvePrivateKey) -> dict[str, bytes]:
    return {**files, SIGNATURE_FILE: sign({name: _digest(data) for name, data in files.items()}, version, key)}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

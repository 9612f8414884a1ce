"""Signed model bundles: verify, then load.

A bundle is a flat directory: `manifest.json`, ONNX graphs, `weights.safetensors`, `calibration.safetensors`, perhaps
`MODEL_CARD.md`, and `model.sig`; where the model runs on another server, no more than its encoder and calibration, or
neither. Rules, in order:

1. The directory is opened once; every entry in it is opened through that handle without following links, must be a
   regular file with a plain name of a known kind (`.json .onnx .safetensors .md .sig`), and is read once, bounded, into
   memory. Whatever happens to the disk afterwards cannot matter: only these bytes are checked, and only they are used.
2. The signature verifies with a trusted key (`serving.bundles.signature`), and the files are exactly those it lists,
each with
   its digest. Until here no byte of any other file has been interpreted.
3. The manifest is well-formed and lists the same files with the same digests; each graph passes
`serving.bundles.graph`;
   tensors come from safetensors only. Never a pickle.

`Bundle.digest` is `sha256sum manifest.json`: the manifest is signed and lists the digest of every other file, so this
one value names all of it. Not done here: running the graph (`serving.engines.inprocess`), choosing the keys (the caller
does).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from serving.bundles.graph import check_graph
from serving.bundles.manifest import MANIFEST_FILE, Manifest, TensorSpec, parse_manifest
from serving.bundles.signature import FILE_NAME, FILES_MAX, SIGNATURE_FILE, TrustedKey, verify
from serving.errors import BundleRejected, Rejection

FILE_BYTES_MAX = 256 * 1024 * 1024
BUNDLE_BYTES_MAX = 1024 * 1024 * 1024
KEY_BYTES_MAX = 64 * 1024

_PEM_END = b"-----END PUBLIC KEY-----"
_KINDS = frozenset({".json", ".onnx", ".safetensors", ".md", ".sig"})


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle in memory. Arrays are read-only; `graphs` holds ONNX bytes by the manifest's names."""

    name: str
    version: str
    digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    class_names: tuple[str, ...]
    manifest: Mapping[str, Any]
    graphs: Mapping[str, bytes]
    calibration: Mapping[str, NDArray[Any]]


def load_bundle(directory: Path, trusted_keys: Sequence[Path]) -> Bundle:
    """Read, verify and load a bundle.

    Args:
        directory: the bundle's directory itself (`bundles/kiosk/1`).
        trusted_keys: PEM files of ECDSA P-256 public keys, any of which may have signed it.

    Raises:
        BundleRejected: any rule of this module is broken; its reason says which, its message what to do.
    """
    trusted = read_keys(trusted_keys)
    try:
        return assemble(read_bundle(directory), trusted)
    except BundleRejected as found:
        raise BundleRejected(found.reason, found.file, found.problem, directory) from found


def read_keys(paths: Sequence[Path]) -> tuple[TrustedKey, ...]:
    """Read public keys, of which a file may hold several one after the other; nothing else may stand in it.

    Raises:
        BundleRejected: KEY_UNUSABLE for a file with anything but P-256 public keys in PEM.
    """
    keys = []
    for path in paths:
        try:
            with path.open("rb") as file:
                pem = file.read(KEY_BYTES_MAX + 1)
        except OSError as error:
            raise BundleRejected(Rejection.KEY_UNUSABLE, path.name, "cannot be read") from error
        if len(pem) > KEY_BYTES_MAX:
            raise BundleRejected(Rejection.KEY_UNUSABLE, path.name, "is too large")
        keys += [TrustedKey.from_pem(block, path.name) for block in _blocks(pem)]
    return tuple(keys)


def _blocks(pem: bytes) -> list[bytes]:
    """Return each key of a file by itself, and what stands behind the last as if it were one."""
    *blocks, rest = pem.split(_PEM_END)
    return [block + _PEM_END for block in blocks] + ([rest] if rest.strip() or not blocks else [])


def read_bundle(directory: Path) -> dict[str, bytes]:
    """Return every file of the directory by name, each read once (rule 1); nothing is verified yet."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise BundleRejected(Rejection.UNREADABLE, directory.name, "is not a directory that can be read") from error
    try:
        names = sorted(os.listdir(handle))  # noqa: PTH208 - a path could be swapped; a handle cannot
        if len(names) > FILES_MAX + 1:
            raise BundleRejected(Rejection.COUNT, directory.name, f"more than {FILES_MAX} files")
        files: dict[str, bytes] = {}
        left = BUNDLE_BYTES_MAX
        for name in names:
            files[name] = _read_file(handle, name, min(FILE_BYTES_MAX, left))
            left -= len(files[name])
    except OSError as error:
        raise BundleRejected(Rejection.UNREADABLE, directory.name) from error
    finally:
        os.close(handle)
    return files


def _read_file(directory: int, name: str, bytes_max: int) -> bytes:
    if not FILE_NAME.fullmatch(name):
        raise BundleRejected(Rejection.NAME, ascii(name))
    if os.path.splitext(name)[1] not in _KINDS:  # noqa: PTH122 - a name, not a path
        raise BundleRejected(Rejection.KIND, name)
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer, and a device must not react.
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        # A symbolic link fails here (ELOOP), a socket too (ENXIO).
        kind = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        reason = Rejection.UNREADABLE if stat.S_ISREG(kind) else Rejection.NOT_A_FILE
        raise BundleRejected(reason, name) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise BundleRejected(Rejection.NOT_A_FILE, name)
        if status.st_size > bytes_max:
            raise BundleRejected(Rejection.SIZE, name)
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(bytes_max + 1)
    finally:
        os.close(handle)
    if len(data) > bytes_max:
        raise BundleRejected(Rejection.SIZE, name, "grew while it was read")
    return data


def assemble(files: Mapping[str, bytes], trusted: Sequence[TrustedKey]) -> Bundle:
    """Verify these bytes and make a bundle of them (rules 2 and 3); pure."""
    _check_signed(files, trusted)
    manifest, document = parse_manifest(files[MANIFEST_FILE])
    _check_listed(files, manifest)
    for file in manifest.graphs.values():
        check_graph(files[file], file)
    if manifest.weights:  # a model that runs elsewhere keeps them there
        _tensors(files[manifest.weights], manifest.weights)
    return Bundle(
        name=manifest.name,
        version=manifest.version,
        digest=hashlib.sha256(files[MANIFEST_FILE]).hexdigest(),
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        class_names=manifest.class_names,
        manifest=MappingProxyType(document),
        graphs=MappingProxyType({name: files[file] for name, file in manifest.graphs.items()}),
        calibration=MappingProxyType(
            _tensors(files[manifest.calibration], manifest.calibration) if manifest.calibration else {}
        ),
    )


def _check_signed(files: Mapping[str, bytes], trusted: Sequence[TrustedKey]) -> None:
    if SIGNATURE_FILE not in files:
        raise BundleRejected(Rejection.UNSIGNED, SIGNATURE_FILE)
    signed = verify(files[SIGNATURE_FILE], trusted)
    for name in sorted(signed.keys() - files.keys()):
        raise BundleRejected(Rejection.FILE_MISSING, name)
    for name in sorted(files.keys() - signed.keys() - {SIGNATURE_FILE}):
        raise BundleRejected(Rejection.FILE_EXTRA, name)
    for name, digest in signed.items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise BundleRejected(Rejection.DIGEST, name)
    if MANIFEST_FILE not in signed:
        raise BundleRejected(Rejection.FILE_MISSING, MANIFEST_FILE)


def _check_listed(files: Mapping[str, bytes], manifest: Manifest) -> None:
    present = {
        name: (len(data), hashlib.sha256(data).hexdigest())
        for name, data in files.items()
        if name not in (MANIFEST_FILE, SIGNATURE_FILE)
    }
    if {name: (file.bytes, file.sha256) for name, file in manifest.files.items()} != present:
        raise BundleRejected(Rejection.MANIFEST, MANIFEST_FILE, "its list of files is not what was signed")


def _tensors(data: bytes, file: str) -> dict[str, NDArray[Any]]:
    try:
        tensors: dict[str, NDArray[Any]] = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise BundleRejected(Rejection.TENSORS, file, "not safetensors") from error
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
            raise BundleRejected(Rejection.TENSORS, file, f"{name} is not finite")
        array.flags.writeable = False
    return tensors

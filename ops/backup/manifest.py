"""What a backup says of itself: a manifest, and its index with a line for each file. Both are sealed (`sealing`).

The manifest is small and names the chunks of the index; the index has one JSON object a line, in the order of their
paths, so that long runs of it stay the same from one backup to the next. Paths are relative, canonical, and stay below
the target whatever they are. Pure.
"""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from ops.backup.errors import BackupDamaged, RestoreRefused
from ops.backup.sealing import CHUNK_BYTES_MAX

FORMAT: Literal[1] = 1
FILES_MAX = 16_777_216
PATH_CHARACTERS_MAX = 1024
PART_BYTES_MAX = 255
CHUNKS_MAX = 1_048_576  # of a file: 1 TiB
_PART = re.compile(r"[^/\x00-\x1f\x7f\\]+")

Kind = Literal["file", "sqlite", "log", "keys"]
Name = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Identity = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class StoredFile(Struct, frozen=True, forbid_unknown_fields=True):
    """One file: where it goes, how it is allowed to be read, and what it is made of. `sha256` is that of its bytes."""

    path: str
    kind: Kind
    mode: Annotated[int, Meta(ge=0, le=0o777)]
    bytes: Count
    sha256: Name
    chunks: Annotated[tuple[Name, ...], Meta(max_length=CHUNKS_MAX)]


class BackedLog(Struct, frozen=True, forbid_unknown_fields=True):
    """The log in a backup: its signed checkpoint, and where its parts go. Paths are as those of files."""

    note: str
    vkey: str
    directory: str
    state_directory: str
    memory: str  # of the signer, beside its key


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """One backup. `keys_until_ns` is when the key database in it has to be gone."""

    format: Literal[1]
    id: Identity
    created_ns: Count
    build: str
    with_keys: bool
    log: BackedLog | None
    files: Count
    bytes_in_all: Count
    keys_until_ns: Count
    index: Annotated[tuple[Name, ...], Meta(max_length=CHUNKS_MAX)]

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)


def check_path(path: str) -> str:
    """Return a path that stays where it is put. Raises RestoreRefused: it may lead elsewhere, or is not canonical."""
    parts = path.split("/")
    sound = 0 < len(path) <= PATH_CHARACTERS_MAX and all(
        _PART.fullmatch(part) and part not in {".", ".."} and len(part.encode("utf-8", "replace")) <= PART_BYTES_MAX
        for part in parts
    )
    if not sound or not path.isprintable():
        raise RestoreRefused(f"{path!r} is not a path below the target")
    return path


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest that was opened. Raises BackupDamaged, or RestoreRefused for a path that leads elsewhere."""
    if len(data) > CHUNK_BYTES_MAX * 64:
        raise BackupDamaged(["the manifest is too long"])
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, ValueError) as error:
        raise BackupDamaged([f"the manifest is none of this version: {error}"]) from error
    if (log := manifest.log) is not None:
        for path in (log.directory, log.state_directory, log.memory):
            check_path(path)
    return manifest


def encode_index(files: Iterable[StoredFile]) -> bytes:
    """The index of these files, a line each, by path."""
    return b"".join(msgspec.json.encode(each) + b"\n" for each in sorted(files, key=lambda each: each.path))


def parse_index(data: bytes) -> list[StoredFile]:
    """Read an index. Raises BackupDamaged, or RestoreRefused for a path that leads elsewhere."""
    try:
        files: list[StoredFile] = msgspec.json.Decoder(StoredFile).decode_lines(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise BackupDamaged([f"the index is none of this version: {error}"]) from error
    if len(files) > FILES_MAX:
        raise BackupDamaged(["the index is too long"])
    for before, after in pairwise(files):
        if before.path >= after.path:
            raise BackupDamaged([f"the index is out of order at {after.path!r}"])
    directories = {each.path[:at] for each in files for at, letter in enumerate(each.path) if letter == "/"}
    for each in files:
        check_path(each.path)
        if each.path in directories:
            raise BackupDamaged([f"{each.path} is a file and a directory"])
        if -(-each.bytes // CHUNK_BYTES_MAX) != len(each.chunks):
            raise BackupDamaged([f"{each.path}: {len(each.chunks)} chunks are not {each.bytes} bytes"])
    return files

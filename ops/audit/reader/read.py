"""Read a published log directory: entries, proofs, payloads, at the size of its checkpoint.

What is only in segments is not public and not seen here. It trusts the directory (see `verify` for those who do not);
every answer is at a checkpoint whose signature the caller can check. A tile that became full while we read is read in
full and cut to the width the checkpoint needs.
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from ops.audit.errors import ReadError, TileError
from ops.audit.log.checkpoint import NOTE_BYTES_MAX, Checkpoint, VerifierKey, open_checkpoint
from ops.audit.log.merkle import consistency_proof, inclusion_proof
from ops.audit.log.tiles import (
    BLOBS,
    ENTRIES,
    TILE_WIDTH,
    Tile,
    is_width,
    node_from,
    split_bundle,
    split_hashes,
    split_pack,
)
from ops.audit.reader.read_file import read_file

ENTRIES_MAX = 65_536


class LogReader:
    """A log directory at one checkpoint. Safe for several threads; open another one to see what came since."""

    def __init__(self, directory: Path, checkpoint: Checkpoint) -> None:
        self._directory = directory
        self.checkpoint = checkpoint

    @classmethod
    def open(cls, directory: Path, vkey: VerifierKey) -> "LogReader":
        """The log at its public checkpoint.

        Raises:
            ReadError: there is none.
            NoteError: it is not signed by this key.
        """
        try:
            data = read_file(directory / "checkpoint", NOTE_BYTES_MAX)
        except FileNotFoundError as error:
            raise ReadError(f"{directory} holds no checkpoint") from error
        return cls(directory, open_checkpoint(data, [vkey]))

    def _tile(self, level: int, index: int) -> bytes:
        """A tile at the checkpoint's size, or the full tile that has replaced it."""
        items = self.checkpoint.size >> (8 * max(level, 0))
        tile = Tile(level, index, min(TILE_WIDTH, items - index * TILE_WIDTH))
        for path in (tile.path, tile.full_path):
            try:
                return read_file(self._directory / path)
            except FileNotFoundError:
                continue
        if level == ENTRIES and not (self._directory / "tile" / "entries").exists():
            raise ReadError(f"the entries of {self.checkpoint.origin} are not here any more: it was dropped")
        raise ReadError(f"{tile.path} is missing")

    def hashes(self, level: int, first: int, count: int) -> list[bytes]:
        """Hashes of one tile level.

        Raises:
            ReadError: outside the checkpoint, or missing.
        """
        if first < 0 or count < 0 or first + count > self.checkpoint.size >> (8 * level):
            raise ReadError(f"level {level} holds no {first}..{first + count}")
        found: list[bytes] = []
        for index in range(first // TILE_WIDTH, (first + count + TILE_WIDTH - 1) // TILE_WIDTH):
            found += split_hashes(self._tile(level, index))
        start = first % TILE_WIDTH
        if len(found) < start + count:
            raise ReadError(f"a tile of level {level} is too short")
        return found[start : start + count]

    def entries(self, first: int, count: int) -> list[bytes]:
        """The entries [first, first + count), at most 65,536 at once.

        Raises:
            ReadError: outside the checkpoint, too many, missing or damaged.
        """
        if first < 0 or not 0 <= count <= ENTRIES_MAX or first + count > self.checkpoint.size:
            raise ReadError(f"the log of size {self.checkpoint.size} does not give {first}..{first + count}")
        found: list[bytes] = []
        for index in range(first // TILE_WIDTH, (first + count + TILE_WIDTH - 1) // TILE_WIDTH):
            try:
                found += split_bundle(self._tile(ENTRIES, index))
            except TileError as error:
                raise ReadError(f"bundle {index}: {error}") from error
        start = first % TILE_WIDTH
        if len(found) < start + count:
            raise ReadError("an entry bundle is too short")
        return found[start : start + count]

    def inclusion_proof(self, index: int) -> Sequence[bytes]:
        """That entry `index` is in the tree of the checkpoint.

        Raises:
            ProofError: index outside the tree.
            ReadError: missing tiles.
        """
        return inclusion_proof(index, self.checkpoint.size, node_from(self.hashes))

    def consistency_proof(self, old: int) -> Sequence[bytes]:
        """That the tree of the checkpoint extends the one of size `old`.

        Raises:
            ProofError: `old` is larger.
            ReadError: missing tiles.
        """
        return consistency_proof(old, self.checkpoint.size, node_from(self.hashes))

    def blob(self, index: int, digest: bytes) -> bytes:
        """The payload ciphertext with this SHA-256 that entry `index` names.

        Raises:
            ReadError: not there (never captured, or dropped by retention).
        """
        for path in pack_paths(self._directory, index // TILE_WIDTH):
            for blob in split_pack(path.read_bytes()):
                if sha256(blob).digest() == digest:
                    return blob
        raise ReadError(f"no payload {digest.hex()} for entry {index}")


def pack_paths(directory: Path, bundle: int) -> list[Path]:
    """The packs of one bundle: the full one, or the partial ones in order of width."""
    full = directory / Tile(BLOBS, bundle).full_path
    return [full] if full.exists() else partial_packs(directory, bundle)


def partial_packs(directory: Path, bundle: int) -> list[Path]:
    """The partial packs of one bundle in order of width."""
    partial = directory / Tile(BLOBS, bundle).partial_directory
    return sorted((path for path in partial.glob("*") if is_width(path.name)), key=lambda path: int(path.name))

"""Read a published log directory: entries, proofs, payloads, at the size of its checkpoint.

What is only in segments is not public and not seen here. It trusts the directory (see `verify` for those who do not);
every answer is at a checkpoint whose signature the caller can check. A tile that became full while we read is read in
full and cut to the width the checkpoint needs.
"""

from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

from ops.audit.errors import ReadError, TileError
from ops.audit.log.checkpoint import NOTE_BYTES_MAX, Checkpoint, VerifierKey, open_checkpoint
from ops.audit.log.epochs import epoch_at, epochs_of
from ops.audit.log.merkle import Frontier, consistency_proof, inclusion_proof, verify_consistency
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
from ops.audit.log.tlog_proof import TlogProof
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

    def frontier(self, size: int) -> Frontier:
        """The tree of the first `size` entries, from the log's own hashes: wrong ones lead to a wrong root.

        Raises:
            ReadError, TileError: missing or damaged tiles.
        """
        node = node_from(self.hashes)
        heights = [height for height in range(size.bit_length()) if size >> height & 1]
        return Frontier.restore(size, [node(height, (size >> height) - 1) for height in heights])

    def demand_extension(self, old: Checkpoint) -> None:
        """See that the log extends an older tree.

        Raises:
            ProofError: it does not.
            ReadError, TileError: missing or damaged tiles.
        """
        new = self.checkpoint
        verify_consistency(old.size, new.size, self.consistency_proof(old.size), old.root, new.root)

    def receipt(self, index: int, note: bytes) -> TlogProof:
        """The receipt of an entry; `note` is the signed checkpoint that this was opened at. Raises ReadError."""
        [entry] = self.entries(index, 1)
        return TlogProof(index, tuple(self.inclusion_proof(index)), note, entry)

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


def open_following(directory: Path, vkey: VerifierKey, origin: str, index: int) -> LogReader:
    """The epoch for a reader that came to entry `index` of `origin`: that one, or the next when it is at the end of it.

    For a reader that comes from nowhere, or from another log, it is the oldest epoch whose entries are here.

    Raises:
        ReadError: there is no checkpoint.
        NoteError: it is not signed by this key.
    """
    epochs = epochs_of(directory, vkey)
    for epoch, following in pairwise(epochs):
        reader = LogReader.open(epoch.directory, epoch.vkey)
        if epoch.vkey.name == origin:
            # Read after the next one was seen, so this is the last checkpoint of the epoch.
            unread = index < reader.checkpoint.size and not epoch.dropped
            return reader if unread else LogReader.open(following.directory, following.vkey)
    here = epochs or [epoch_at(directory, vkey, 1)]
    found = next(each for each in here if each is here[-1] or not each.dropped)
    if here[-1].vkey.name == origin:
        found = here[-1]
    return LogReader.open(found.directory, found.vkey)

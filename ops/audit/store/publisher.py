"""Publishing: from durable entries to a public, signed log. The same code completes what a crash interrupted.

One publication, in this order, each step durable before the next:

1. bundles, tiles and payload packs are staged (files and staging directory synced);
2. the signer signs the checkpoint (its own memory first), and the lock database swaps it in: from here on the
   checkpoint exists, and a crash completes it;
3. the staged files are renamed into place, their directories synced;
4. the public `checkpoint` is replaced.

What the newest checkpoint names is therefore always readable. Between 2 and 4 a crash leaves a signed checkpoint whose
files are staged or renamed; the next `publish` sees it in the lock database and repeats 1, 3 and 4 for exactly that
checkpoint, from the segments, before it signs another.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import rmtree

from ops.audit.errors import AppenderRunning, ReadError
from ops.audit.log.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from ops.audit.log.merkle import consistency_proof
from ops.audit.log.tiles import (
    BLOBS,
    ENTRIES,
    TILE_WIDTH,
    Tile,
    hash_tiles_between,
    join_pack,
    level_size,
    node_from,
    split_pack,
    tiles_between,
)
from ops.audit.reader.read import LogReader, partial_packs
from ops.audit.store.edge import Edge
from ops.audit.store.lock import LockDatabase
from ops.audit.store.signer import Signer
from ops.process.durable import make_directories, remove_files, sync_directory, write_file, write_files

SYNC_THREADS = 8  # syncs of many small files share the journal's commits


class Publisher:
    """Used from one thread. The edge may grow meanwhile."""

    def __init__(
        self, directory: Path, staging: Path, *, edge: Edge, signer: Signer, lock: LockDatabase, vkey: VerifierKey
    ) -> None:
        self._directory = directory
        self._staging = staging
        self._edge = edge
        self._signer = signer
        self._lock = lock
        self._vkey = vkey
        self._pool = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="sync")
        self._named: set[Path] = set()  # directories of the log whose own names this process has made durable
        self._ours = {lock.read()}  # the checkpoints that may stand in the lock database unless somebody else swaps

    def check_signed(self) -> None:
        """Before anything is accepted: the durable tree extends what the signer signed, or no entry could be published.

        Raises:
            ForkRefused: an older copy of the log was put back, or it is a fork.
        """
        self._signer.demand(*self._edge.head(), self._prove)

    def publish(self) -> bool:
        """Publish what is durable. Returns whether anything new is public; call again until it says no.

        Raises:
            AppenderRunning: another appender extended the log.
            ForkRefused: the signer would not sign.
            OSError: no room (nothing is lost, call again later) or a failed sync (poison).
        """
        current = self._lock.read()
        if current not in self._ours:
            raise AppenderRunning("the lock database holds a checkpoint of another appender")
        published = self._edge.published_size
        pending = None if current is None else open_checkpoint(current, [self._vkey])
        if current is not None and pending is not None and pending.size > published:
            self._stage(published, pending.size)
            self._reveal(published, pending.size, current)
            return True
        size, root = self._edge.head()
        if size == published:
            return False
        self._stage(published, size)
        note = self._signer.sign(size, root, self._prove)
        self._ours.add(note)
        self._lock.swap(current, note)
        # Commit point: this is the log's checkpoint now, whatever happens.
        self._ours = {note}
        self._reveal(published, size, note)
        return True

    def _prove(self, old: int, new: int) -> list[bytes]:
        return consistency_proof(old, new, node_from(self._hashes))

    def _hashes(self, level: int, first: int, count: int) -> list[bytes]:
        """From the edge, or from published tiles when the signer's last size is older than the edge."""
        try:
            return self._edge.hashes(level, first, count)
        except ReadError:
            published = Checkpoint(self._vkey.name, self._edge.published_size, b"")
            return LogReader(self._directory, published).hashes(level, first, count)

    def _files(self, old: int, new: int) -> Iterable[tuple[Tile, bytes]]:
        """What has to be written to go from one published size to another."""
        for tile in hash_tiles_between(old, new):
            yield tile, b"".join(self._edge.hashes(tile.level, tile.index * TILE_WIDTH, tile.width))
        for tile in tiles_between(ENTRIES, old, new):
            first = tile.index * TILE_WIDTH
            yield tile, b"".join(self._edge.entries(first, tile.width))
            fresh = self._edge.blobs(max(first, old), first + tile.width)
            earlier = self._earlier_blobs(tile.index, old - first) if not tile.partial else []
            if fresh or earlier:
                yield Tile(BLOBS, tile.index, tile.width), join_pack([*earlier, *fresh])

    def _earlier_blobs(self, bundle: int, width: int) -> list[bytes]:
        """The payloads in the partial packs that the published checkpoint of this width has."""
        if width <= 0:
            return []
        # Not the full pack: an interrupted publication may have put it there already.
        paths = partial_packs(self._directory, bundle)
        return [blob for path in paths if int(path.name) <= width for blob in split_pack(path.read_bytes())]

    def _staged(self, tile: Tile) -> Path:
        return self._staging / tile.path.replace("/", "_")

    def _stage(self, old: int, new: int) -> None:
        """Step 1. Leftovers of an interrupted publication are replaced."""
        remove_files(self._staging.iterdir())
        files = [(self._staged(tile), data) for tile, data in self._files(old, new)]
        write_files(files, self._pool)
        sync_directory(self._staging)

    def _reveal(self, old: int, new: int, note: bytes) -> None:
        """Steps 3 and 4, then what no reader needs any more is removed."""
        touched: set[Path] = set()
        fresh: set[Path] = set()
        tiles = [*hash_tiles_between(old, new), *tiles_between(ENTRIES, old, new)]
        packs = [Tile(BLOBS, tile.index, tile.width) for tile in tiles if tile.level == ENTRIES]
        for tile in [*tiles, *(pack for pack in packs if self._staged(pack).exists())]:
            final = self._directory / tile.path
            make_directories(final.parent)
            touched.add(final.parent)
            fresh |= self._unnamed(final.parent)
            self._staged(tile).rename(final)
        list(self._pool.map(sync_directory, touched | {each.parent for each in fresh}))
        self._named |= fresh
        staged = self._staging / "checkpoint"
        write_file(staged, note)
        staged.rename(self._directory / "checkpoint")
        sync_directory(self._directory)
        # Public: the checkpoint and everything it names are durable.
        self._edge.publish(new)
        for tile in [*tiles, *packs]:
            if not tile.partial and level_size(tile.level, old) > tile.index * TILE_WIDTH:
                partial = self._directory / tile.partial_directory
                rmtree(partial, ignore_errors=True)
                self._named.discard(partial)

    def _unnamed(self, directory: Path) -> set[Path]:
        """A directory of the log and those above it that may have no durable name yet.

        That one is there says nothing: a publication that failed, or a process that was killed, may have made it.
        """
        found: set[Path] = set()
        while directory != self._directory and directory not in self._named:
            found.add(directory)
            directory = directory.parent
        return found

    def close(self) -> None:
        self._pool.shutdown()

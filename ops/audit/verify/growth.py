"""Whether what a log has gained is what its checkpoint says: looked at where it is copied, or before.

Entries, payloads, leaf hashes and the tiles above them, from the bundle at which the copy stands to the right edge, and
the root over all of it. What lies before that was looked at when it was copied; `verify` looks at everything.
"""

from pathlib import Path

from ops.audit.errors import LogRejected, ReadError, TileError
from ops.audit.log.merkle import fold, range_root
from ops.audit.log.tiles import TILE_WIDTH, Tile, hash_levels, level_size, node_from
from ops.audit.reader.read import LogReader
from ops.audit.verify.bundles import check_bundles

CHUNK_BUNDLES = 32


def check_growth(reader: LogReader, directory: Path, old: int) -> None:
    """Check a log, as it stands at the reader's checkpoint, from its first `old` entries on.

    Raises:
        LogRejected: it is not what its checkpoint says.
        ReadError: something is missing.
    """
    end = -(-reader.checkpoint.size // TILE_WIDTH)
    for start in range(old // TILE_WIDTH, end, CHUNK_BUNDLES):
        check_chunk(reader, directory, start, min(CHUNK_BUNDLES, end - start))
    check_tree(reader, old)


def check_chunk(reader: LogReader, directory: Path, start: int, count: int) -> None:
    """Check bundles with their payloads; the hashes of level 1 have to follow from them. Raises as `check_growth`."""
    chunk = check_bundles(directory, start, count, reader.checkpoint.size)
    wrong = [f"{each.where}: {each.what}" for each in chunk.findings if each.severity == "tampered"]
    wrong += [f"entry {index} does not match its leaf hash" for index in chunk.mismatches]
    if wrong:
        raise LogRejected(wrong)
    if missing := [f"{each.where}: {each.what}" for each in chunk.findings if each.severity == "incomplete"]:
        raise ReadError(missing[0])
    if chunk.entry_roots != reader.hashes(1, start, len(chunk.entry_roots)):
        raise LogRejected([f"{Tile(1, start // TILE_WIDTH).path} does not follow from the bundles below it"])


def check_tree(reader: LogReader, old: int) -> None:
    """Check that what is new above level 1 follows from below, and all gives the root. Raises as `check_growth`."""
    size = reader.checkpoint.size
    try:
        for level in hash_levels(size)[2:]:
            first, last = level_size(level, old), level_size(level, size)
            below = [fold(reader.hashes(level - 1, at * TILE_WIDTH, TILE_WIDTH)) for at in range(first, last)]
            if below != reader.hashes(level, first, last - first):
                raise LogRejected([f"level {level} does not follow from level {level - 1}"])
        if range_root(0, size, node_from(reader.hashes)) != reader.checkpoint.root:
            raise LogRejected(["the tiles do not give the root of the checkpoint"])
    except TileError as error:
        raise LogRejected([str(error)]) from error

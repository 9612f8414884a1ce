"""A log out of an object store, into a directory: what its checkpoint names, to be verified or restored there.

Nothing of it is trusted, not even its signature: keys are those this project would write, or they are left where they
are, and `verify` judges what has come. What is missing in the store is missing in the directory. Files are written
without a sync.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from ops.audit.copies.object_store import Below, Inspected, Listed
from ops.audit.errors import NoteError, ReadError, TileError
from ops.audit.log.checkpoint import parse_checkpoint
from ops.audit.log.epochs import EPOCHS, NUMBER_MAX, place_of
from ops.audit.log.tiles import BLOBS, ENTRIES, TILE_WIDTH, Tile, hash_levels, level_size, parse_path

CHECKPOINT = "checkpoint"
READERS = 8
GROUP_FILES = 64

Progress = Callable[[int, int], None]


def fetch_epochs(store: Inspected, target: Path, progress: Progress | None = None) -> None:
    """Write every epoch of the log in `store` into `target`. Arguments and errors as for `fetch_log`."""
    for number in range(1, NUMBER_MAX + 1):
        part = store if number == 1 else Below(store, f"{EPOCHS}/{number:04d}/")
        if number > 1 and part.get(CHECKPOINT) is None:
            return
        place = place_of(target, number)
        place.mkdir(parents=True, exist_ok=True)
        fetch_log(part, place, progress)


def fetch_log(store: Listed, target: Path, progress: Progress | None = None) -> int:
    """Write the log in `store` into `target`, an empty directory. Returns the size that its checkpoint says.

    Args:
        store: what a log was replicated to.
        target: where it goes.
        progress: called with (files fetched, files in all) now and then.

    Raises:
        ReadError: there is no checkpoint.
        StoreUnavailable, StoreRefused, OSError: it cannot be read, or not written.
    """
    note = store.get(CHECKPOINT)
    if note is None:
        raise ReadError("the store holds no checkpoint")
    size = _claimed(note)
    wanted = [key for prefix in ("tile/", "blobs/") for key in store.keys(prefix) if _named(key, size)]
    (target / CHECKPOINT).write_bytes(note)

    def fetch(key: str) -> None:
        data = store.get(key)
        if data is not None:
            (target / key).parent.mkdir(parents=True, exist_ok=True)
            (target / key).write_bytes(data)

    done = 0
    left = iter(wanted)
    with ThreadPoolExecutor(READERS, thread_name_prefix="fetch") as pool:
        while group := list(islice(left, GROUP_FILES)):
            list(pool.map(fetch, group))
            done += len(group)
            if progress is not None:
                progress(done, len(wanted))
    return size


def _claimed(note: bytes) -> int:
    """The size in a checkpoint, whoever signed it; 0 for what is none."""
    try:
        return parse_checkpoint(note.partition(b"\n\n")[0].decode("utf-8", "replace") + "\n").size
    except NoteError:
        return 0


def _named(key: str, size: int) -> bool:
    """Say whether a checkpoint of this size names the tile, bundle or pack of this key."""
    try:
        tile = parse_path(key)
    except TileError:
        return False
    if tile.level not in {ENTRIES, BLOBS} and tile.level not in hash_levels(size):
        return False
    full, width = divmod(level_size(tile.level, size), TILE_WIDTH)
    if not tile.partial:
        return tile.index < full
    narrow = tile.width <= width if tile.level == BLOBS else tile.width == width
    return tile == Tile(tile.level, full, tile.width) and narrow

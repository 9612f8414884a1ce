"""How a log is divided into epochs: their names, keys and places.

Each epoch is a whole log of its own. The first is the directory itself, under the log's own origin. Epoch n from 2 on
lies in `epochs/<n>` below it, n with four digits; its origin is `<origin>/epoch-<n>`, and its key is the same Ed25519
key under that name. So one verifier key opens all of them, and nothing that was published ever moves.

An epoch ends with an `epoch-close` entry that names the next origin; the next one begins with a `genesis` entry that
holds the last checkpoint of the one before (`previous`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ops.audit.log.checkpoint import VerifierKey

EPOCHS = "epochs"
NUMBER_MAX = 9999  # of an epoch: four digits
INDEX_BITS = 36  # of the number of an entry over all epochs; no epoch is as large
_PLACE = re.compile(r"[0-9]{4}", re.ASCII)
_INSIDE = re.compile(r"epochs/[0-9]{4}/", re.ASCII)
_ENDING = re.compile(r"/epoch-([1-9][0-9]{0,3})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a log: where it lies, and the key of its checkpoints."""

    number: int
    directory: Path
    vkey: VerifierKey

    @property
    def dropped(self) -> bool:
        """Whether its entries are not here any more: what is left are hashes and its checkpoint."""
        return not (self.directory / "tile" / "entries").exists()


def origin_of(first: str, number: int) -> str:
    """The origin of an epoch of the log whose first origin this is."""
    return first if number == 1 else f"{first}/epoch-{number}"


def is_first(origin: str) -> bool:
    """Whether an origin can be that of a log's first epoch: it does not end as those of later ones do."""
    return _ENDING.search(origin) is None


def number_of(first: str, origin: str) -> int | None:
    """Which epoch of the log `first` an origin is; None when it is none of its."""
    if origin == first:
        return 1
    log, number = split_origin(origin)
    return number if log == first and number > 1 else None


def split_origin(origin: str) -> tuple[str, int]:
    """The log, by the origin of its first epoch, and the number of the epoch that an origin names."""
    found = _ENDING.search(origin)
    return (origin[: found.start()], int(found[1])) if found is not None else (origin, 1)


def numbered(epoch: int, index: int) -> int:
    """The number of an entry over all epochs: in the first it is its index."""
    return (epoch - 1) << INDEX_BITS | index


def parted(number: int) -> tuple[int, int]:
    """The epoch and the index of an entry with this number."""
    return (number >> INDEX_BITS) + 1, number & ((1 << INDEX_BITS) - 1)


def place_of(directory: Path, number: int) -> Path:
    """Where an epoch of the log in `directory` lies."""
    return directory if number == 1 else directory / EPOCHS / f"{number:04d}"


def home_of(directory: Path) -> Path:
    """The directory in which this one is the place of an epoch: itself for that of the first."""
    return directory if number_of_place(directory) == 1 else directory.parent.parent


def number_of_place(directory: Path) -> int:
    """The number of the epoch that lies in a directory of this name."""
    later = directory.parent.name == EPOCHS and _PLACE.fullmatch(directory.name)
    return int(directory.name) if later else 1


def is_of_epoch(path: str) -> bool:
    """Whether a path below a log's directory belongs to one of its later epochs."""
    return _INSIDE.match(path) is not None


def epoch_at(directory: Path, vkey: VerifierKey, number: int) -> Epoch:
    """An epoch of the log in `directory`, which may not be there. `vkey` is the log's: that of its first epoch."""
    return Epoch(number, place_of(directory, number), VerifierKey(origin_of(vkey.name, number), vkey.public_key))


def epochs_of(directory: Path, vkey: VerifierKey) -> list[Epoch]:
    """The epochs that have a checkpoint here, oldest first."""
    later = directory / EPOCHS
    names = [each.name for each in later.iterdir()] if later.is_dir() else []
    numbers = sorted({1, *(int(name) for name in names if _PLACE.fullmatch(name) and int(name) > 1)})
    found = [epoch_at(directory, vkey, number) for number in numbers]
    return [each for each in found if (each.directory / "checkpoint").is_file()]


def keys_for(note: bytes, keys: Iterable[VerifierKey]) -> list[VerifierKey]:
    """Keys of logs, each under the name of the epoch that a note says it is of."""
    origin = note.partition(b"\n")[0].decode("utf-8", "replace")
    return [each if number_of(each.name, origin) is None else VerifierKey(origin, each.public_key) for each in keys]


def newest_epoch(directory: Path, vkey: VerifierKey) -> Epoch:
    """The newest epoch that has a checkpoint here; the first where none has."""
    return (epochs_of(directory, vkey) or [epoch_at(directory, vkey, 1)])[-1]

"""How a log is divided into epochs: their names, keys and places.

Each epoch is a whole log of its own. The first is the directory itself, under the log's own origin. Epoch n from 2 on
lies in `epochs/<n>` below it, n with four digits; its origin is `<origin>/epoch-<n>`, and its key is the same Ed25519
key under that name. So one verifier key opens all of them, and nothing that was published ever moves.

An epoch ends with an `epoch-close` entry that names the next origin; the next one begins with a `genesis` entry that
holds the last checkpoint of the one before (`previous`).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from ops.audit.checkpoint import VerifierKey

__all__ = [
    "EPOCHS",
    "EPOCHS_MAX",
    "Epoch",
    "epoch_at",
    "epochs_of",
    "is_of_epoch",
    "newest_epoch",
    "number_of",
    "number_of_place",
    "origin_of",
    "place_of",
]

EPOCHS = "epochs"
EPOCHS_MAX = 9999
_PLACE = re.compile(r"[0-9]{4}", re.ASCII)
_INSIDE = re.compile(r"epochs/[0-9]{4}/", re.ASCII)
_SUFFIX = re.compile(r"/epoch-([1-9][0-9]{0,3})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a log: where it lies, and the key of its checkpoints."""

    number: int
    directory: Path
    vkey: VerifierKey


def origin_of(first: str, number: int) -> str:
    """The origin of an epoch of the log whose first origin this is."""
    return first if number == 1 else f"{first}/epoch-{number}"


def number_of(first: str, origin: str) -> int | None:
    """Which epoch of the log `first` an origin is; None when it is none of its."""
    if origin == first:
        return 1
    found = _SUFFIX.fullmatch(origin.removeprefix(first)) if origin.startswith(first) else None
    return int(found[1]) if found is not None and int(found[1]) > 1 else None


def place_of(directory: Path, number: int) -> Path:
    """Where an epoch of the log in `directory` lies."""
    return directory if number == 1 else directory / EPOCHS / f"{number:04d}"


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


def newest_epoch(directory: Path, vkey: VerifierKey) -> Epoch:
    """The newest epoch that has a checkpoint here; the first where none has."""
    return (epochs_of(directory, vkey) or [epoch_at(directory, vkey, 1)])[-1]

"""Where a log is replicated to: keys and bytes, in S3, GCS, Azure or a directory.

Rules:
1. What a store says of a write is not believed by anybody here: `put_new` and `replace` return nothing. Whoever has to
   know reads it back.
2. A store that cannot be asked is `StoreUnavailable`, one that refuses `StoreRefused`: the first passes, the second
   does not by itself. Neither says whether something was written.
3. Every call ends within the timeout of its store, its own attempts included.

A directory (`file://`) is written without a sync: it is as durable as what is mounted there. The library behind it all
is obstore's (`obstore_adapter`), of the extra `objects`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson

from ops.audit.errors import StoreRefused

MISSING_EXTRA = "object stores need the extra `objects`; run `pip install 'stockade[objects]'`"
SCHEMES = ("s3", "gs", "az", "file")
CREDENTIALS_BYTES_MAX = 65_536
CHECKPOINTS = "checkpoints"  # each that was copied, by its size; the other keys are those of a log


class ObjectStore(Protocol):
    """Keys and bytes below one prefix. Thread-safe. Each method raises StoreUnavailable and StoreRefused."""

    def get(self, key: str) -> bytes | None:
        """What stands there, None where nothing does."""

    def put_new(self, key: str, data: bytes) -> None:
        """Write where nothing stands. What stands there already stays, without a word."""

    def replace(self, key: str, data: bytes) -> None:
        """Write, whatever stands there."""


@dataclass(frozen=True, slots=True)
class Lock:
    """Until when an object can be neither changed nor removed, and by which mode (`COMPLIANCE`: by nobody at all)."""

    mode: str
    until: datetime


class Listed(Protocol):
    """A store that can be read, and listed. Thread-safe. Raises as `ObjectStore`."""

    def get(self, key: str) -> bytes | None:
        """What stands there, None where nothing does."""

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix that ends in a slash, in any order."""


class Inspected(ObjectStore, Listed, Protocol):
    """A store of which more can be asked. Raises as `ObjectStore`."""

    def lock_of(self, key: str) -> Lock | None:
        """How an object is locked; None where it is not, or where the store does not tell."""


@dataclass(frozen=True, slots=True)
class Below:
    """What is in a store below `prefix`, which ends in a slash."""

    store: Inspected
    prefix: str

    def get(self, key: str) -> bytes | None:
        return self.store.get(self.prefix + key)

    def keys(self, prefix: str) -> Iterator[str]:
        return (key.removeprefix(self.prefix) for key in self.store.keys(self.prefix + prefix))

    def put_new(self, key: str, data: bytes) -> None:
        self.store.put_new(self.prefix + key, data)

    def replace(self, key: str, data: bytes) -> None:
        self.store.replace(self.prefix + key, data)

    def lock_of(self, key: str) -> Lock | None:
        return self.store.lock_of(self.prefix + key)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is: `s3://bucket/prefix`, `gs://`, `az://` or `file:///directory`, and how it is reached.

    `credentials` are obstore's settings of that kind of store, such as access_key_id and secret_access_key; without
    any, those of the environment and the machine count.
    """

    url: str
    endpoint: str | None = None
    region: str | None = None
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 10.0


def checkpoint_key(size: int) -> str:
    """Where the checkpoint of this size stays."""
    return f"{CHECKPOINTS}/{size:020d}"


def installed() -> bool:
    """Say whether the extra is there, without importing it."""
    return find_spec("obstore") is not None


def read_credentials(path: Path) -> dict[str, str]:
    """The settings in a file of credentials: one JSON object of strings.

    Raises:
        StoreRefused: it is none. The message holds nothing of what is in it.
        OSError: it cannot be read.
    """
    try:
        found: Any = orjson.loads(path.read_bytes()[:CREDENTIALS_BYTES_MAX])
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise StoreRefused(f"{path} is not a JSON object of strings, such as access_key_id and secret_access_key")
    return found


def open_store(place: Place) -> Inspected:
    """Open a store. Nothing is asked of it yet.

    Raises:
        StoreRefused: the extra is missing, or the place cannot be one.
    """
    if urlsplit(place.url).scheme not in SCHEMES:
        raise StoreRefused(f"{place.url} begins with none of {', '.join(f'{each}://' for each in SCHEMES)}")
    if not installed():
        raise StoreRefused(MISSING_EXTRA)
    from ops.audit.copies.obstore_adapter import opened

    return opened(place)

"""Where a log is replicated to: keys and bytes, in S3, GCS, Azure or a directory.

Rules:
1. What a store says of a write is not believed by anybody here: `put_new` and `replace` return nothing. Whoever has to
   know reads it back.
2. A store that cannot be asked is `StoreUnavailable`, one that refuses `StoreRefused`: the first passes, the second
   does not by itself. Neither says whether something was written.
3. Every call ends within the timeout of its store, its own attempts included.

A directory (`file://`) is written without a sync: it is as durable as what is mounted there. The library behind it all
is obstore, of the extra `objects`. This is the only module that knows it, and it imports it when a store is opened.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import orjson

from ops.audit.errors import StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Backend

MISSING_EXTRA = "object stores need the extra `objects`; run `pip install 'stockade[objects]'`"
SCHEMES = ("s3", "gs", "az", "file")
CREDENTIALS_BYTES_MAX = 65_536
ATTEMPTS_MAX = 3
SIGNED_FOR = timedelta(minutes=1)
PROBLEM_CHARACTERS_MAX = 400
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
    from obstore.exceptions import BaseError
    from obstore.store import LocalStore, from_url

    parts = urlsplit(place.url)
    each = timedelta(seconds=place.timeout_s)
    settings: dict[str, Any] = {**place.credentials}
    if parts.scheme == "s3":
        settings |= {"checksum_algorithm": "SHA256", "region": place.region or "us-east-1"}
    if place.endpoint is not None:
        settings["base_url" if parts.scheme == "gs" else "endpoint"] = place.endpoint
    options: dict[str, Any] = {
        "config": settings,
        "client_options": {"allow_http": (place.endpoint or "").startswith("http://"), "timeout": each},
        "retry_config": {"max_retries": ATTEMPTS_MAX - 1, "retry_timeout": each},
    }
    try:
        if parts.scheme == "file":
            return ObstoreAdapter(LocalStore(Path(unquote(parts.path)), mkdir=True), place.timeout_s)
        return ObstoreAdapter(from_url(place.url, **options), place.timeout_s)
    except (BaseError, OSError, ValueError) as problem:
        raise StoreRefused(f"{place.url} cannot be opened: {one_line(problem)}") from problem


@dataclass(frozen=True, slots=True)
class ObstoreAdapter:
    """An `Inspected` store. Writes are single requests: what is seen is whole."""

    backend: "Backend"
    timeout_s: float

    def get(self, key: str) -> bytes | None:
        with asking():
            try:
                return bytes(self.backend.get(key).bytes())
            except FileNotFoundError:
                return None

    def put_new(self, key: str, data: bytes) -> None:
        """Conditional (`If-None-Match: *`): two writers cannot overwrite each other."""
        from obstore.exceptions import AlreadyExistsError

        with asking(), suppress(AlreadyExistsError):
            self.backend.put(key, data, mode="create", use_multipart=False)

    def replace(self, key: str, data: bytes) -> None:
        with asking():
            self.backend.put(key, data, mode="overwrite", use_multipart=False)

    def keys(self, prefix: str) -> Iterator[str]:
        with asking():
            for page in self.backend.list(prefix.removesuffix("/")):
                for each in page:
                    yield str(each["path"])

    def lock_of(self, key: str) -> Lock | None:
        """As S3 answers a HEAD. obstore does not hand these headers on, so it signs a URL, and this asks."""
        from obstore import sign
        from obstore.store import S3Store

        if not isinstance(self.backend, S3Store):
            return None
        with asking():
            url = sign(self.backend, "HEAD", key, SIGNED_FOR)
        try:
            with urlopen(Request(url, method="HEAD"), timeout=self.timeout_s) as reply:  # noqa: S310  the store's own
                mode = reply.headers.get("x-amz-object-lock-mode")
                until = reply.headers.get("x-amz-object-lock-retain-until-date")
            return None if mode is None or until is None else Lock(mode, datetime.fromisoformat(until).astimezone(UTC))
        except (OSError, HTTPException, ValueError) as problem:  # HTTPError is an OSError
            raise StoreUnavailable(f"the store does not tell how {key} is locked: {problem}") from problem


@contextmanager
def asking() -> Iterator[None]:
    """Turn what obstore raises into our errors. Its texts hold URLs, no credentials; one line of each is kept."""
    from obstore import exceptions as of

    refusals = (of.PermissionDeniedError, of.UnauthenticatedError, of.InvalidPathError, of.NotSupportedError)
    try:
        yield
    except (*refusals, FileNotFoundError) as problem:  # no file: the bucket; an object that is not there is no error
        raise StoreRefused(one_line(problem)) from problem
    except (of.BaseError, OSError) as problem:
        raise StoreUnavailable(one_line(problem)) from problem


def one_line(problem: Exception) -> str:
    return " ".join(str(problem).partition("\n\nDebug source")[0].split())[:PROBLEM_CHARACTERS_MAX]

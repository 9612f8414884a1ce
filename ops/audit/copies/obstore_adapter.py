"""`ObjectStore` on obstore: the only module that knows it. Needs the extra `objects`; imported when one is opened."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from obstore import sign
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, S3Store, from_url
from obstore.store import ObjectStore as Backend

from ops.audit.copies.object_store import Lock, Place
from ops.audit.errors import StoreRefused, StoreUnavailable

ATTEMPTS_MAX = 3
SIGNED_FOR = timedelta(minutes=1)
PROBLEM_CHARACTERS_MAX = 400
REFUSALS = (PermissionDeniedError, UnauthenticatedError, InvalidPathError, NotSupportedError)


@dataclass(frozen=True, slots=True)
class ObstoreAdapter:
    """An `Inspected` store. Writes are single requests: what is seen is whole."""

    backend: Backend
    timeout_s: float

    def get(self, key: str) -> bytes | None:
        with asking():
            try:
                return bytes(self.backend.get(key).bytes())
            except FileNotFoundError:
                return None

    def put_new(self, key: str, data: bytes) -> None:
        """Conditional (`If-None-Match: *`): two writers cannot overwrite each other."""
        with asking():
            try:
                self.backend.put(key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return

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
    try:
        yield
    except REFUSALS as problem:
        raise StoreRefused(one_line(problem)) from problem
    except FileNotFoundError as problem:  # the bucket: an object that is not there is no error
        raise StoreRefused(one_line(problem)) from problem
    except (BaseError, OSError) as problem:
        raise StoreUnavailable(one_line(problem)) from problem


def one_line(problem: Exception) -> str:
    return " ".join(str(problem).partition("\n\nDebug source")[0].split())[:PROBLEM_CHARACTERS_MAX]


def opened(place: Place) -> ObstoreAdapter:
    """Open a store of a scheme that `object_store` knows. Raises StoreRefused."""
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

"""Reads a JWKS document, from a file or over https. Blocking; runs in the thread of a `KeySource`.

https rules: certificates are verified, TLS 1.2 at least, no redirect is followed, no proxy is used, any status but 200
is a failure, and the exchange has a size and a time: a slow or talkative server holds up nothing but its own keys.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from gateway.auth.errors import IdentityRejected, KeySetRejected
from gateway.auth.jwks import KEY_SET_BYTES_MAX

FILE_REFRESH_MS = 5_000  # pass to KeySource: looking at a local file is cheap
URL_REFRESH_MS = 300_000

_CHUNK_BYTES = 16_384


def file_loader(path: Path) -> Callable[[], bytes]:
    """Read a file. It should be replaced by renaming; a half-written one is refused and read again later."""

    def load() -> bytes:
        with path.open("rb") as file:
            body = file.read(KEY_SET_BYTES_MAX + 1)
        _require_bounded(len(body))
        return body

    return load


def https_loader(
    url: str, *, timeout_ms: int = 5_000, ca_file: Path | None = None, clock: Callable[[], float] = time.monotonic
) -> Callable[[], bytes]:
    """Fetch a URL. `ca_file` replaces the system's trusted roots. IdentityRejected when the URL is not plain https."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None or parts.fragment:
        raise IdentityRejected(url, "is not an https URL without user and fragment")
    host, port = parts.hostname, parts.port or 443
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    timeout_s = timeout_ms / 1000

    def load() -> bytes:
        deadline = clock() + timeout_s
        connection = HTTPSConnection(host, port, timeout=timeout_s, context=context)
        try:
            connection.request("GET", target, headers={"Accept": "application/json", "User-Agent": "stockade"})
            response = connection.getresponse()
            if response.status != 200:
                raise KeySetRejected(f"was answered with status {response.status}")
            return _read(response, deadline, clock)
        finally:
            connection.close()

    return load


def _read(response: HTTPResponse, deadline: float, clock: Callable[[], float]) -> bytes:
    """Read the body. Each read is bounded by the socket's timeout, all of them by the deadline."""
    body = bytearray()
    while chunk := response.read1(_CHUNK_BYTES):
        body += chunk
        _require_bounded(len(body))
        if clock() > deadline:
            raise TimeoutError("the key set did not arrive in time")
    return bytes(body)


def _require_bounded(size_bytes: int) -> None:
    if size_bytes > KEY_SET_BYTES_MAX:
        raise KeySetRejected(f"is longer than {KEY_SET_BYTES_MAX} bytes")

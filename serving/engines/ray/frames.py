"""What the gateway's worker, its Ray bridge and a replica say to each other: bytes to values and back. Pure.

Between worker and bridge: frames, each a header of fixed size and a body. `Kind` says what the body is:

| kind | from | body |
|---|---|---|
| INFER | worker | a request, for the replica |
| ANSWER | bridge | a reply, of a replica |
| LOST | bridge | UTF-8: why no replica answered, also when asked again |
| LATE | bridge | nothing: no answer within the call's time |
| FAULT | bridge | UTF-8: the replica raised something that it should not |
| STATUS | bridge | JSON: `Status`, once a second and when something changed |

A request is the SHA-256 of the bundle that is meant, then the arrays. A reply is the SHA-256 of the bundle that the
replica holds, one byte of `Verdict`, then the arrays or a text. So no answer is ever that of another bundle.

Arrays are safetensors: nothing here or in who uses it unpickles what came from another process.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

BODY_BYTES_MAX = 256 * 1024 * 1024
TARGET_BYTES_MAX = 255
DIGEST_BYTES = 32

_HEADER = struct.Struct("!BBQI")  # kind, bytes of the target's name, call, bytes of the body
HEADER_BYTES = _HEADER.size


class BadFrame(Exception):
    """These bytes are not what the other side may send."""


class Kind(IntEnum):
    """What a frame is."""

    INFER = 1
    ANSWER = 2
    LOST = 3
    LATE = 4
    FAULT = 5
    STATUS = 6


class Verdict(IntEnum):
    """What a replica says about a request."""

    DONE = 0
    FAILED = 1
    STALE = 2
    REFUSED = 3


class Header(msgspec.Struct, frozen=True):
    """The header of a frame; `target_bytes` of the target's name and `body_bytes` of the body follow it."""

    kind: Kind
    call: int
    target_bytes: int
    body_bytes: int


class ApplicationStatus(msgspec.Struct, frozen=True):
    """What Serve says of one application: of `wanted` replicas so many are running.

    `wanted` moves with autoscaling. `digest` is of the bundle that a replica of it holds, "" while unknown.
    """

    state: str
    running: int = 0
    message: str = ""
    digest: str = ""
    wanted: int = 0


class Status(msgspec.Struct, frozen=True):
    """What the bridge sees. `problem` is why it sees nothing, "" while it does."""

    problem: str = ""
    applications: dict[str, ApplicationStatus] = {}


def pack_frame(kind: Kind, call: int, body: bytes, target: str = "") -> bytes:
    """Return a frame. ValueError when the target or the body is beyond its limit."""
    name = target.encode()
    if len(name) > TARGET_BYTES_MAX or len(body) > BODY_BYTES_MAX:
        raise ValueError(f"target of {len(name)} bytes, body of {len(body)}")
    return b"".join((_HEADER.pack(kind, len(name), call, len(body)), name, body))


def parse_header(data: bytes) -> Header:
    """Read the first HEADER_BYTES of a frame. Raises BadFrame."""
    try:
        kind, target_bytes, call, body_bytes = _HEADER.unpack(data)
        header = Header(Kind(kind), call, target_bytes, body_bytes)
    except (struct.error, ValueError) as error:
        raise BadFrame("is no header") from error
    if body_bytes > BODY_BYTES_MAX:
        raise BadFrame(f"announces {body_bytes} bytes")
    return header


def parse_status(body: bytes) -> Status:
    """Read the body of a STATUS frame. Raises BadFrame."""
    try:
        return msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame("is no status") from error


def pack_request(digest: bytes, inputs: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a request for the bundle with this SHA-256."""
    return digest + pack_arrays(inputs)


def parse_request(body: bytes) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """Return the digest that is meant and the inputs. Raises BadFrame."""
    return body[:DIGEST_BYTES], unpack_arrays(body[DIGEST_BYTES:])


def pack_reply(digest: bytes, verdict: Verdict, rest: bytes = b"") -> bytes:
    """Return a reply; `rest` is the packed outputs of DONE, the UTF-8 problem of FAILED and REFUSED."""
    return b"".join((digest, bytes((verdict,)), rest))


def parse_reply(body: bytes) -> tuple[bytes, Verdict, bytes]:
    """Return digest, verdict and the rest. Raises BadFrame."""
    try:
        return body[:DIGEST_BYTES], Verdict(body[DIGEST_BYTES]), body[DIGEST_BYTES + 1 :]
    except (IndexError, ValueError) as error:
        raise BadFrame("is no reply") from error


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return arrays as safetensors."""
    packed: bytes = safetensors.numpy.save(dict(arrays))
    return packed


def unpack_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of safetensors; each is writable and owned by who asked. Raises BadFrame."""
    try:
        arrays: dict[str, NDArray[Any]] = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise BadFrame("holds no arrays") from error
    return {name: array if array.flags.writeable else np.array(array) for name, array in arrays.items()}

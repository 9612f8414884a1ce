"""The socket between workers and the recorder: a unix stream, big-endian, first in, first out.

Worker to recorder, one message an append:

    length u32 (of what follows) | records u32 (bytes) | entries: uint16 length || entry ... | payloads: a pack

Recorder to worker, 16 bytes each: kind u8, three zeros, count u32, value u64.

    HELLO   value = tree size, count = length of the JSON {"append_bytes_max", "epoch", "origin"} that follows; sent
            once. `origin` is that of the first epoch
    ACK     the oldest `count` appends are durable, one after another; `value` is the index of their first entry
    REFUSED the oldest `count` appends were not taken; `value` is a reason
    STATE   unasked, at every change and after the hello of a recorder that is full: `value` is the reason why appends
            are refused from now on, 0 when they are taken again; `count` is 1
    EPOCH   unasked: from here on indexes are those of the epoch `value`; `count` is 1

Pure: bytes in, messages or `ProtocolError` out.
"""

import struct
from collections.abc import Sequence
from typing import Any

import orjson

from ops.audit.errors import INVALID_ENTRY, ProtocolError
from ops.audit.log.tiles import join_pack

HELLO, ACK, REFUSED, STATE, EPOCH = 1, 2, 3, 4, 5
INVALID, DISK_FULL, BACKLOG, STOPPING = 1, 2, 3, 4
REASONS = {INVALID: INVALID_ENTRY, DISK_FULL: "disk full", BACKLOG: "publishing is behind", STOPPING: "stopping"}

_APPEND = struct.Struct(">II")
_REPLY = struct.Struct(">BxxxIQ")
_U16 = struct.Struct(">H")
HEAD_BYTES = 4
LENGTHS_BYTES = _APPEND.size  # with fewer nothing can be said about an append
REPLY_BYTES = _REPLY.size
HELLO_BYTES_MAX = 4096


def append_message(entries: Sequence[bytes], blobs: Sequence[bytes]) -> bytes:
    """One append. Every entry must be shorter than 64 KiB."""
    parts = [b""]
    for entry in entries:
        parts += (_U16.pack(len(entry)), entry)
    records = b"".join(parts)
    pack = join_pack(blobs) if blobs else b""
    return b"".join((_APPEND.pack(4 + len(records) + len(pack), len(records)), records, pack))


def split_messages(data: bytes, length_max: int) -> tuple[list[tuple[bytes, bytes]], int]:
    """The complete appends at the front of a stream, as (framed entries, pack), and how many bytes they took.

    Raises:
        ProtocolError: a length out of bounds.
    """
    appends: list[tuple[bytes, bytes]] = []
    position, end = 0, len(data)
    while end - position >= _APPEND.size:
        length, records = _APPEND.unpack_from(data, position)
        if not 4 <= length <= length_max or records > length - 4:
            raise ProtocolError(f"an append of {length} bytes with {records} of entries")
        start = position + _APPEND.size
        stop = position + 4 + length
        if stop > end:
            break
        appends.append((data[start : start + records], data[start + records : stop]))
        position = stop
    return appends, position


def reply(kind: int, count: int, value: int) -> bytes:
    return _REPLY.pack(kind, count, value)


def hello(origin: str, epoch: int, size: int, append_bytes_max: int) -> bytes:
    body = orjson.dumps({"append_bytes_max": append_bytes_max, "epoch": epoch, "origin": origin})
    return _REPLY.pack(HELLO, len(body), size) + body


def split_replies(data: bytes) -> tuple[list[tuple[int, int, int]], int]:
    """The complete replies at the front of a stream (after the hello), and how many bytes they took.

    Raises:
        ProtocolError: an unknown kind.
    """
    whole = len(data) // REPLY_BYTES * REPLY_BYTES
    replies = list(_REPLY.iter_unpack(memoryview(data)[:whole]))
    if any(kind not in (ACK, REFUSED, STATE, EPOCH) or count == 0 for kind, count, _ in replies):
        raise ProtocolError("a reply of unknown kind")
    return replies, whole


def split_hello(data: bytes) -> tuple[str, int, int, int] | None:
    """(first origin, epoch, append_bytes_max, bytes taken) once the hello is complete, else None.

    Raises:
        ProtocolError: when it is not a hello.
    """
    if len(data) < REPLY_BYTES:
        return None
    kind, count, _ = _REPLY.unpack_from(data)
    if kind != HELLO or count > HELLO_BYTES_MAX:
        raise ProtocolError("the recorder did not say hello")
    if len(data) < REPLY_BYTES + count:
        return None
    try:
        body: Any = orjson.loads(data[REPLY_BYTES : REPLY_BYTES + count])
        origin, epoch, append_bytes_max = body["origin"], body["epoch"], body["append_bytes_max"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ProtocolError("the recorder's hello is malformed") from error
    if not isinstance(origin, str) or type(epoch) is not int or type(append_bytes_max) is not int:
        raise ProtocolError("the recorder's hello is malformed")
    return origin, epoch, append_bytes_max, REPLY_BYTES + count

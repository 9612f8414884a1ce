"""What operators may read of the log over the admin port: checkpoints, entries, proofs and receipts."""

from __future__ import annotations

import asyncio
import contextlib
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from gateway.control.cosigning import kept_cosigned
from gateway.control.orders import told
from gateway.control.public_log import NOT_PUBLISHED
from gateway.errors import ArgumentInvalid
from ops.audit.errors import NoteError
from ops.audit.log.epochs import parted
from ops.audit.log.merkle import inclusion_proof
from ops.audit.log.tiles import node_from
from stockade.v1 import audit_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    from gateway.control.desk import Desk
    from gateway.control.public_log import PublicLog
    from gateway.edge.service import Call
    from gateway.request.item import Answer

ENTRIES_MAX = 1024
LISTED_BYTES_MAX = 3 * 1024 * 1024  # of a reply: clients take 4 MiB unless they say otherwise


def audit_methods(desk: Desk) -> dict[str, Callable[[Call, bytes], Awaitable[Answer]]]:
    """Return the methods about the log, by their names."""

    def method(
        request_class: type[Message], read: Callable[[PublicLog, Any], Message]
    ) -> Callable[[Call, bytes], Awaitable[Answer]]:
        return told(request_class, lambda request: asyncio.to_thread(read, desk.public_log(), request))

    return {
        "GetCheckpoint": method(audit_pb2.GetCheckpointRequest, checkpoint),
        "ListEntries": method(audit_pb2.ListEntriesRequest, entries),
        "GetInclusionProof": method(audit_pb2.GetInclusionProofRequest, proof),
        "GetReceipt": method(audit_pb2.GetReceiptRequest, receipt),
    }


def checkpoint(log: PublicLog, _: audit_pb2.GetCheckpointRequest) -> Message:
    note, _reader = log.published(log.newest())
    return audit_pb2.GetCheckpointResponse(checkpoint=note)


def entries(log: PublicLog, request: audit_pb2.ListEntriesRequest) -> Message:
    reader, start = log.reader_of(request.start)
    count = min(request.count_max or ENTRIES_MAX, ENTRIES_MAX, max(0, reader.checkpoint.size - start))
    listed = fitting(reader.entries(start, count), LISTED_BYTES_MAX) if count else []
    return audit_pb2.ListEntriesResponse(start=request.start, entries=listed)


def proof(log: PublicLog, request: audit_pb2.GetInclusionProofRequest) -> Message:
    number, index = parted(request.index)
    note, reader = log.published(log.epoch(number))
    size = request.tree_size or reader.checkpoint.size
    if not index < size <= reader.checkpoint.size:
        raise ArgumentInvalid("index", NOT_PUBLISHED)
    return audit_pb2.GetInclusionProofResponse(
        index=request.index,
        tree_size=size,
        hashes=inclusion_proof(index, size, node_from(reader.hashes)),
        checkpoint=note if size == reader.checkpoint.size else b"",
    )


def receipt(log: PublicLog, request: audit_pb2.GetReceiptRequest) -> audit_pb2.GetReceiptResponse:
    """Return the receipt of an entry, in the newest cosigned checkpoint that has it, else in the newest."""
    number, index = parted(request.index)
    epoch = log.epoch(number)
    note, reader = log.published(epoch)
    for file in (log.cosigned, kept_cosigned(log.cosigned, number)):
        with contextlib.suppress(OSError, NoteError):  # none is cosigned, or another epoch's or log's
            cosigned = log.published(epoch, file)
            if index < cosigned[1].checkpoint.size <= reader.checkpoint.size:  # else an older copy is here
                note, reader = cosigned
    if index >= reader.checkpoint.size:
        raise ArgumentInvalid("index", NOT_PUBLISHED)
    return audit_pb2.GetReceiptResponse(receipt=reader.receipt(index, note).text())


def fitting(entries: list[bytes], bytes_max: int) -> list[bytes]:
    """Return as many of the first entries as fit, one at least; whoever asked goes on behind them."""
    sizes = accumulate(map(len, entries))
    return entries[: max(1, sum(size <= bytes_max for size in sizes))]

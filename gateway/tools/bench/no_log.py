"""A recorder that acknowledges at once and keeps nothing: `python -m gateway.tools.bench.no_log SOCKET ORIGIN`.

`bench audit` runs a gateway against it, to say what keeping the log costs a call. Only the benchmark starts it, as the
recorder that somebody else keeps (`audit.recorder: external`); a gateway has no setting that does without its log.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from functools import partial

import uvloop

from ops.audit.log.tiles import split_entries
from ops.audit.store import protocol
from ops.audit.store.settings import MIB

APPEND_BYTES_MAX = 8 * MIB
RECEIVE_BYTES = 65_536


async def acknowledge(origin: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one worker until it hangs up."""
    size, inbox = 0, b""
    writer.write(protocol.hello(origin, 1, size, APPEND_BYTES_MAX))
    while received := await reader.read(RECEIVE_BYTES):
        inbox += received
        appends, taken = protocol.split_messages(inbox, APPEND_BYTES_MAX + protocol.HEAD_BYTES)
        inbox = inbox[taken:]
        if appends:
            writer.write(protocol.reply(protocol.ACK, len(appends), size))
            size += sum(len(split_entries(records)) for records, _ in appends)
    writer.close()


async def serve(path: str, origin: str) -> None:
    """Acknowledge until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with await asyncio.start_unix_server(partial(acknowledge, origin), path):
        await ended.wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2]))

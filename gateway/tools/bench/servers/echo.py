"""A bare grpc.aio server: bytes in, one fixed reply out. The floor under every Python gateway on this machine.

No protobuf, no model, no protection. uvloop, because the gateway runs on it too.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

import grpc
import uvloop


async def serve(port: int, reply: bytes) -> None:
    """Answer every ModelInfer with `reply` until SIGTERM."""

    async def echo(_body: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return reply

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(echo)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler}),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    try:
        await stop.wait()
    finally:
        await server.stop(grace=None)


def main() -> None:
    """Read the port and the reply from the command line, then serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--reply", type=Path, required=True, help="file with the serialized ModelInferResponse")
    args, _ = parser.parse_known_args()
    uvloop.run(serve(args.port, args.reply.read_bytes()))


if __name__ == "__main__":
    main()

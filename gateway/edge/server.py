"""The listening gRPC server of a process: ports, TLS, transport limits, drain.

Rules:
- Transport limits stand slightly above the policy's, so that what is too large is refused by us, with a record, and
  only what is far too large by gRPC itself.
- With several workers each binds the same port (SO_REUSEPORT). That balances connections, not calls, so connections
  are asked to renew after a while.
- Drain: refuse new calls as DRAINING, tell clients to go elsewhere (GOAWAY), and stop when the last accepted call has
  its answer or the time is over.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from cryptography import x509

from gateway.edge.streaming import end_streams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.config.config import Config, Tls
    from gateway.edge.service import Service
    from gateway.request.gateway import Gateway

SLACK_BYTES = 64 * 1024
METADATA_SLACK_BYTES = 16 * 1024
DRAINING_FOR_S = 0.2  # calls that were on their way when the drain began are refused by us, with a record
IDLE_CONNECTION_MS = 10 * 60 * 1000
HANDSHAKE_MS = 10_000  # who has not shaken hands by then is hung up on


class ListenFailed(Exception):
    """A port could not be bound. The message names the address."""


def options(config: Config) -> list[tuple[str, Any]]:
    """Return the channel arguments of a server."""
    transport = config.transport
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", transport.message_bytes_max + SLACK_BYTES),
        ("grpc.max_metadata_size", transport.metadata_bytes_max + METADATA_SLACK_BYTES),
        ("grpc.absolute_max_metadata_size", transport.metadata_bytes_max + 2 * METADATA_SLACK_BYTES),
        ("grpc.max_connection_age_ms", transport.connection_age_max_ms),
        ("grpc.max_connection_age_grace_ms", transport.drain_timeout_ms),
        ("grpc.max_connection_idle_ms", IDLE_CONNECTION_MS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_concurrent_streams", 2 * transport.in_flight_max + 1024),  # what is too many is refused by us
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 3),
    ]


def open_server(service: Service, config: Config) -> grpc.aio.Server:
    """Return a server that is not listening yet."""
    server = grpc.aio.server(options=options(config))
    server.add_generic_rpc_handlers((service,))
    return server


def listen(server: grpc.aio.Server, address: str, tls: Tls | None, *, client_certificate: bool) -> str:
    """Bind one port and return its address, with the real port when 0 was asked for.

    Raises:
        ListenFailed: the address is taken or not ours.
    """
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, server_credentials(tls, client_certificate=client_certificate))
    except RuntimeError as problem:
        raise ListenFailed(f"cannot listen on {address}: is another program using it?") from problem
    return f"{address.rpartition(':')[0]}:{port}"


def server_credentials(tls: Tls, *, client_certificate: bool) -> grpc.ServerCredentials:
    """Return the server's certificate, and whose clients' certificates it demands."""
    pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    if not client_certificate:
        return grpc.ssl_server_credentials([pair])
    if tls.client_ca is None:
        raise ListenFailed("a port for client certificates needs tls.client_ca")
    return grpc.ssl_server_credentials([pair], tls.client_ca.read_bytes(), require_client_auth=True)


def certificates_expire(tls: Tls) -> dict[str, float]:
    """Return when each certificate expires, in seconds since 1970, by its role: "server" or "client_ca"."""
    files = {"server": tls.certificate, "client_ca": tls.client_ca}
    return {
        name: min(one.not_valid_after_utc.timestamp() for one in x509.load_pem_x509_certificates(file.read_bytes()))
        for name, file in files.items()
        if file is not None
    }


async def drain(servers: Sequence[grpc.aio.Server], gw: Gateway, timeout_s: float) -> None:
    """Stop without losing an accepted request."""
    gw.draining = True
    await asyncio.sleep(DRAINING_FOR_S)
    end_streams(gw)
    await asyncio.gather(*(server.stop(timeout_s) for server in servers))

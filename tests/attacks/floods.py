"""HTTP/2 by hand, for what a well-behaved gRPC client will not do: frames over TLS, as many as one likes."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = 8


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header that is never indexed, without Huffman coding (RFC 7541, section 6.2.3)."""
    return b"\x10" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    data = text.encode()
    return _integer(len(data), 7) + data


def _integer(value: int, bits: int) -> bytes:
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([value])
    out, value = [limit], value - limit
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def call_headers(path: str, more: Sequence[tuple[str, str]] = ()) -> bytes:
    """The header block of a gRPC call."""
    fixed = [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "localhost")]
    fixed += [("content-type", "application/grpc"), ("te", "trailers"), *more]
    return b"".join(literal(name, value) for name, value in fixed)


@cache
def trusting(ca: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    return context


def connect(address: str, ca: Path) -> ssl.SSLSocket:
    """A TLS connection that has sent the HTTP/2 preface."""
    host, _, port = address.rpartition(":")
    raw = socket.create_connection((host, int(port)), timeout=30)
    try:
        secured = trusting(ca).wrap_socket(raw, server_hostname="localhost")
        secured.sendall(PREFACE + frame(SETTINGS, 0, 0))
    except BaseException:
        raw.close()
        raise
    return secured


def read_until_silent(connection: ssl.SSLSocket, silence_s: float = 0.5) -> bytes:
    """What the server says until it says nothing for a while, or hangs up."""
    connection.settimeout(silence_s)
    heard = b""
    try:
        while more := connection.recv(65_536):
            heard += more
    except (TimeoutError, ConnectionError, ssl.SSLError):
        pass
    return heard

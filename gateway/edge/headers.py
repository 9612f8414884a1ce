"""What a call's metadata may tell us, and nothing else: credentials, a trace, a proof of work, the shape of a stream.

Identity never comes from any other header; whatever else a client or a proxy sent (`application`,
`multiplexed_model_id`, `x-ray-*`, `x-forwarded-*`, ...) is not looked at and goes nowhere. A credential that appears
twice counts as wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.auth.principal import Presented
from gateway.edge.stream import StreamShape, stream_shape
from ops.process.tracing import TraceParent

if TYPE_CHECKING:
    from collections.abc import Sequence

_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]([0-9a-f])")
_SAMPLED = frozenset("13579bdf")  # the lowest bit of the flags
ENTRY_BYTES = 32
JWT_DOTS = 2
DEFAULT_SHAPE = stream_shape(None, triton_grpc_error=False)
TWICE = "\0"  # no credential looks like this, so a header sent twice is CREDENTIAL_INVALID


@dataclass(slots=True)
class Headers:
    """The headers of one call that mean something to us."""

    authorization: str | None = None
    api_key: str | None = None
    parent: TraceParent | None = None
    proof: str = ""
    stream: StreamShape = DEFAULT_SHAPE

    def has_credential(self) -> bool:
        """Say whether a header tries to identify the caller."""
        return self.authorization is not None or self.api_key is not None

    def credential_kind(self) -> str:
        """Say what kind of credential the headers hold, by its looks; "none" when they hold none."""
        if not self.has_credential():
            return "none"
        return "jwt" if (self.authorization or "").count(".") == JWT_DOTS else "api_key"

    def presented(self, spiffe: tuple[str, ...] = ()) -> Presented:
        """Return what identifies the caller, with the names of a verified client certificate if there is one."""
        return Presented(self.authorization, self.api_key, spiffe)


def read_headers(metadata: Sequence[tuple[str, str | bytes]]) -> tuple[Headers, int]:
    """Return what counts, and the size of all metadata as HTTP/2 counts it (RFC 9113, section 6.5.2)."""
    headers = Headers()
    size = ENTRY_BYTES * len(metadata)
    stream_format: str | None = None
    triton_grpc_error = False
    for name, value in metadata:
        size += len(name) + len(value)
        if name == "authorization":
            headers.authorization = str(value) if headers.authorization is None else TWICE
        elif name == "x-api-key":
            headers.api_key = str(value) if headers.api_key is None else TWICE
        elif name == "traceparent":
            headers.parent = trace_parent(str(value))
        elif name == "x-stockade-proof":
            headers.proof = str(value)
        elif name == "x-stockade-stream-format":
            stream_format = str(value)
        elif name == "triton_grpc_error":
            triton_grpc_error = value == "true"
    if stream_format is not None or triton_grpc_error:
        headers.stream = stream_shape(stream_format, triton_grpc_error=triton_grpc_error)
    return headers, size


def trace_parent(traceparent: str) -> TraceParent | None:
    """Return the caller's span (W3C Trace Context, section 3.2), None when it is malformed or an id is all zeros."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return TraceParent(match[1], match[2], match[3] in _SAMPLED) if match is not None else None

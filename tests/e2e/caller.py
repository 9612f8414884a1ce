"""A gRPC client that shows everything of an answer: code, details, trailers, and the status details inside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from safetensors.numpy import load_file

from gateway.tools.samples import sample_images
from stockade.open_inference.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from tests.e2e.site import Site

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
TIMEOUT_S = 30.0
_DETAILS = re.compile(r"\[([A-Z_]+)\] (.+?) \(request_id=([0-9a-f]{32})\)")

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """How one call ended."""

    code: grpc.StatusCode
    details: str
    body: bytes
    trailers: dict[str, str | bytes]

    @property
    def reason(self) -> str:
        match = _DETAILS.fullmatch(self.details)
        return match[1] if match else "OK" if self.code is grpc.StatusCode.OK else ""

    @property
    def sentence(self) -> str:
        match = _DETAILS.fullmatch(self.details)
        return match[2] if match else ""

    @property
    def request_id(self) -> str:
        return str(self.trailers["x-request-id"])

    @property
    def message(self) -> ModelInferResponse:
        assert self.code is grpc.StatusCode.OK, self.details
        return ModelInferResponse.FromString(self.body)

    def output(self, name: str) -> np.ndarray[Any, Any]:
        message = self.message
        names = [output.name for output in message.outputs]
        raw = message.raw_output_contents[names.index(name)]
        return np.frombuffer(raw, np.float32).reshape(list(message.outputs[names.index(name)].shape))

    def detail(self, kind: type[Message]) -> Any:
        """The one detail of this kind inside `grpc-status-details-bin`, None when there is none."""
        raw = self.trailers.get("grpc-status-details-bin", b"")
        status = status_pb2.Status.FromString(raw if isinstance(raw, bytes) else raw.encode())
        found = [detail for detail in status.details if detail.Is(kind.DESCRIPTOR)]
        if not found:
            return None
        assert len(found) == 1, status
        message = kind()
        found[0].Unpack(message)
        return message

    @property
    def error_info(self) -> error_details_pb2.ErrorInfo:
        return self.detail(error_details_pb2.ErrorInfo)


class Caller:
    """Calls one port with one identity."""

    def __init__(self, channel: grpc.Channel, metadata: Metadata = ()) -> None:
        self.channel = channel
        self.metadata = metadata

    def ask(
        self,
        method: str,
        body: bytes = b"",
        *,
        metadata: Metadata | None = None,
        timeout: float = TIMEOUT_S,
        **more: Any,
    ) -> Reply:
        """One unary call, whatever becomes of it."""
        given = self.metadata if metadata is None else metadata
        call: Any = self.channel.unary_unary(method)
        try:
            answer, ended = call.with_call(body, metadata=given, timeout=timeout, **more)
        except grpc.RpcError as problem:
            return reply_of(problem)
        return Reply(grpc.StatusCode.OK, "", answer, dict(ended.trailing_metadata()))

    def infer(self, body: bytes, **more: Any) -> Reply:
        return self.ask(INFER, body, **more)

    def stream(self, bodies: Iterable[bytes], *, method: str = STREAM, metadata: Metadata | None = None) -> Any:
        given = self.metadata if metadata is None else metadata
        call: Any = self.channel.stream_stream(method)
        return call(iter(bodies), metadata=given, timeout=TIMEOUT_S)


def reply_of(ended: Any) -> Reply:
    """The end of a call that has no answer."""
    trailers = dict(ended.trailing_metadata() or ())
    return Reply(ended.code(), ended.details(), b"", trailers)


@contextmanager
def calling(
    site: Site, address: str, metadata: Metadata = (), certificate: tuple[bytes, bytes] | None = None
) -> Iterator[Caller]:
    """A caller on a channel of its own."""
    chain, key = certificate or (None, None)
    credentials = grpc.ssl_channel_credentials(site.read("tls/ca.crt"), key, chain)
    # A pool of its own, so that callers do not share a connection; and no retries, which would hide refusals.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), ("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(address, credentials, options=options) as channel:
        yield Caller(channel, metadata)


@cache
def images() -> np.ndarray[Any, np.dtype[np.float32]]:
    """1,000 real images in [0, 1]: float32 (1000, 28, 28)."""
    found = load_file(sample_images())["images"].reshape(-1, 28, 28)
    return found.astype(np.float32) / 255 if found.dtype == np.uint8 else found.astype(np.float32)


@cache
def labels() -> np.ndarray[Any, Any]:
    return load_file(sample_images())["labels"]


def infer_request(rows: Any = None, *, model: str = "kiosk", version: str = "", id: str = "") -> ModelInferRequest:  # noqa: A002  the message's own name
    """A request for images (n, 28, 28); by default for one that every screen lets pass."""
    array = np.ascontiguousarray(images()[:1] if rows is None else rows, np.float32)
    request = ModelInferRequest(model_name=model, model_version=version, id=id)
    request.inputs.add(name="image", datatype="FP32", shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    return request


def infer_body(rows: Any = None, **fields: Any) -> bytes:
    return infer_request(rows, **fields).SerializeToString()

"""A server of the Open Inference Protocol in the test's own process: real gRPC, a model that is a function of arrays.

It shares no code with the gateway but the generated messages: what it reads and writes are numpy's bytes. Tests tell it
to misbehave by `replies` (what becomes of the next calls) and `ready`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from gateway.config.engine import Oip
from gateway.models.upstream import UpstreamEngine
from serving.bundles.bundle import Bundle
from serving.engines.inprocess import InProcessEngine
from stockade.open_inference import grpc_service_pb2 as pb

Arrays = Mapping[str, np.ndarray[Any, Any]]
Reply = Callable[[pb.ModelInferRequest, grpc.ServicerContext], bytes]

NUMPY = {"FP32": np.float32, "FP64": np.float64, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "BOOL": "?"}
SERVER = pb.ServerMetadataResponse(name="loopback", version="9")
TYPED = {"FP32": "fp32_contents", "INT64": "int64_contents", "BYTES": "bytes_contents"}


def array_of(datatype: str, raw: bytes, shape: Any) -> np.ndarray[Any, Any]:
    if datatype != "BYTES":
        return np.frombuffer(raw, NUMPY[datatype]).reshape(shape)
    parts = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        parts.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return np.array(parts, object).reshape(shape)


def raw_of(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype.kind != "O":
        return array.tobytes()
    return b"".join(len(part).to_bytes(4, "little") + part for part in array.ravel())


def datatype_of(array: np.ndarray[Any, Any]) -> str:
    if array.dtype.kind == "O":
        return "BYTES"
    return next(name for name, kind in NUMPY.items() if np.dtype(kind) == array.dtype)


def reply_of(request: pb.ModelInferRequest, outputs: Arrays, *, typed: bool = False) -> pb.ModelInferResponse:
    reply = pb.ModelInferResponse(model_name=request.model_name, model_version=request.model_version)
    for name, array in outputs.items():
        datatype = datatype_of(array)
        output = reply.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if typed:
            getattr(output.contents, TYPED[datatype]).extend(array.ravel().tolist())
        else:
            reply.raw_output_contents.append(raw_of(array))
    return reply


def inputs_of(request: pb.ModelInferRequest) -> dict[str, np.ndarray[Any, Any]]:
    return {
        tensor.name: array_of(tensor.datatype, raw, list(tensor.shape))
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def refuses(code: grpc.StatusCode, details: str = "the secret is 0.25") -> Reply:
    def reply(_request: pb.ModelInferRequest, context: grpc.ServicerContext) -> bytes:
        context.abort(code, details)

    return reply


class OipServer(grpc.GenericRpcHandler):
    """Serves `model` on a free port of loopback until `stop`. `seen` are the requests, `metadata` came with them."""

    def __init__(
        self,
        model: Callable[[Arrays], Arrays],
        *,
        typed: bool = False,
        credentials: grpc.ServerCredentials | None = None,
        described: pb.ModelMetadataResponse | None = None,
        rows_max: int | None = None,
    ) -> None:
        self.model = model
        self.typed = typed
        self.described = described
        self.rows_max = rows_max  # None: no server but Triton has ModelConfig
        self.asked: list[pb.ModelMetadataRequest] = []
        self.ready = True
        self.replies: list[Reply] = []
        self.seen: list[pb.ModelInferRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.probes = 0
        self.gone = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(8), (self,), options=[("grpc.so_reuseport", 0)])
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        offered = {
            "ModelInfer": self._infer,
            "ModelReady": self._ready,
            "ModelMetadata": self._describe,
            "ServerMetadata": lambda body, context: SERVER.SerializeToString(),
        }
        if self.rows_max is not None:
            offered["ModelConfig"] = self._configuration
        run = offered.get(handler_call_details.method.rpartition("/")[2])
        return run and grpc.unary_unary_rpc_method_handler(run)

    def stop(self, grace_s: float | None = None) -> None:
        self.gone.set()
        self._server.stop(grace_s).wait(10)

    def _infer(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        request = pb.ModelInferRequest.FromString(body)
        self.seen.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.replies:
            return self.replies.pop(0)(request, context)
        wanted = [output.name for output in request.outputs]
        outputs = {name: array for name, array in self.model(inputs_of(request)).items() if name in wanted}
        return reply_of(request, outputs, typed=self.typed).SerializeToString()

    def _ready(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        self.probes += 1
        return pb.ModelReadyResponse(ready=self.ready).SerializeToString()

    def _describe(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked.append(pb.ModelMetadataRequest.FromString(body))
        self.metadata.append(dict(context.invocation_metadata()))
        if self.described is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return self.described.SerializeToString()

    def _configuration(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        reply = pb.ModelConfigResponse()
        reply.config.max_batch_size = self.rows_max or 0
        return reply.SerializeToString()


def settings(*addresses: str, **more: Any) -> Oip:
    return Oip(addresses=addresses, **more)


def until(condition: Callable[[], object], patience_s: float = 60.0) -> None:
    """Wait until the condition holds; nothing tells us, on purpose."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it never held"
        time.sleep(0.005)


class LoopbackEngine:
    """The engine under test with a server of its own, which runs the bundle's graph; for the contract suite."""

    def __init__(self, bundle: Bundle) -> None:
        self._graph = InProcessEngine(bundle)
        self._server = OipServer(self._graph.infer)
        self._engine = UpstreamEngine(bundle, settings(self._server.address))
        self.infer, self.ready = self._engine.infer, self._engine.ready

    def close(self) -> None:
        self._engine.close()
        until(lambda: not self._engine._running)  # a server that went away would be a failure of the server's
        self._server.stop()

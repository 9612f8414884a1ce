"""Ray Serve's own gRPC proxy in front of one deployment that returns a fixed reply: what the proxy alone costs.

Runs under the interpreter of the `ray` peer environment. Everything the documentation offers for throughput is on:
RAY_SERVE_THROUGHPUT_OPTIMIZED, no access log, no dashboard, no limit on ongoing requests that the load could meet; with
RAY_SERVE_ENABLE_HA_PROXY the same runs behind HAProxy, Ray's opt-in ingress. The handlers have no (de)serializers, so
Ray is spared protobuf: the figure flatters it. Ray listens on every interface and offers no setting for that: start it
where there is only loopback (gateway/tools/bench/machine.py).
"""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path
from typing import Any

import grpc
import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions
from ray.serve.schema import LoggingConfig


def add_servicer(servicer: Any, server: Any) -> None:
    """Register ModelInfer without protobuf: Ray asks for the path of such a function."""
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(servicer.ModelInfer)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler}),)
    )


IMAGE_BYTES = 28 * 28 * 4
PROBABILITIES_BYTES = 10 * 4


class Reply:
    """The one thing Ray asks of a reply: that it can serialize itself."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def SerializeToString(self) -> bytes:  # noqa: N802  # protobuf's name
        return self.body


class Echo:
    """The deployment: no model."""

    def __init__(self, body: bytes) -> None:
        self._reply = Reply(body)

    async def ModelInfer(self, _request: bytes) -> Reply:  # noqa: N802  # the wire's name
        return self._reply


class Kiosk:
    """The deployment with a model. Protobuf is spared here too: image and probabilities are the last bytes of each."""

    def __init__(self, body: bytes, graph: str) -> None:
        import numpy as np
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._numpy = np
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._head = body[:-PROBABILITIES_BYTES]

    async def ModelInfer(self, request: bytes) -> Reply:  # noqa: N802  # the wire's name
        image = self._numpy.frombuffer(request[-IMAGE_BYTES:], "<f4").reshape(1, 28, 28)
        (probabilities,) = self._session.run(["probabilities"], {"image": image})
        return Reply(self._head + probabilities.tobytes())


def main() -> None:
    """Start one local Ray, one proxy, one replica; stop all of it on SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--reply", type=Path, required=True, help="file with the serialized ModelInferResponse")
    parser.add_argument("--directory", type=Path, required=True, help="Ray's session files; a short path")
    parser.add_argument("--model", help="ONNX graph that the replica runs; without it, it answers with --reply")
    args = parser.parse_args()
    stop = threading.Event()
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=128 << 20,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(args.directory),
    )
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options=HTTPOptions(host="127.0.0.1", port=args.port + 1),
            grpc_options=gRPCOptions(port=args.port, grpc_servicer_functions=["ray_proxy.add_servicer"]),
            logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
        )
        deployment = serve.deployment(num_replicas=1, max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0})(
            Kiosk if args.model else Echo
        )
        told = (args.reply.read_bytes(), *([args.model] if args.model else []))
        serve.run(deployment.bind(*told), route_prefix="/")
        stop.wait()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()

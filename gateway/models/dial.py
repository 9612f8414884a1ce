"""Connections to the servers of the Open Inference Protocol that run models: whom to ask, for how long, how often.

Rules:
- A call goes to one server; the next call begins with the next one. Servers that say they are ready come first, and
  when none does they are asked all the same.
- Only UNAVAILABLE, and CANCELLED, with which a server that goes down lets go of calls, are tried again: with the next
  server, at most `retries` times. Nobody gave an answer then, though somebody may have begun to work. gRPC itself
  retries nothing. The time for all of it is `call_timeout`.
- Nothing of what a server says about a failure goes further than the name of its status: it may hold a client's values.
- No proxy from the environment, no service configuration from the name service: calls go to the named addresses.
- A thread asks every server each PROBE_EVERY_S whether the model is ready, and reads the token again.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from typing import TYPE_CHECKING, NoReturn

import grpc
from google.protobuf.message import DecodeError

from serving.errors import BackendFailed, BackendTimedOut, BackendUnavailable
from stockade.open_inference import grpc_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.config.engine import Oip, OipTls

SERVICE = "/inference.GRPCInferenceService"
PROBE_EVERY_S = 2.0
PROBE_TIMEOUT_S = 2.0
CLOSE_TIMEOUT_S = 5.0
TOKEN_BYTES_MAX = 16 * 1024
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 20_000, 10_000  # of a connection with a call on it that hears nothing
GONE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
RECONNECT_MS_MIN, RECONNECT_MS_MAX = 100, 2_000


class _Server:
    """One address. `up` is what was last heard of it; from any thread, and the newest word wins."""

    __slots__ = ("channel", "infer", "ready", "up")

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{SERVICE}/ModelInfer")
        self.ready: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{SERVICE}/ModelReady")
        self.up = True


class Servers:
    """The servers that run one model. `model` is its name and version here, for errors."""

    def __init__(self, oip: Oip, model: str, name: str, version: str) -> None:
        """Open the channels; nothing is waited for. OSError: a file of the settings cannot be read."""
        self._model = model
        self._timeout_ms = oip.call_timeout_ms
        self._retries = oip.retries
        self._token_file = oip.token
        self._metadata = bearer(oip.token)
        self._probe = pb.ModelReadyRequest(name=name, version=version).SerializeToString()
        self._turn = itertools.count()
        self._closed = threading.Event()
        self._lock = threading.Lock()  # a probe is begun on open channels, or not at all
        self._servers = [
            _Server(open_channel(address, oip.tls, reply_bytes_max=oip.reply_bytes_max)) for address in oip.addresses
        ]
        self._watcher = threading.Thread(target=self._watch, name=f"upstream-{model}", daemon=True)
        self._watcher.start()

    def deadline_s(self) -> float:
        """Return when a batch that begins now must be answered, whatever number of calls it takes."""
        return time.monotonic() + self._timeout_ms / 1000

    def infer(self, body: bytes, ends_s: float) -> bytes:
        """Return the reply to a serialized ModelInferRequest, by `deadline_s`.

        Raises:
            BackendUnavailable: no server took it, BackendTimedOut: nor answered in time, BackendFailed: or said no.
        """
        for server in itertools.islice(self._in_turn(), self._retries + 1):
            try:
                reply: bytes = server.infer(body, timeout=ends_s - time.monotonic(), metadata=self._metadata)
            except grpc.RpcError as problem:
                if problem.code() not in GONE:
                    self._give_up(problem)
                server.up = False
            else:
                return reply
        remark = f"no server took the request, asked {self._retries + 1} times"
        raise BackendUnavailable(self._model, remark, remark=remark)

    def ready(self) -> bool:
        """Say whether a server has not been heard to be away or not ready."""
        return not self._closed.is_set() and any(server.up for server in self._servers)

    def close(self) -> None:
        """Let go of the connections. No call may be running."""
        self._closed.set()
        with self._lock:
            for server in self._servers:
                server.channel.close()
        self._watcher.join(CLOSE_TIMEOUT_S)

    def _in_turn(self) -> Iterator[_Server]:
        """All servers over and over, beginning with another one each time, those that are up before the others."""
        first = next(self._turn) % len(self._servers)
        order = self._servers[first:] + self._servers[:first]
        return itertools.cycle(sorted(order, key=lambda server: not server.up))

    def _give_up(self, problem: grpc.RpcError) -> NoReturn:
        code = problem.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise BackendTimedOut(self._model, self._timeout_ms) from problem
        remark = f"a server said {code.name}"
        raise BackendFailed(self._model, remark, remark=remark) from problem

    def _watch(self) -> None:
        while not self._closed.is_set():
            self._look()
            self._closed.wait(PROBE_EVERY_S)

    def _look(self) -> None:
        with contextlib.suppress(OSError):  # it is being replaced: the one we have may still be good
            self._metadata = bearer(self._token_file)
        with self._lock:
            if self._closed.is_set():
                return
            asked = [
                server.ready.future(self._probe, timeout=PROBE_TIMEOUT_S, metadata=self._metadata)
                for server in self._servers
            ]
        for server, answer in zip(self._servers, asked, strict=True):
            server.up = _says_ready(answer)


def _says_ready(answer: grpc.Future[bytes]) -> bool:
    """Wait for the answer to a probe. Servers that do not know the question are taken to be ready."""
    problem = answer.exception()
    if problem is None:
        try:
            return pb.ModelReadyResponse.FromString(answer.result()).ready
        except DecodeError:
            return False
    return isinstance(problem, grpc.RpcError) and problem.code() is grpc.StatusCode.UNIMPLEMENTED


def bearer(token: Path | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata of our own credential. OSError: the file cannot be read, or holds no token."""
    if token is None:
        return ()
    with token.open("rb") as file:
        text = file.read(TOKEN_BYTES_MAX + 1).decode("ascii", "replace").strip()
    if not text or len(text) > TOKEN_BYTES_MAX or not all("!" <= character <= "~" for character in text):
        raise OSError(f"{token} does not hold a bearer token")
    return (("authorization", f"Bearer {text}"),)


def open_channel(address: str, tls: OipTls | None, *, reply_bytes_max: int) -> grpc.Channel:
    """Return a channel to one address, trusting only the authority of `tls`. Nothing is connected yet."""
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", reply_bytes_max),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS_MIN),
        ("grpc.min_reconnect_backoff_ms", RECONNECT_MS_MIN),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
    ]
    if tls is None:
        return grpc.insecure_channel(address, options)
    if tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    key = tls.key.read_bytes() if tls.key is not None else None
    certificate = tls.certificate.read_bytes() if tls.certificate is not None else None
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(tls.ca.read_bytes(), key, certificate), options)

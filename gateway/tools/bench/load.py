"""The one request every target gets, and who sends it: nghttp2's h2load, or an asyncio client where answers differ.

The request is one 28 x 28 FP32 image, raw. A gRPC message is framed by one byte that says "not compressed" and four
that say how long it is, big-endian (gRPC over HTTP/2, Length-Prefixed-Message).

Rules of h2load:
- `closed` keeps a fixed number of requests in flight (throughput); `paced` sends at a fixed rate (latency under load).
- It sees the HTTP status, which is 200 also when gRPC refuses. Only what carried a reply counts: runner.py checks it.
- Latency percentiles come from the log of single requests; h2load itself prints only the mean and the extremes.
- Parsing is pure; `run` is the only function that starts it, and it ends what it started.
"""

from __future__ import annotations

import asyncio
import math
import re
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import DecodeError
from safetensors.numpy import load_file

from gateway.tools.samples import sample_images
from stockade.open_inference import grpc_service_pb2 as oip

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MODEL = "kiosk"
FRAME_HEADER_BYTES = 5
IMAGE_SIDE = 28
CLASSES = 10
CALL_TIMEOUT_S = 60.0
PACED_RPS_PER_CONNECTION_MAX = 100
"""Above this h2load sends several requests per tick of its 10 ms timer, and would measure its own bursts."""
EXIT_GRACE_S = 30.0


class NotAnAnswer(ValueError):
    """What came back is no prediction for one image. The message says why."""


class H2loadFailed(Exception):
    """h2load could not be run, or its report could not be read. `output` is what it printed."""

    def __init__(self, problem: str, output: str = "") -> None:
        super().__init__(problem)
        self.output = output


def sample_floats() -> np.ndarray[Any, Any]:
    """The 1,000 test images that come with the project, float32 (1000, 28, 28) in [0, 1]."""
    pixels: np.ndarray[Any, Any] = load_file(sample_images())["images"]
    return np.asarray(pixels.reshape(-1, IMAGE_SIDE, IMAGE_SIDE), dtype=np.float32) / np.float32(255)


def image_request(image: np.ndarray[Any, Any]) -> bytes:
    """The serialized ModelInferRequest for one image, float32 (28, 28) in [0, 1]."""
    request = oip.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="image", datatype="FP32", shape=(1, IMAGE_SIDE, IMAGE_SIDE))
    request.raw_input_contents.append(np.ascontiguousarray(image, dtype="<f4").tobytes())
    return request.SerializeToString()


def first_request() -> bytes:
    """The request of the first test image."""
    return image_request(sample_floats()[0])


def echo_reply() -> bytes:
    """The fixed ModelInferResponse of the echoes: as long as a real one that carries the probabilities."""
    response = oip.ModelInferResponse(model_name=MODEL, model_version="1")
    response.outputs.add(name="probabilities", datatype="FP32", shape=(1, CLASSES))
    response.raw_output_contents.append(np.full(CLASSES, 1 / CLASSES, dtype="<f4").tobytes())
    return response.SerializeToString()


def read_answer(reply: bytes) -> np.ndarray[Any, Any]:
    """The probabilities, float32 (10,), of a serialized ModelInferResponse. Raises NotAnAnswer."""
    try:
        response = oip.ModelInferResponse.FromString(reply)
    except DecodeError:
        raise NotAnAnswer("the reply is no ModelInferResponse") from None
    names = [output.name for output in response.outputs]
    if "probabilities" not in names:
        raise NotAnAnswer(f"the reply holds {names}, not the probabilities")
    at = names.index("probabilities")
    if len(response.raw_output_contents) != len(names):
        raise NotAnAnswer("the reply is not raw, although the request was")
    raw, shape = response.raw_output_contents[at], list(response.outputs[at].shape)
    if shape != [1, CLASSES] or len(raw) != 4 * CLASSES:
        raise NotAnAnswer(f"the probabilities have shape {shape} and {len(raw)} bytes")
    probabilities = np.frombuffer(raw, dtype="<f4")
    if not abs(float(probabilities.sum()) - 1) < 0.01:  # hardening may round each of them
        raise NotAnAnswer("the probabilities do not sum to one")
    return probabilities


def framed(message: bytes) -> bytes:
    """A serialized message as the body of a unary gRPC request."""
    return struct.pack(">BI", 0, len(message)) + message


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server answers. `authority` is the PEM of who signed its certificate; None means plaintext."""

    port: int
    headers: tuple[tuple[str, str], ...] = ()
    authority: bytes | None = None
    metrics: int | None = None
    """The port of its page of metrics, where it counts its calls by gRPC status."""

    @property
    def url(self) -> str:
        return f"{'http' if self.authority is None else 'https'}://127.0.0.1:{self.port}{METHOD}"


class Asked(NamedTuple):
    """What a caller saw: seconds in all, milliseconds of each answer, and how many calls ended with which status."""

    seconds: float
    taken_ms: Sequence[float]
    outcomes: Counter[str]


async def ask(endpoint: Endpoint, bodies: Sequence[bytes], in_flight: int) -> Asked:
    """Send each message once, `in_flight` at a time."""
    waiting = iter(bodies)
    taken_ms: list[float] = []
    outcomes: Counter[str] = Counter()
    address, options = f"127.0.0.1:{endpoint.port}", [("grpc.enable_http_proxy", 0)]
    if endpoint.authority is None:
        channel = grpc.aio.insecure_channel(address, options)
    else:
        channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(endpoint.authority), options)
    async with channel:
        call: Any = channel.unary_unary(METHOD)

        async def one_after_the_other() -> None:
            for body in waiting:
                began_s = time.perf_counter()
                try:
                    await call(body, metadata=endpoint.headers, timeout=CALL_TIMEOUT_S)
                except grpc.aio.AioRpcError as problem:
                    outcomes[problem.code().name] += 1
                else:
                    outcomes["OK"] += 1
                    taken_ms.append((time.perf_counter() - began_s) * 1000)

        began_s = time.perf_counter()
        await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
        return Asked(time.perf_counter() - began_s, taken_ms, outcomes)


@dataclass(frozen=True, slots=True)
class InFlight:
    """Requests in flight, as connections times streams on each."""

    connections: int
    streams: int

    @property
    def total(self) -> int:
        return self.connections * self.streams


SHAPES = (InFlight(1, 1), InFlight(4, 8), InFlight(8, 32))
"""1, 32 and 256: one caller; a few services; several services with many calls each on one channel, as gRPC is used."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent, and where. `body` is a file with the framed message; h2load's log is written beside it."""

    url: str
    body: Path
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def log(self) -> Path:
        return self.body.with_name("h2load.log")


def load_of(endpoint: Endpoint, request: bytes, directory: Path) -> Load:
    """Write the request where h2load reads it."""
    body = directory / "body"
    body.write_bytes(framed(request))
    return Load(endpoint.url, body, endpoint.headers)


def closed(load: Load, shape: InFlight, seconds: float) -> list[str]:
    """The command that keeps `shape` requests in flight for `seconds`."""
    return _command(load, "-c", shape.connections, "-m", shape.streams, "-D", f"{round(seconds * 1000)}ms")


def paced(load: Load, shape: InFlight, rate_rps: float, seconds: float) -> list[str]:
    """The command that sends `rate_rps` requests a second for about `seconds`.

    As many connections as keep each below PACED_RPS_PER_CONNECTION_MAX, at least those of `shape`, opened one after
    the other over one period, so that their ticks are spread and the arrivals even. A connection that falls behind
    never has more than its share of `shape` in flight.
    """
    connections = max(shape.connections, math.ceil(rate_rps / PACED_RPS_PER_CONNECTION_MAX))
    streams = max(1, math.ceil(shape.total / connections))
    per_connection = rate_rps / connections
    gap_ms = max(1, int(1000 / per_connection / connections))
    count = max(connections, round(rate_rps * seconds))
    pace = ("--rps", f"{per_connection:.3f}", "-r", "1", f"--rate-period={gap_ms}ms")
    return _command(load, "-c", connections, "-m", streams, "-n", count, *pace)


def fixed_count(load: Load, shape: InFlight, count: int) -> list[str]:
    """The command that sends exactly `count` requests, `shape` at a time."""
    return _command(load, "-c", shape.connections, "-m", shape.streams, "-n", count)


def _command(load: Load, *options: object) -> list[str]:
    headers = (("content-type", "application/grpc"), ("te", "trailers"), *load.headers)
    named = [argument for name, value in headers for argument in ("-H", f"{name}: {value}")]
    return ["h2load", *map(str, options), "-d", str(load.body), f"--log-file={load.log}", *named, load.url]


@dataclass(frozen=True, slots=True)
class H2loadReport:
    """What h2load printed. Seconds and requests/s cover the measured part; bytes are DATA frames received."""

    seconds: float
    requests_per_s: float
    done: int
    succeeded: int
    failed: int
    errored: int
    timeout: int
    data_bytes: int


def run(command: Sequence[str], seconds_max: float) -> H2loadReport:
    """Run h2load to its end. Raises H2loadFailed, also when it takes much longer than `seconds_max`."""
    limit_s = seconds_max + EXIT_GRACE_S
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired as expired:
        output = (expired.stdout or b"").decode(errors="replace")
        raise H2loadFailed(f"h2load had not finished after {limit_s:.0f} s", output) from None
    if done.returncode != 0:
        raise H2loadFailed(f"h2load ended with {done.returncode}", done.stdout + done.stderr)
    return parse_report(done.stdout)


_REPORT = (
    re.compile(r"^finished in (?P<time>[0-9.]+)(?P<unit>us|ms|s|m|h), (?P<rps>[0-9.]+) req/s", re.MULTILINE),
    re.compile(
        r"^requests: \d+ total, \d+ started, (?P<done>\d+) done, (?P<succeeded>\d+) succeeded, "
        r"(?P<failed>\d+) failed, (?P<errored>\d+) errored, (?P<timeout>\d+) timeout",
        re.MULTILINE,
    ),
    re.compile(r"^traffic: .*, [^,(]+\((?P<data_bytes>\d+)\) data$", re.MULTILINE),
)
_UNIT_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_report(output: str) -> H2loadReport:
    """Read what h2load prints at its end. Raises H2loadFailed when a line is missing or means something else."""
    fields: dict[str, str] = {}
    for pattern in _REPORT:
        match = pattern.search(output)
        if match is None:
            raise H2loadFailed("h2load printed no report that can be read", output)
        fields |= match.groupdict()
    try:
        seconds, rps = float(fields.pop("time")) * _UNIT_S[fields.pop("unit")], float(fields.pop("rps"))
    except ValueError:
        raise H2loadFailed("h2load printed no report that can be read", output) from None
    return H2loadReport(seconds, rps, **{name: int(value) for name, value in fields.items()})


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds from the request's first byte to the reply's last."""

    count: int
    p50_ms: float
    p99_ms: float


def parse_log(lines: Iterable[str]) -> Percentiles:
    """Read the log: start (microseconds since the epoch), HTTP status, microseconds taken, separated by tabs.

    Only requests with status 200 count. Raises H2loadFailed when a line has another form or none succeeded.
    """
    taken_us = []
    for line in lines:
        try:
            _start, status, taken = (int(field) for field in line.rstrip("\n").split("\t")[:3])
        except ValueError:
            raise H2loadFailed("h2load's log has a line of another form", line) from None
        if status == 200:
            taken_us.append(taken)
    if not taken_us:
        raise H2loadFailed("h2load's log holds no successful request")
    p50, p99 = np.percentile(np.asarray(taken_us, dtype=np.float64), (50, 99))
    return Percentiles(len(taken_us), float(p50) / 1000, float(p99) / 1000)

"""A whole gateway in the test's own process: the real composition root, with a sink and an engine that tests can hold.

Everything else is real: policy, keys, metrics, in-flight ring, batch threads, and gRPC over a loopback socket.
"""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import gateway.host.app
import gateway.models.models
from gateway.config.load import load_config
from gateway.config.place import place_of
from gateway.edge.methods import data_methods
from gateway.edge.server import drain
from gateway.edge.service import Service
from gateway.host.app import App, open_app
from gateway.host.parts import RING_SLOTS
from gateway.host.shared_limits import shares_limits
from gateway.request.gateway import Gateway
from ops.audit.store.client import Done
from ops.metrics import prepare_directory
from ops.metrics.scrape import expose
from ops.process.logging import configure
from serving.bundles.bundle import Bundle
from serving.errors import BackendFailed
from tests.e2e.caller import INFER, STREAM, Reply, infer_body
from tests.e2e.running import samples, total
from tests.e2e.site import Change, Site, copy_site
from tests.fakes import FakeAuditSink
from tests.serving.fake_engine import FakeEngine
from tests.serving.tiny import tiny_bundle

POISON = np.float32(0.123)  # an image whose first pixel has this value makes `HeldEngine` fail, whatever it came with


class HeldSink(FakeAuditSink):
    """A sink that keeps what it is given until `release`, while `holding`; it speaks of the log only afterwards."""

    available = True
    backlog_records = 0

    def __init__(self) -> None:
        super().__init__()
        self.holding = False
        self._held: list[tuple[Sequence[bytes], Done, Sequence[bytes]]] = []

    def append(self, entries: Sequence[bytes], done: Done, *, blobs: Sequence[bytes] = ()) -> None:
        if self.holding:
            self._held.append((entries, done, blobs))
        else:
            super().append(entries, done, blobs=blobs)

    @property
    def held(self) -> int:
        return sum(len(entries) for entries, _, _ in self._held)

    def release(self) -> None:
        self.holding = False
        held, self._held = self._held, []
        for entries, done, blobs in held:
            super().append(entries, done, blobs=blobs)

    async def close(self) -> None:
        self.release()

    def records(self, **wanted: Any) -> list[dict[str, Any]]:
        """The requests' entries with these values."""
        found = [json.loads(entry) for entry in self.entries]
        return [entry for entry in found if all(entry.get(key) == value for key, value in wanted.items())]


class HeldEngine(FakeEngine):
    """Answers each row with the mean of its pixels, unless it is told to wait, or is poisoned."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.error: Callable[[], Exception] = lambda: BackendFailed("tiny/1", "poisoned")
        self.answer: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda outputs: outputs

    def infer(self, inputs: Mapping[str, Any], /) -> Mapping[str, Any]:
        self.threads.add(threading.get_ident())
        self.entered.release()
        self.go.wait(30)
        images = inputs["image"]
        self.batches.append(len(images))
        if (images[:, 0, 0] == POISON).any():
            raise self.error()
        return self.answer(super().infer(inputs))


@dataclass(slots=True)
class Rig:
    """What a test holds on to."""

    site: Site
    app: App
    sink: HeldSink
    channel: grpc.aio.Channel
    metrics: Path
    stderr: io.StringIO

    @property
    def gw(self) -> Gateway:
        return self.app.gw

    @property
    def engine(self) -> HeldEngine:
        engine = self.gw.served["tiny", "1"].engine
        assert isinstance(engine, HeldEngine)
        return engine

    @property
    def at_work(self) -> int:
        """Calls and messages that are being worked on: the slots of the in-flight ring that are taken."""
        return RING_SLOTS - len(self.gw.ring._free)

    def infer(self, body: bytes, *, caller: str = "plenty", **more: Any) -> Any:
        """Begin a call."""
        return self.channel.unary_unary(INFER)(body, metadata=self.site.bearer(caller), **more)

    async def ask(self, body: bytes, **more: Any) -> Reply:
        return await ended(self.infer(body, **more))

    def stream(self, bodies: Any, *headers: tuple[str, str], caller: str = "plenty") -> Any:
        metadata = (*self.site.bearer(caller), *headers)
        return self.channel.stream_stream(STREAM)(bodies, metadata=metadata)

    def counted(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        self.gw.tally.flush()
        return total(samples(expose(self.metrics).decode()), name, **labels)


async def until(condition: Callable[[], object], patience_s: float = 60.0) -> None:
    """Let the loop turn until the condition holds."""
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110  nothing inside tells us, on purpose
            await asyncio.sleep(0.002)


async def ended(call: Any) -> Reply:
    """How a call ended."""
    try:
        body = await call
    except grpc.aio.AioRpcError as problem:
        return Reply(problem.code(), problem.details() or "", b"", dict(problem.trailing_metadata() or ()))
    return Reply(grpc.StatusCode.OK, "", body, dict(await call.trailing_metadata()))


def image(value: float, rows: int = 1) -> np.ndarray[Any, Any]:
    """Images whose mean is `value`."""
    return np.full((rows, 28, 28), value, np.float32)


def poisoned(rows: int = 1) -> np.ndarray[Any, Any]:
    images = image(0.5, rows)
    images[-1, 0, 0] = POISON
    return images


def alone_only(encoded: Callable[..., Any]) -> Callable[..., Any]:
    """What encodes a request that is alone, and breaks on several."""

    def stumbling(items: Sequence[Any], *more: Any) -> Any:
        if len(items) > 1:
            raise RuntimeError("several")
        return encoded(items, *more)

    return stumbling


def tiny_body(images: Any, **fields: Any) -> bytes:
    return infer_body(images, model="tiny", **fields)


def only_tiny(policy: dict[str, Any]) -> None:
    """The policy of a gateway that serves the small model alone, to everybody."""
    policy["models"] = {"tiny": {"serve": "1"}}
    policy["roles"]["predictor"][0]["models"] = ["tiny"]


@asynccontextmanager
async def open_rig(
    made_site: Site,
    path: Path,
    *,
    config: Change | None = None,
    policy: Change | None = None,
    bundles: Sequence[Bundle] = (),
) -> AsyncIterator[Rig]:
    """A gateway on a copy of a site, for as long as the block runs. `bundles` are served beside the small model."""
    site = copy_site(made_site, path / "rig")

    def change_policy(document: dict[str, Any]) -> None:
        only_tiny(document)
        if policy is not None:
            policy(document)

    site.change_policy(change_policy)
    site.change_config(lambda document: document["engine"].update(threads=1))  # the engine can be held, the loop not
    if config is not None:
        site.change_config(config)
    loaded = load_config(site.config)
    place = place_of(loaded)
    for directory in (place.rings, place.policies):
        directory.mkdir(parents=True)
    prepare_directory(place.metrics)
    stderr = io.StringIO()
    log = configure("info", stderr, format="json")
    sink = HeldSink()

    async def open_sink(*_: object) -> HeldSink:
        return sink

    methods = data_methods(reflection=True, shared_limits=shares_limits(loaded))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway.host.app, "open_sink", open_sink)
        patch.setattr(gateway.models.models, "ENGINES", {"inprocess": lambda bundle, *_: HeldEngine(bundle)})
        app = await open_app(
            loaded, site.policy, process="worker-0", log=log, methods=methods, bundles=[tiny_bundle(), *bundles]
        )
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Service(app.gw, methods, client_certificates=False),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                yield Rig(site, app, sink, channel, place.metrics, stderr)
        finally:
            for served in app.gw.served.values():
                if isinstance(served.engine, HeldEngine):
                    served.engine.go.set()
            sink.release()
            await drain([server], app.gw, 5)
            await app.close()

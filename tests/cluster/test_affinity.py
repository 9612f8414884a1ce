"""The HAProxy configuration that we ship, before three gateways: who calls stays where it is."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
from collections import Counter
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gateway.edge.health import serving
from gateway.edge.methods import data_methods
from gateway.edge.server import server_credentials
from gateway.edge.service import Service
from ops.metrics.page import serve_metrics
from tests.e2e.caller import INFER, Reply
from tests.gateway.rig import Rig, ended, image, open_rig, tiny_body, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from ops.metrics.page import MetricsPage
    from tests.e2e.site import Site

HAPROXY = shutil.which("haproxy")
pytestmark = pytest.mark.skipif(HAPROXY is None, reason="needs haproxy (Debian: haproxy)")
SHIPPED = Path(__file__).parent.parent.parent / "ops/deploy/haproxy/haproxy.cfg"
CALLERS = [f"till-{number}" for number in range(90)]  # the ring has few points: of 30, one gateway may get three
ONE = tiny_body(image(0.5))
Metadata = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Place:
    """A gateway on a TLS port, and its page."""

    rig: Rig
    port: int = 0
    page_port: int = 0
    server: grpc.aio.Server | None = field(default=None)
    page: MetricsPage | None = field(default=None)

    async def open(self) -> None:
        self.server = grpc.aio.server()
        service = Service(self.rig.gw, data_methods(reflection=False), client_certificates=False)
        self.server.add_generic_rpc_handlers((service,))
        tls = self.rig.app.config.tls
        assert tls is not None
        credentials = server_credentials(tls, client_certificate=False)
        self.port = self.server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self.server.start()
        gw = self.rig.gw
        self.page = serve_metrics("127.0.0.1", self.page_port, self.rig.metrics, lambda: True, lambda: serving(gw))
        self.page_port = self.page.port

    async def close(self) -> None:
        if self.page is not None:
            self.page.close()
            self.page = None
        if self.server is not None:
            await self.server.stop(None)
            self.server = None


@dataclass(slots=True)
class Balanced:
    """Three gateways and the address of what is in front of them."""

    places: list[Place]
    address: str
    site: Site
    authority: bytes

    async def ask(self, *metadata: tuple[str, str]) -> Reply:
        """One call on a connection of its own."""
        credentials = grpc.ssl_channel_credentials(self.authority)
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        async with grpc.aio.secure_channel(self.address, credentials, options) as channel:
            return await ended(channel.unary_unary(INFER)(ONE, metadata=metadata, timeout=20))

    async def where(self, *metadata: tuple[str, str]) -> int:
        """Which gateway answers this caller."""
        reply = await self.ask(*metadata)
        assert reply.code is grpc.StatusCode.OK, reply
        (found,) = [number for number, place in enumerate(self.places) if place.rig.sink.records(id=reply.request_id)]
        return found

    async def everybody(self) -> dict[str, int]:
        return {caller: await self.where(*self.site.bearer(caller)) for caller in CALLERS}


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@contextmanager
def balancer(site: Site, path: Path, places: list[Place]) -> Iterator[int]:
    """HAProxy with the shipped configuration, its addresses and files replaced."""
    listening, certificates, metrics = free_ports(3)
    pem = path / "balancer.pem"
    pem.write_bytes(site.read("tls/server.crt") + site.read("tls/server.key"))
    pem.chmod(0o600)
    text = SHIPPED.read_text()
    changes = {
        "/etc/haproxy/stockade.pem": str(pem),
        "/etc/haproxy/stockade-ca.crt": str(site.directory / "tls/ca.crt"),
        "gateway.example.org": "localhost",
        "bind :8001": f"bind 127.0.0.1:{listening}",
        "bind :8004": f"bind 127.0.0.1:{certificates}",
        "127.0.0.1:8405": f"127.0.0.1:{metrics}",
    }
    for number, place in enumerate(places, 1):  # here all of them are on one machine
        changes[f"10.0.0.{number}:8001"] = f"127.0.0.1:{place.port} port {place.page_port}"
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    (path / "haproxy.cfg").write_text(text)
    assert HAPROXY is not None
    with (path / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([HAPROXY, "-f", str(path / "haproxy.cfg")], stdout=log, stderr=log)
    try:
        yield listening
        assert process.poll() is None, (path / "haproxy.log").read_text()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def balanced(made_site, tmp_path) -> AsyncIterator[Balanced]:
    keys = {name: made_site.new_key(name) for name in CALLERS}

    def add(document: dict[str, Any]) -> None:
        for name, key in keys.items():
            plain = {"tenant": "plenty", "roles": ["predictor"], "limits": "unlimited"}
            subject = {"issuer": "corp", "subject": name}
            document["principals"][name] = plain | {"api_keys": [key], "subjects": [subject]}

    async with AsyncExitStack() as stack:
        rigs = [
            await stack.enter_async_context(open_rig(made_site, tmp_path / f"{number}", policy=add))
            for number in range(3)
        ]
        places = [Place(rig) for rig in rigs]
        for place in places:
            await place.open()
            stack.push_async_callback(place.close)
        port = stack.enter_context(balancer(made_site, tmp_path, places))
        opened = Balanced(places, f"localhost:{port}", made_site, made_site.read("tls/ca.crt"))
        await until(lambda: listening(port))
        yield opened


def listening(port: int) -> bool:
    with socket.socket() as trying:
        return trying.connect_ex(("127.0.0.1", port)) == 0


async def test_a_caller_stays_with_its_gateway_and_only_a_lost_gateways_callers_move(balanced):
    before = await balanced.everybody()
    shares = Counter(before.values())
    assert len(shares) == 3
    assert min(shares.values()) >= 9, "nobody has next to nothing"
    assert await balanced.everybody() == before, "a new connection changes nothing"
    await balanced.places[1].close()
    without = await balanced.everybody()
    assert {caller for caller in CALLERS if without[caller] != before[caller]} == {
        caller for caller in CALLERS if before[caller] == 1
    }
    assert len({without[caller] for caller in CALLERS if before[caller] == 1}) == 2, "they are shared out"
    await balanced.places[1].open()

    async def is_back() -> bool:
        return await balanced.everybody() == before

    assert await within(is_back), "a gateway that is back has its callers again"


async def test_a_gateway_that_answers_nobody_loses_its_callers_though_its_port_is_open(balanced):
    """One whose recorder is gone refuses everything, and says on its page that it is not ready."""
    before = await balanced.everybody()
    sink = balanced.places[1].rig.sink

    async def only_they_move() -> bool:
        now = await balanced.everybody()
        return {caller for caller in CALLERS if now[caller] != before[caller]} == {
            caller for caller in CALLERS if before[caller] == 1
        }

    sink.available = False
    assert await within(only_they_move)
    sink.available = True

    async def is_back() -> bool:
        return await balanced.everybody() == before

    assert await within(is_back)


async def within(asked: Callable[[], Awaitable[bool]]) -> bool:
    """Ask again for as long as a balancer takes to see a change."""
    for _ in range(50):
        if await asked():
            return True
    return False


async def test_each_way_to_show_a_credential_leads_to_the_same_gateway(balanced):
    """What is hashed is the public half of a credential, and the subject of a token, so a new token stays."""
    for caller in CALLERS[:6]:
        home = await balanced.where(*balanced.site.bearer(caller))
        key = balanced.site.keys[caller]
        basic = base64.b64encode(":".join(key.split(".", 1)).encode()).decode()
        assert await balanced.where(("x-api-key", key)) == home
        assert await balanced.where(("authorization", f"Basic {basic}")) == home
        assert await balanced.where(("authorization", f"BASIC {basic}")) == home, "as gateways read it"
    homes = set()
    for caller in CALLERS[:8]:
        tokens = [balanced.site.token(sub=caller, jti=str(number)) for number in range(3)]
        assert len(set(tokens)) == 3
        (home,) = {await balanced.where(("authorization", f"Bearer {token}")) for token in tokens}
        homes.add(home)
    assert len(homes) > 1, "it is the subject that counts, not that it is a token"


async def test_what_proves_nothing_is_refused_by_a_gateway(balanced):
    for metadata in ((), (("authorization", "Bearer nobody.knows"),), (("authorization", "Basic !"),)):
        reply = await balanced.ask(*metadata)
        assert reply.code is grpc.StatusCode.UNAUTHENTICATED
        assert reply.details.startswith("[CREDENTIAL_"), "with all that it says about itself"
        assert reply.trailers["grpc-retry-pushback-ms"] == "-1"

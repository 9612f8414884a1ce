"""Two gateways that share limits in a real Redis: what callers, records and metrics see, with it and without it."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gateway.admission import shared
from gateway.policy.load import load_policy
from stockade.open_inference import grpc_service_pb2 as pb
from tests.e2e.caller import Reply
from tests.gateway.rig import Rig, ended, image, open_rig, tiny_body, until
from tests.redis_server import RedisServer, common_server, needs_redis, redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.e2e.site import Change, Site

pytestmark = needs_redis
CODE = grpc.StatusCode
SERVICE = "/inference.GRPCInferenceService"
ONE = tiny_body(image(0.5))


@dataclass(slots=True)
class Pair:
    """Two gateways that share limits."""

    first: Rig
    second: Rig
    server: RedisServer

    def __iter__(self):
        return iter((self.first, self.second))


@asynccontextmanager
async def pair_on(
    server: RedisServer, made_site: Site, path: Path, *, policy: Change | None = None
) -> AsyncIterator[Pair]:
    namespace = os.urandom(8).hex()

    def settings(document: dict[str, Any]) -> None:
        document["shared_limits"] = {"url": server.url, "namespace": namespace, "timeout": "10s"}

    async with (
        open_rig(made_site, path / "first", config=settings, policy=policy) as first,
        open_rig(made_site, path / "second", config=settings, policy=policy) as second,
    ):
        assert first.gw.shared.up
        assert second.gw.shared.up
        yield Pair(first, second, server)


@pytest.fixture(autouse=True)
def _looked_after_often(monkeypatch):
    """An outage is seen at once, though nobody calls."""
    monkeypatch.setattr(shared, "LOOK_EVERY_S", 0.02)


@pytest.fixture
async def pair(made_site, tmp_path) -> AsyncIterator[Pair]:
    async with pair_on(common_server(), made_site, tmp_path) as opened:
        yield opened


@pytest.fixture
def own_server():
    with redis_server() as server:
        yield server


async def call(rig: Rig, method: str, request: Any, *, caller: str = "plenty") -> Reply:
    made = rig.channel.unary_unary(f"{SERVICE}/{method}")
    return await ended(made(request.SerializeToString(), metadata=rig.site.bearer(caller)))


def limits_of(rig: Rig, reply: Reply) -> list[tuple[str, str]]:
    """(decision, rule) of everything that the record says of limits."""
    (entry,) = rig.sink.records(id=reply.request_id)
    return [(limit["decision"], limit["rule"]) for limit in entry["limits"]]


def share(part: float) -> Change:
    def change(document: dict[str, Any]) -> None:
        document["shared_limits"] = {"when_down": "local_share", "share": part}

    return change


async def lost(*rigs: Rig) -> None:
    await until(lambda: not any(rig.gw.shared.up for rig in rigs))


async def back(*rigs: Rig) -> None:
    await until(lambda: all(rig.gw.shared.up for rig in rigs))


async def test_a_limit_of_requests_is_one_limit_for_both(pair):
    """The caller may have two: one here, one there, and then none anywhere."""
    for rig in pair:
        reply = await rig.ask(ONE, caller="rated")
        assert reply.code is CODE.OK
        assert [rule for _, rule in limits_of(rig, reply)][-1] == "principal-requests"
        assert rig.sink.records(id=reply.request_id)[0]["timings_us"].keys() >= {"admit", "decode", "limits", "queue"}
    assert reply.trailers["x-ratelimit-remaining"] == "0"
    for rig in pair:
        over = await rig.ask(ONE, caller="rated")
        assert (over.code, over.reason) == (CODE.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert limits_of(rig, over)[-1] == ("refuse", "principal-requests")
        assert 3_500_000 < int(over.trailers["grpc-retry-pushback-ms"]) <= 3_600_000


async def test_a_limit_of_cost_is_one_limit_for_both_and_a_refused_call_costs_nothing(pair):
    assert (await pair.first.ask(tiny_body(image(0.5, 6)), caller="costly")).code is CODE.OK
    over = await pair.second.ask(tiny_body(image(0.5, 3)), caller="costly")
    assert (over.reason, over.trailers["x-ratelimit-limit"]) == ("RATE_LIMITED", "8")
    assert limits_of(pair.second, over)[-1] == ("refuse", "principal-cost")
    exact = await pair.second.ask(tiny_body(image(0.5, 2)), caller="costly")
    assert (exact.code, exact.trailers["x-ratelimit-remaining"]) == (CODE.OK, "0")


async def test_who_has_nothing_left_is_refused_on_the_headers_without_another_question(pair):
    for _ in range(2):
        assert (await pair.first.ask(ONE, caller="rated")).code is CODE.OK
    asked = await pair.second.ask(ONE, caller="rated")
    known = await pair.second.ask(ONE, caller="rated")
    assert asked.reason == known.reason == "RATE_LIMITED"
    assert limits_of(pair.second, asked)[-1] == limits_of(pair.second, known)[-1] == ("refuse", "principal-requests")
    assert len(limits_of(pair.second, asked)) == 3, "its own request and cost, and the shared ones"
    assert len(limits_of(pair.second, known)) == 1, "its own request"


async def test_a_request_that_cannot_be_met_counts_all_the_same(pair):
    for rig in pair:
        assert (await rig.ask(tiny_body(image(7.0)), caller="rated")).reason == "TENSOR_INVALID"
        await until(lambda rig=rig: not rig.gw.shared._waiting)
    assert (await pair.first.ask(ONE, caller="rated")).reason == "RATE_LIMITED"


async def test_other_methods_about_models_count_and_signs_of_life_do_not(pair):
    about = pb.ModelMetadataRequest(name="tiny")
    for rig in pair:
        assert (await call(rig, "ModelMetadata", about, caller="rated")).code is CODE.OK
    for rig in pair:
        assert (await call(rig, "ModelMetadata", about, caller="rated")).reason == "RATE_LIMITED"
        assert (await call(rig, "ServerLive", pb.ServerLiveRequest(), caller="hasty")).code is CODE.OK


async def test_signs_of_life_have_a_limit_that_no_answer_of_redis_sets_back(made_site, tmp_path, own_server):
    def four(document: dict[str, Any]) -> None:
        document["limits"]["two-requests"]["request_burst"] = 4

    async with pair_on(own_server, made_site, tmp_path, policy=four) as pair:
        rig, live = pair.first, pb.ServerLiveRequest()
        codes = []
        for _ in range(3):
            codes += [(await call(rig, "ServerLive", live, caller="rated")).code for _ in range(2)]
            assert (await rig.ask(ONE, caller="rated")).code is CODE.OK
        assert codes == [CODE.OK] * 4 + [CODE.RESOURCE_EXHAUSTED] * 2
        assert (await pair.second.ask(ONE, caller="rated")).code is CODE.OK, "and they take nothing from inferences"
        assert (await pair.second.ask(ONE, caller="rated")).reason == "RATE_LIMITED"


async def test_redis_is_not_told_of_signs_of_life_when_it_is_back(made_site, tmp_path, own_server):
    async with pair_on(own_server, made_site, tmp_path) as pair:
        rig = pair.first
        assert (await call(rig, "ServerLive", pb.ServerLiveRequest(), caller="rated")).code is CODE.OK
        own_server.stop()
        await lost(*pair)
        assert (await call(rig, "ServerLive", pb.ServerLiveRequest(), caller="rated")).code is CODE.OK
        assert (await call(rig, "ServerLive", pb.ServerLiveRequest(), caller="rated")).reason == "RATE_LIMITED"
        own_server.start()
        await back(*pair)
        assert own_server.ask("DBSIZE") == 0


async def test_each_message_of_a_stream_takes_from_the_shared_limits(pair):
    assert (await pair.first.ask(tiny_body(image(0.5, 7)), caller="costly")).code is CODE.OK
    stream = pair.second.stream(iter([ONE, ONE, ONE]), caller="costly")
    replies = [pb.ModelStreamInferResponse.FromString(reply) async for reply in stream]
    assert [reply.error_message.partition("]")[0] for reply in replies] == ["", "[RATE_LIMITED", "[RATE_LIMITED"]


async def test_a_budget_of_queries_is_spent_by_rows_in_all_gateways(made_site, tmp_path):
    def daily(document: dict[str, Any]) -> None:
        document["limits"]["unlimited"]["queries_per_day"] = 24

    async with pair_on(common_server(), made_site, tmp_path, policy=daily) as pair:
        assert (await pair.first.ask(tiny_body(image(0.5, 20)))).code is CODE.OK
        over = await pair.second.ask(tiny_body(image(0.5, 5)))
        assert (over.code, over.reason) == (CODE.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
        assert 3_500_000 < int(over.trailers["grpc-retry-pushback-ms"]) <= 3_600_000
        assert (await pair.second.ask(tiny_body(image(0.5, 4)))).code is CODE.OK
        never = await pair.second.ask(tiny_body(image(0.5, 25)))
        assert never.reason == "REQUEST_TOO_LARGE"


async def test_without_redis_everything_but_signs_of_life_is_refused_until_it_is_back(made_site, tmp_path, own_server):
    async with pair_on(own_server, made_site, tmp_path) as pair:
        own_server.stop()
        rig = pair.first
        await lost(*pair)
        refused = await rig.ask(ONE)
        assert (refused.code, refused.reason) == (CODE.UNAVAILABLE, "LIMITS_UNAVAILABLE")
        assert int(refused.trailers["grpc-retry-pushback-ms"]) > 0
        assert limits_of(rig, refused)[-1] == ("refuse", "shared-limits")
        about = pb.ModelMetadataRequest(name="tiny")
        assert (await call(rig, "ModelMetadata", about)).reason == "LIMITS_UNAVAILABLE"
        assert (await call(rig, "ServerLive", pb.ServerLiveRequest())).code is CODE.OK
        assert rig.engine.batches == []
        assert "shared-limits-lost" in rig.stderr.getvalue()
        await until(lambda: rig.counted("stockade_shared_limits_decisions_total", decision="unavailable") == 2)
        assert rig.counted("stockade_ratelimit_shared_up") == 0
        assert rig.counted("stockade_shared_limits_errors_total", error="unreachable") > 0
        own_server.start()
        await back(*pair)
        assert (await rig.ask(ONE)).code is CODE.OK
        await until(lambda: rig.counted("stockade_ratelimit_shared_up") == 1)
        await until(lambda: rig.counted("stockade_shared_limits_decisions_total", decision="admit") == 1)
        assert rig.counted("stockade_shared_limits_exchange_seconds_count") > 0
        assert "shared-limits-back" in rig.stderr.getvalue()


async def test_who_was_refused_during_an_outage_has_lost_nothing_by_it(made_site, tmp_path, own_server):
    async with pair_on(own_server, made_site, tmp_path) as pair:
        own_server.stop()
        await lost(*pair)
        for _ in range(2):
            assert (await pair.first.ask(ONE, caller="rated")).reason == "LIMITS_UNAVAILABLE"
        assert (await pair.first.ask(ONE, caller="rated")).reason == "RATE_LIMITED", "held to the limit all the same"
        own_server.start()
        await back(*pair)
        assert own_server.ask("DBSIZE") == 0, "it was told of nothing that nobody had"
        for _ in range(2):
            assert (await pair.first.ask(ONE, caller="rated")).code is CODE.OK


async def test_a_local_share_is_admitted_while_redis_is_away_and_counts_when_it_is_back(
    made_site, tmp_path, own_server
):
    """Two requests are the limit, and each of the two gateways has half of it."""
    async with pair_on(own_server, made_site, tmp_path, policy=share(0.5)) as pair:
        own_server.stop()
        await lost(*pair)
        for rig in pair:
            admitted, over = [await rig.ask(ONE, caller="rated") for _ in range(2)]
            assert admitted.code is CODE.OK
            assert ("admit", "principal-requests/local-share") in limits_of(rig, admitted)
            assert over.reason == "RATE_LIMITED"
            assert limits_of(rig, over) == [("refuse", "principal-requests/local-share")]
        own_server.start()
        await back(*pair)
        for rig in pair:
            assert (await rig.ask(ONE, caller="rated")).reason == "RATE_LIMITED", "the limit was spent in the outage"


async def test_what_was_spent_is_still_spent_when_redis_comes_back_empty(made_site, tmp_path, own_server):
    async with pair_on(own_server, made_site, tmp_path) as pair:
        for rig in pair:
            assert (await rig.ask(ONE, caller="rated")).code is CODE.OK
        own_server.stop()
        await lost(*pair)
        own_server.start()
        await back(*pair)
        assert (await pair.first.ask(ONE, caller="rated")).reason == "RATE_LIMITED"


async def test_a_new_policy_changes_what_happens_without_redis(made_site, tmp_path, own_server):
    async with pair_on(own_server, made_site, tmp_path) as pair:
        rig = pair.first
        own_server.stop()
        await lost(rig)
        assert (await rig.ask(ONE)).reason == "LIMITS_UNAVAILABLE"
        rig.site.change_policy(share(0.5))
        policy = load_policy(rig.site.policy, rig.app.config.policy.public_key)
        rig.app.put_in_force(rig.app.compile(policy), policy)
        assert (await rig.ask(ONE)).code is CODE.OK
        digests = {each.app.gw.active.digest for each in pair}
        assert len(digests) == 2
        for each in pair:
            (seen,) = [digest for digest in digests if each.counted("stockade_policy_info", digest=digest) == 1]
            assert seen == each.gw.active.digest, "two policies at once can be seen on the gateways' pages"


async def test_the_names_in_redis_say_nothing_of_who_called(made_site, tmp_path, own_server):
    async with pair_on(own_server, made_site, tmp_path) as pair:
        assert (await pair.first.ask(ONE, caller="rated")).code is CODE.OK
        keys = own_server.ask("KEYS", "*")
        assert len(keys) == 4, "requests and cost, of principal and tenant"
        for key in keys:
            namespace, _, name = key.decode().partition(":")
            assert (len(bytes.fromhex(namespace)), len(bytes.fromhex(name))) == (8, 16)
            assert own_server.ask("PTTL", key) > 0

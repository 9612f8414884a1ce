"""A tenant that is kept out tries everything it has: its other names, its other credentials, what it began before.

What stops it: the look-up is by the tenant of the authenticated principal, whatever proved it, in `pipeline.admit`, and
again when a body has come, a message of a stream has, and a batch is taken up.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest

from gateway.auth.isolation import Isolation, Isolations
from stockade.open_inference import grpc_service_pb2 as pb
from tests.gateway.rig import ended, image, open_rig, tiny_body, until

PRINCIPALS = ("plenty", "rated", "single", "lapsed")  # of the tenant `plenty`
METADATA = "/inference.GRPCInferenceService/ModelMetadata"


def keep_out(rig, tenant: str = "plenty", principal: str = "") -> None:
    rig.gw.isolations = Isolations((Isolation("1" * 32, tenant, principal, "o", "", 1, 0, ""),))


@asynccontextmanager
async def isolated(made_site, tmp_path):
    async with open_rig(made_site, tmp_path) as rig:
        keep_out(rig)
        yield rig


async def test_every_name_of_the_tenant_is_kept_out_and_nobody_else(made_site, tmp_path):
    async with isolated(made_site, tmp_path) as rig:
        for name in PRINCIPALS:
            reply = await rig.ask(tiny_body(image(0.5)), caller=name)
            assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ISOLATED"), name
            assert reply.trailers["grpc-retry-pushback-ms"] == "-1"
        assert (await rig.ask(tiny_body(image(0.5)), caller="rival")).reason == "OK"
        assert rig.engine.batches == [1]


async def test_another_credential_of_the_same_tenant_does_not_help(made_site, tmp_path):
    async with isolated(made_site, tmp_path) as rig:
        token = (("authorization", f"Bearer {rig.site.token()}"),)
        call = rig.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
            tiny_body(image(0.5)), metadata=token
        )
        assert (await ended(call)).reason == "ISOLATED"


async def test_a_name_that_the_policy_gives_it_later_is_kept_out_too(made_site, tmp_path):
    def newcomer(document) -> None:
        document["principals"]["late"] = dict(document["principals"]["plenty"], api_keys=[site_key])

    async with open_rig(made_site, tmp_path) as rig:
        keep_out(rig)
        site_key = rig.site.new_key("late")
        rig.site.change_policy(newcomer)
        from gateway.policy.load import load_policy

        policy = load_policy(rig.site.policy, rig.app.config.policy.public_key)
        rig.app.put_in_force(rig.app.compile(policy), policy)
        assert (await rig.ask(tiny_body(image(0.5)), caller="late")).reason == "ISOLATED"


async def test_it_learns_nothing_of_models_either(made_site, tmp_path):
    async with isolated(made_site, tmp_path) as rig:
        for model in ("tiny", "nothing"):
            body = pb.ModelMetadataRequest(name=model).SerializeToString()
            call = rig.channel.unary_unary(METADATA)(body, metadata=rig.site.bearer("plenty"))
            assert (await ended(call)).reason == "ISOLATED"


async def test_a_principal_alone_leaves_its_tenant_in_and_a_wrong_key_tells_nobody_anything(made_site, tmp_path):
    async with open_rig(made_site, tmp_path) as rig:
        keep_out(rig, principal="single")
        assert (await rig.ask(tiny_body(image(0.5)), caller="single")).reason == "ISOLATED"
        assert (await rig.ask(tiny_body(image(0.5)), caller="plenty")).reason == "OK"
        guess = (("authorization", "Bearer single.AAAAAAAAAAAAAAAAAAAAAA"),)
        call = rig.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"", metadata=guess)
        assert (await ended(call)).reason == "CREDENTIAL_INVALID"


async def test_what_waits_for_a_batch_gets_no_answer(made_site, tmp_path):
    async with open_rig(made_site, tmp_path) as rig:
        rig.engine.go.clear()
        first = asyncio.ensure_future(rig.ask(tiny_body(image(0.5)), caller="rival"))
        await asyncio.to_thread(rig.engine.entered.acquire)
        waiting = [asyncio.ensure_future(rig.ask(tiny_body(image(0.5)))) for _ in range(3)]
        other = asyncio.ensure_future(rig.ask(tiny_body(image(0.5)), caller="rival"))
        served = rig.gw.served["tiny", "1"]
        await until(lambda: served.batcher.queued_rows == 4)
        keep_out(rig)
        rig.engine.go.set()
        assert (await first).reason == (await other).reason == "OK"
        assert {reply.reason for reply in await asyncio.gather(*waiting)} == {"ISOLATED"}
        assert sum(rig.engine.batches) == 2
        assert len(rig.sink.records(reason="ISOLATED")) == 3


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("ModelInfer", tiny_body(image(0.5))),
        ("ModelMetadata", pb.ModelMetadataRequest(name="tiny").SerializeToString()),
    ],
)
async def test_a_body_that_was_slow_gets_no_answer(made_site, tmp_path, method, body):
    """Headers that were admitted before are worth nothing: otherwise one keeps calls open for later."""
    async with open_rig(made_site, tmp_path) as rig:
        go = asyncio.Event()

        async def slowly():
            await go.wait()
            yield body

        call = rig.channel.stream_unary(f"/inference.GRPCInferenceService/{method}")(
            slowly(), metadata=rig.site.bearer("plenty")
        )
        reply = asyncio.ensure_future(ended(call))
        await until(lambda: rig.at_work == 1)
        keep_out(rig)
        go.set()
        assert (await reply).reason == "ISOLATED"
        assert not rig.engine.batches


@dataclass(slots=True)
class Messages:
    """What a stream sends, one at a time."""

    sent: asyncio.Queue

    async def __aiter__(self):
        while (body := await self.sent.get()) is not None:
            yield body


@pytest.mark.parametrize("headers", [(), (("triton_grpc_error", "true"),), (("x-stockade-stream-format", "mlserver"),)])
async def test_a_stream_that_was_open_ends_with_its_next_message(made_site, tmp_path, headers):
    async with open_rig(made_site, tmp_path) as rig:
        messages = Messages(asyncio.Queue())
        stream = rig.stream(messages.__aiter__(), *headers)
        messages.sent.put_nowait(tiny_body(image(0.5)))
        assert await stream.read()
        keep_out(rig)
        messages.sent.put_nowait(tiny_body(image(0.5)))
        with pytest.raises(grpc.aio.AioRpcError, match="ISOLATED"):
            await stream.read()
        messages.sent.put_nowait(None)
        assert rig.engine.batches == [1]


async def test_an_answer_that_is_kept_is_not_given_again_in_a_stream_that_was_open(made_site, tmp_path):
    def caching(document) -> None:
        document["cache"] = {}

    async with open_rig(made_site, tmp_path, config=caching) as rig:
        messages = Messages(asyncio.Queue())
        stream = rig.stream(messages.__aiter__())
        for _ in range(2):
            messages.sent.put_nowait(tiny_body(image(0.5)))
            assert await stream.read()
        assert rig.engine.batches == [1]
        keep_out(rig)
        messages.sent.put_nowait(tiny_body(image(0.5)))
        with pytest.raises(grpc.aio.AioRpcError, match="ISOLATED"):
            await stream.read()
        messages.sent.put_nowait(None)


async def test_hammering_at_the_door_does_not_fill_the_log(made_site, tmp_path):
    async with isolated(made_site, tmp_path) as rig:
        replies = await asyncio.gather(*(rig.ask(tiny_body(image(0.5))) for _ in range(200)))
        assert {reply.reason for reply in replies} == {"ISOLATED"}
        assert len(rig.sink.records(reason="ISOLATED")) < 100
        await until(lambda: sum(sum(each.get("reasons", {"": 1}).values()) for each in rig.sink.records()) == 200)

"""Sums of refusals: counted at once, written once a second, never lost while the log is away."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest

import gateway.host.ticker
from gateway.edge.methods import data_methods
from gateway.edge.service import Service
from gateway.request.completion import write_sums
from gateway.request.record import Record, trailers
from gateway.request.sums import SINGLE_MAX
from ops.audit.log import entry
from tests.e2e.caller import INFER
from tests.gateway.rig import ended, image, open_rig, tiny_body, until

READY = "/inference.GRPCInferenceService/ServerReady"


async def strangers(rig, count: int) -> None:
    calls = [rig.channel.unary_unary(READY)(b"") for _ in range(count)]
    wrong = rig.channel.unary_unary(READY)(b"", metadata=(("x-api-key", "plenty.wrong"),))
    for call in (*calls, wrong):
        await ended(call)


async def test_strangers_share_one_entry(rig):
    await strangers(rig, 50)
    write_sums(rig.gw)
    write_sums(rig.gw)
    leaves = [json.loads(leaf) for leaf in rig.sink.entries]
    assert sum(leaf["count"] for leaf in leaves) == 51
    assert len(leaves) <= 2  # the second had turned while they called
    for leaf in rig.sink.entries:
        entry.check(leaf)
    assert rig.gw.sums.waiting == {}


async def test_what_could_not_be_written_is_written_the_next_time(rig):
    rig.sink.unavailable = "recorder_gone"
    await strangers(rig, 3)
    write_sums(rig.gw)
    await until(lambda: rig.gw.sums.waiting == {"": {"CREDENTIAL_MISSING": 3, "CREDENTIAL_INVALID": 1}})
    await strangers(rig, 2)
    await until(lambda: rig.gw.sums.waiting == {"": {"CREDENTIAL_MISSING": 5, "CREDENTIAL_INVALID": 2}})
    rig.sink.unavailable = None
    write_sums(rig.gw)
    assert [json.loads(leaf)["reasons"] for leaf in rig.sink.entries] == [
        {"CREDENTIAL_INVALID": 2, "CREDENTIAL_MISSING": 5}
    ]


@pytest.mark.parametrize("method", ["rate", "method"])
async def test_many_refusals_of_one_caller_that_cost_him_nothing_share_an_entry(rig, method):
    """Ten of them have a record each; whoever goes on cannot fill the disk."""
    path, caller, reason = {
        "rate": ("/inference.GRPCInferenceService/ServerReady", "rated", "RATE_LIMITED"),
        "method": ("/inference.GRPCInferenceService/ModelConfig", "onlooker", "METHOD_FORBIDDEN"),
    }[method]
    ask = rig.channel.unary_unary(path)
    replies = [await ended(ask(b"", metadata=rig.site.bearer(caller))) for _ in range(SINGLE_MAX + 20)]
    refused = [reply for reply in replies if reply.reason == reason]
    write_sums(rig.gw)
    await until(lambda: rig.at_work == 0)
    alone = rig.sink.records(reason=reason)
    sums = [leaf for leaf in rig.sink.records(kind="refused") if "count" in leaf]
    assert len(alone) >= SINGLE_MAX  # more when the second turned while he called
    assert len(alone) + sum(leaf["count"] for leaf in sums) == len(refused)
    assert [(leaf["auth"], leaf["reasons"]) for leaf in sums][-1] == (alone[0]["auth"], {reason: sums[-1]["count"]})
    assert {leaf["id"] for leaf in alone} == {
        reply.request_id for reply in refused if "x-stockade-audit-index" in reply.trailers
    }
    assert rig.counted("stockade_requests_total", reason=reason) == len(refused)
    assert {reply.code for reply in refused} == {refused[0].code}


async def test_refusals_that_were_paid_for_have_a_record_each(rig):
    replies = [await rig.ask(tiny_body(image(1.5))) for _ in range(SINGLE_MAX + 5)]
    assert {reply.reason for reply in replies} == {"TENSOR_INVALID"}
    assert len(rig.sink.records(reason="TENSOR_INVALID")) == len(replies)


@pytest.mark.parametrize(
    "broken", [lambda rig: (type(rig.engine), "ready"), lambda rig: (type(rig.app.keys), "forget_destroyed")]
)
async def test_strangers_are_written_down_whatever_the_tick_runs_into(made_site, tmp_path, monkeypatch, broken):
    monkeypatch.setattr(gateway.host.ticker, "TICK_S", 0.01)
    async with open_rig(made_site, tmp_path) as rig:
        monkeypatch.setattr(*broken(rig), lambda _: 1 / 0)
        await until(lambda: "gauges-not-refreshed" in rig.stderr.getvalue())
        await strangers(rig, 3)
        await until(lambda: sum(entry["count"] for entry in rig.sink.records()) == 4)


@pytest.mark.parametrize("certificates", [False, True], ids=["data", "data_mtls"])
async def test_what_ended_a_call_without_an_answer_is_told_apart(rig, certificates):
    """Where clients may show certificates a handler runs before the body is there, and knows its peer."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (Service(rig.gw, data_methods(reflection=False), client_certificates=certificates),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    never = asyncio.Event()

    async def no_body():
        await never.wait()
        yield b""

    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            bodiless = channel.stream_stream(INFER)(no_body(), metadata=rig.site.bearer("plenty"))
            await until(lambda: rig.at_work == 1)
            bodiless.cancel()
            await until(lambda: len(rig.sink.entries) == 1)
            rig.engine.go.clear()
            asked = channel.unary_unary(INFER)(tiny_body(image(0.5)), metadata=rig.site.bearer("plenty"))
            await asyncio.to_thread(rig.engine.entered.acquire)
            waiting = channel.unary_unary(INFER)(tiny_body(image(0.5)), metadata=rig.site.bearer("plenty"))
            await until(lambda: rig.gw.served["tiny", "1"].batcher.queued_rows == 1)
            waiting.cancel()
            await until(lambda: rig.gw.concurrency.in_flight == 1)
            rig.engine.go.set()
            await asked
        await until(lambda: len(rig.sink.entries) == 3)
    finally:
        never.set()
        await server.stop(0)
    first, *others = rig.sink.records()
    assert (first["kind"], first["reason"], first["status"]) == ("failed", "BODY_INCOMPLETE", 1)
    assert first["peer"].startswith("ipv4:127.0.0.1:" if certificates else "unknown")
    assert sorted(entry["reason"] for entry in others) == ["CANCELLED", "OK"]
    assert all(entry["peer"].startswith("ipv4:127.0.0.1:") for entry in others)


async def test_an_answer_says_which_entry_proves_it(rig):
    for number in range(3):
        reply = await ended(rig.channel.unary_unary(READY)(b"", metadata=rig.site.bearer("plenty")))
        assert reply.trailers["x-stockade-audit-index"] == f"{number}"
        assert reply.trailers["x-stockade-audit-origin"] == rig.sink.origin
        assert json.loads(rig.sink.entries[number])["id"] == reply.request_id


async def test_trailers_name_only_what_is_known(rig):
    record = Record(bytes(16), READY, "ServerReady", "ab" * 32, 1, 0)
    assert [name for name, _ in trailers(record, None)] == ["x-request-id", "x-stockade-policy"]
    record.audit_index, record.model_digest = 0, "cd" * 32
    names = {name for name, _ in trailers(record, "flag")}
    assert {"x-stockade-audit-index", "x-stockade-model-digest", "x-stockade-verdict"} <= names

"""No answer leaves before its record is durable, and none leaves without one."""

from __future__ import annotations

import asyncio
import json
import weakref

import grpc
import pytest

from gateway import codec, errors
from gateway.request.record import Record
from ops.audit.payloads.keys import KeyStore
from tests.e2e.caller import infer_body
from tests.gateway.rig import ended, image, open_rig, tiny_body, until

CODE = grpc.StatusCode
METHODS = {
    "an answer": ("/inference.GRPCInferenceService/ModelInfer", tiny_body(image(0.5)), "OK"),
    "a refusal": ("/inference.GRPCInferenceService/ModelInfer", infer_body(model="none"), "MODEL_UNKNOWN"),
    "a method from memory": ("/inference.GRPCInferenceService/ServerReady", b"", "OK"),
    "a health check": ("/grpc.health.v1.Health/Check", b"", "OK"),
}


async def held(rig, count: int = 1) -> None:
    await until(lambda: rig.sink.held >= count)


def call(rig, name: str):
    path, body, _ = METHODS[name]
    return rig.channel.unary_unary(path)(body, metadata=rig.site.bearer("plenty"))


@pytest.mark.parametrize("name", METHODS)
async def test_nothing_leaves_before_the_sink_has_acknowledged(rig, name):
    rig.sink.holding = True
    waiting = call(rig, name)
    await held(rig)
    for _ in range(20):  # turns of the loop in which a reply would have come
        await asyncio.sleep(0.005)
    assert not waiting.done()
    assert rig.sink.entries == []
    rig.sink.release()
    reply = await ended(waiting)
    assert reply.reason == METHODS[name][2]
    assert [entry["id"] for entry in rig.sink.records()] == [reply.request_id]
    assert reply.trailers["x-stockade-audit-index"] == "0"


@pytest.mark.parametrize("name", METHODS)
async def test_without_a_record_there_is_no_answer(rig, name):
    rig.sink.unavailable = "append_timeout"
    reply = await ended(call(rig, name))
    assert (reply.code, reply.reason, reply.body) == (CODE.UNAVAILABLE, "AUDIT_UNAVAILABLE", b"")
    assert "x-stockade-audit-index" not in reply.trailers
    assert int(reply.trailers["grpc-retry-pushback-ms"]) > 0
    rig.sink.unavailable = None
    assert (await ended(call(rig, name))).reason == METHODS[name][2]
    assert rig.counted("stockade_requests_total", reason="AUDIT_UNAVAILABLE") == 1


async def test_an_append_that_failed_is_not_tried_again_behind_the_callers_back(rig):
    """It may be in the log all the same: trying again could record one request twice."""
    rig.sink.holding = True
    waiting = call(rig, "an answer")
    await held(rig)
    rig.sink.unavailable = "append_timeout"
    rig.sink.release()
    rig.sink.unavailable = None
    assert (await ended(waiting)).reason == "AUDIT_UNAVAILABLE"
    assert rig.sink.entries == []


async def test_the_slots_of_the_ring_come_back_whatever_the_sink_says(rig):
    for unavailable in (None, "recorder_gone", None):
        rig.sink.unavailable = unavailable
        for name in METHODS:
            await ended(call(rig, name))
        await ended(rig.channel.unary_unary("/no.such/Method")(b"", metadata=rig.site.bearer("plenty")))
        await ended(rig.channel.unary_unary("/no.such/Method")(b""))
        await asyncio.gather(
            *[ended(rig.stream([tiny_body(image(0.5))] * 3)) for _ in range(2)], return_exceptions=True
        )
    await until(lambda: rig.at_work == 0)
    assert rig.gw.concurrency.in_flight == 0


async def test_what_a_caller_left_behind_is_recorded_and_leaves_the_ring(rig):
    rig.engine.go.clear()
    first = rig.infer(tiny_body(image(0.5)))
    await asyncio.to_thread(rig.engine.entered.acquire)
    queued = rig.infer(tiny_body(image(0.25)))
    served = rig.gw.served["tiny", "1"]
    await until(lambda: served.batcher.queued_rows)
    first.cancel()
    queued.cancel()
    await until(lambda: not rig.gw.concurrency.in_flight)
    rig.engine.go.set()
    await until(lambda: len(rig.sink.entries) >= 2)
    reasons = sorted(entry["reason"] for entry in rig.sink.records())
    assert reasons == ["CANCELLED", "OK"]  # the model had worked for the first, so that is what its record says
    await until(lambda: rig.at_work == 0)
    assert rig.engine.batches == [1], "the one that was cancelled in the queue cost no model work"


async def test_a_record_that_cannot_be_written_is_counted_when_nobody_is_left_to_be_told(rig):
    rig.sink.unavailable = "recorder_gone"
    assert (await ended(rig.infer(tiny_body(image(0.5))))).reason == "AUDIT_UNAVAILABLE"
    assert rig.counted("stockade_audit_dropped_total") == 0
    rig.sink.holding = True
    gone = rig.infer(tiny_body(image(0.5)))
    await held(rig)
    gone.cancel()
    await until(lambda: not rig.gw.concurrency.in_flight)
    rig.sink.release()
    await until(lambda: rig.counted("stockade_audit_dropped_total") == 1)
    rig.sink.unavailable = None
    rig.sink.holding = True
    gone = rig.infer(tiny_body(image(0.5)))
    await held(rig)
    gone.cancel()
    await until(lambda: not rig.gw.concurrency.in_flight)
    rig.sink.release()
    await until(lambda: rig.at_work == 0)
    assert rig.counted("stockade_audit_dropped_total") == 1


async def test_who_hung_up_and_was_then_displaced_has_a_record_all_the_same(made_site, tmp_path):
    def small_queue(document) -> None:
        document["engine"]["queue_rows_max"] = 256

    async with open_rig(made_site, tmp_path, config=small_queue) as rig:
        rig.engine.go.clear()
        first = rig.infer(tiny_body(image(0.5)))
        await asyncio.to_thread(rig.engine.entered.acquire)
        served = rig.gw.served["tiny", "1"]
        gone = rig.infer(tiny_body(image(0.25, 200)))  # warehouse's lane gives way to that of a shop
        await until(lambda: served.batcher.queued_rows >= 200)
        gone.cancel()
        await until(lambda: rig.gw.concurrency.in_flight <= 1)
        displacing = rig.infer(tiny_body(image(0.75, 100)), caller="kiosk-7")
        await until(lambda: served.batcher.queued_rows == 100)
        rig.engine.go.set()
        assert (await ended(displacing)).code is CODE.OK
        assert (await ended(first)).code is CODE.OK
        await until(lambda: len(rig.sink.entries) >= 3)
        assert sorted(entry["reason"] for entry in rig.sink.records()) == ["CANCELLED", "OK", "OK"]


async def test_a_large_batch_is_appended_in_portions_and_every_reply_has_its_own_record(rig, monkeypatch):
    monkeypatch.setattr("gateway.request.completion.APPEND_BYTES", 1)  # so that every record goes alone
    rig.engine.go.clear()
    first = rig.infer(tiny_body(image(0.1)))
    await until(lambda: rig.engine.entered.acquire(blocking=False))
    more = [rig.infer(tiny_body(image(value / 10))) for value in range(2, 7)]
    await until(lambda: rig.gw.served["tiny", "1"].batcher.queued_rows == 5)
    rig.engine.go.set()
    replies = [await ended(call) for call in (first, *more)]
    assert [reply.reason for reply in replies] == ["OK"] * 6
    assert rig.engine.batches == [1, 5]
    written = [entry["id"] for entry in rig.sink.records(kind="served")]
    assert [written[int(reply.trailers["x-stockade-audit-index"])] for reply in replies] == [
        reply.request_id for reply in replies
    ]


async def test_a_call_that_ran_out_of_time_is_recorded_as_that(rig):
    rig.engine.go.clear()
    first = rig.infer(tiny_body(image(0.1)))
    await until(lambda: rig.engine.entered.acquire(blocking=False))
    late = rig.infer(tiny_body(image(0.2)), timeout=1)
    await until(lambda: rig.gw.served["tiny", "1"].batcher.queued_rows == 1)
    assert (await ended(late)).code is CODE.DEADLINE_EXCEEDED
    now_ns = rig.gw.clock_ns
    rig.gw.clock_ns = lambda: now_ns() + 30_000_000_000  # here it begins later, and the wire rounds it up
    rig.engine.go.set()
    await ended(first)
    await until(lambda: len(rig.sink.records()) == 2)
    assert sorted(entry["reason"] for entry in rig.sink.records()) == ["DEADLINE_PASSED", "OK"]


async def test_what_strangers_are_refused_at_a_public_method_is_summed(made_site, tmp_path):
    def public(policy):
        policy["unsafe_public_methods"] = ["Health"]

    async with open_rig(made_site, tmp_path, policy=public) as rig:
        check = rig.channel.unary_unary("/grpc.health.v1.Health/Check")
        replies = [await ended(check(b"")) for _ in range(150)]
        refused = [reply for reply in replies if reply.reason == "RATE_LIMITED"]
        assert refused
        assert rig.sink.records(reason="RATE_LIMITED") == []
        await until(lambda: sum(entry["reasons"]["RATE_LIMITED"] for entry in rig.sink.records() if "reasons" in entry))


async def test_a_payload_that_cannot_be_kept_costs_its_own_answer_and_no_other(made_site, tmp_path):
    """One caller's key is there already; the database takes no new one, so another's payload cannot be sealed."""

    def keep_all(policy):
        policy["models"]["tiny"]["capture"] = "all"
        policy["tenants"]["plenty"]["capture"] = "all"

    async with open_rig(made_site, tmp_path, policy=keep_all) as rig:
        assert (await rig.ask(tiny_body(image(0.1)), caller="archivist")).reason == "OK"
        assert rig.engine.entered.acquire(blocking=False)
        assert (await ended(call(rig, "a method from memory"))).reason == "OK"  # its tenant's key is made for its name
        rig.app.keys._db.execute("PRAGMA query_only=ON")
        rig.engine.go.clear()
        first = rig.infer(tiny_body(image(0.2)), caller="archivist")
        await until(lambda: rig.engine.entered.acquire(blocking=False))
        callers = ("archivist", "plenty", "archivist", "plenty", "archivist")
        waiting = [rig.infer(tiny_body(image(number / 10)), caller=caller) for number, caller in enumerate(callers)]
        await until(lambda: rig.gw.served["tiny", "1"].batcher.queued_rows == len(callers))
        rig.engine.go.set()
        replies = [await ended(one) for one in (first, *waiting)]
        assert [reply.reason for reply in replies] == [
            "OK",
            *("OK" if caller == "archivist" else "AUDIT_UNAVAILABLE" for caller in callers),
        ]
        records = {entry["id"]: entry for entry in rig.sink.records()}
        assert len(records) == len(rig.sink.entries) == 2 + len(replies)
        for reply in replies:
            entry = records[reply.request_id]
            assert (entry["reason"], "payload" in entry) == (reply.reason, reply.reason == "OK")
        assert len({entry["batch"]["id"] for entry in records.values() if "batch" in entry}) == 3
        assert rig.stderr.getvalue().count('"event":"payload-not-kept"') == 2
        rig.app.keys._db.execute("PRAGMA query_only=OFF")
        assert (await rig.ask(tiny_body(image(0.3)))).reason == "OK"


async def test_a_batch_that_meets_a_fault_is_recorded_without_the_payloads_that_were_sealed_already(
    made_site, tmp_path, monkeypatch
):
    """A record that names a payload which is not there would be refused by the recorder, and be none."""
    good, bad = tiny_body(image(0.2)), tiny_body(image(0.3))
    seal = KeyStore.seal

    def fails(keys, *facts):
        if facts[-1] == bad:
            raise RuntimeError("a bug")
        return seal(keys, *facts)

    def keep_all(policy):
        policy["models"]["tiny"]["capture"] = "all"

    async with open_rig(made_site, tmp_path, policy=keep_all) as rig:
        rig.engine.go.clear()
        first = rig.infer(tiny_body(image(0.1)), caller="archivist")
        await until(lambda: rig.engine.entered.acquire(blocking=False))
        waiting = [rig.infer(body, caller="archivist") for body in (good, bad)]
        await until(lambda: rig.gw.served["tiny", "1"].batcher.queued_rows == 2)
        monkeypatch.setattr(KeyStore, "seal", fails)
        rig.engine.go.set()
        replies = [await ended(one) for one in (first, *waiting)]
        assert [reply.reason for reply in replies] == ["OK", "MODEL_ERROR", "MODEL_ERROR"]
        records = {entry["id"]: entry for entry in rig.sink.records()}
        assert len(rig.sink.entries) == 3
        assert [(records[reply.request_id]["reason"], "payload" in records[reply.request_id]) for reply in replies] == [
            ("OK", True),
            ("MODEL_ERROR", False),
            ("MODEL_ERROR", False),
        ]


async def test_a_record_that_the_log_does_not_take_costs_nobody_else_an_answer(rig, monkeypatch):
    leaf = Record.leaf

    def spoiled(record, site):
        return b"{}" if record.principal is not None and record.principal.name == "single" else leaf(record, site)

    monkeypatch.setattr(Record, "leaf", spoiled)
    rig.engine.go.clear()
    first = asyncio.ensure_future(rig.ask(tiny_body(image(0.5))))
    await asyncio.to_thread(rig.engine.entered.acquire)
    others = [
        asyncio.ensure_future(rig.ask(tiny_body(image(0.5)), caller=name)) for name in ("plenty", "single", "plenty")
    ]
    served = rig.gw.served["tiny", "1"]
    await until(lambda: served.batcher.queued_rows == 3)
    rig.engine.go.set()
    replies = await asyncio.gather(first, *others)
    assert rig.engine.batches == [1, 3]
    assert [reply.reason for reply in replies] == ["OK", "OK", "AUDIT_UNAVAILABLE", "OK"]
    indices = [int(reply.trailers["x-stockade-audit-index"]) for reply in replies if reply.reason == "OK"]
    assert sorted(indices) == [0, 1, 2]
    assert [json.loads(rig.sink.entries[index])["id"] for index in indices] == [
        reply.request_id for reply in replies if reply.reason == "OK"
    ]
    await until(lambda: rig.at_work == 0)
    assert (await rig.ask(tiny_body(image(0.5)))).reason == "OK"  # the batcher goes on


async def test_nothing_of_a_refused_message_is_kept_while_its_record_is_awaited(rig, monkeypatch):
    class Message:
        """Stands for what protobuf made of the body."""

    seen: list[weakref.ref] = []

    def decode(*_: object) -> None:
        message = Message()
        seen.append(weakref.ref(message))
        raise errors.TensorInvalid("inputs[0].shape", "is wrong")

    monkeypatch.setattr(codec, "decode", decode)
    rig.sink.holding = True
    waiting = asyncio.ensure_future(rig.ask(tiny_body(image(0.5))))
    await held(rig)
    assert [ref() for ref in seen] == [None]
    rig.sink.release()
    assert (await waiting).reason == "TENSOR_INVALID"

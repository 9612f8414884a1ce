"""A stream: in order, each message a request of its own, and never more at work than the window."""

from __future__ import annotations

import asyncio
import gc

import grpc
import pytest

from gateway.edge.streaming import WINDOW
from stockade.open_inference.grpc_service_pb2 import ModelInferResponse, ModelStreamInferResponse
from tests.gateway.rig import image, poisoned, tiny_body, until

CODE = grpc.StatusCode


async def read_all(call) -> list[ModelStreamInferResponse]:
    return [ModelStreamInferResponse.FromString(reply) async for reply in call]


async def test_answers_come_in_the_order_of_the_requests(rig):
    bodies = [tiny_body(image((number % 9 + 1) / 10, number % 5 + 1), id=f"{number}") for number in range(100)]
    replies = await read_all(rig.stream(bodies))
    assert [reply.infer_response.id for reply in replies] == [f"{number}" for number in range(100)]
    assert all(reply.infer_response.parameters["triton_final_response"].bool_param for reply in replies)
    assert len(rig.sink.records(kind="served", rows=1)) == 20


async def test_every_message_and_the_stream_have_a_record(rig):
    await read_all(rig.stream([tiny_body(image(0.5))] * 3))
    await until(lambda: len(rig.sink.entries) >= 4)
    entries = rig.sink.records()
    assert [("model" in entry, entry["reason"]) for entry in entries] == [(True, "OK")] * 3 + [(False, "OK")]
    assert len({entry["id"] for entry in entries}) == 4
    await until(lambda: rig.counted("grpc_server_handled_total", grpc_method="ModelStreamInfer", grpc_code="OK") == 1)
    assert rig.counted("stockade_requests_total", outcome="served", model="tiny") == 3


async def test_a_refused_message_is_answered_and_the_stream_goes_on(rig):
    bodies = [
        tiny_body(image(0.5), id="a"),
        b"\xff\xff",
        tiny_body(image(1.5), id="b"),
        tiny_body(poisoned(), id="c"),
        tiny_body(image(0.5), id="d"),
    ]
    replies = await read_all(rig.stream(bodies))
    assert [reply.error_message.partition("]")[0] for reply in replies] == [
        "",
        "[MESSAGE_MALFORMED",
        "[TENSOR_INVALID",
        "[MODEL_ERROR",
        "",
    ]
    assert [reply.infer_response.id for reply in replies] == ["a", "", "b", "c", "d"]
    reasons = sorted(entry["reason"] for entry in rig.sink.records())
    assert reasons == ["MESSAGE_MALFORMED", "MODEL_ERROR", "OK", "OK", "OK", "TENSOR_INVALID"]


@pytest.mark.parametrize("header", [("triton_grpc_error", "true"), ("x-stockade-stream-format", "mlserver")])
async def test_where_the_shape_has_no_place_for_a_refusal_it_ends_the_stream(rig, header):
    call = rig.stream([tiny_body(image(0.5)), tiny_body(image(1.5)), tiny_body(image(0.5))], header)
    replies = [await call.read()]
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await call.read()
    assert ended.value.code() is CODE.INVALID_ARGUMENT
    assert "[TENSOR_INVALID]" in ended.value.details()
    assert len(replies) == 1
    if header[1] == "mlserver":
        assert len(ModelInferResponse.FromString(replies[0]).outputs) == 6


async def test_no_more_messages_are_at_work_than_the_window_takes(rig):
    rig.engine.go.clear()
    pulled = 0

    async def bodies():
        nonlocal pulled
        while pulled < 10 * WINDOW:
            pulled += 1
            yield tiny_body(image(0.5))

    call = rig.stream(bodies())
    reading = asyncio.ensure_future(read_all(call))
    await asyncio.to_thread(rig.engine.entered.acquire)
    await until(lambda: rig.at_work > WINDOW)
    for _ in range(50):  # turns in which more would have come
        await asyncio.sleep(0.002)
    assert rig.at_work == WINDOW + 1  # the messages, and the stream itself
    rig.engine.go.set()
    assert len(await reading) == 10 * WINDOW


async def test_a_window_of_one_answers_one_after_the_other(rig):
    bodies = [tiny_body(image(0.5), id=f"{number}") for number in range(5)]
    replies = await read_all(rig.stream(bodies, caller="single"))
    assert [reply.infer_response.id for reply in replies] == ["0", "1", "2", "3", "4"]


async def test_refusals_behind_the_one_that_ended_the_stream_are_not_left_unread(rig):
    complaints: list[dict] = []
    rig.gw.loop.set_exception_handler(lambda _, context: complaints.append(context))
    rig.engine.go.clear()
    call = rig.stream([tiny_body(poisoned()), *[tiny_body(image(1.5))] * 8], ("triton_grpc_error", "true"))
    await until(lambda: len(rig.sink.records(reason="TENSOR_INVALID")) == 8)
    await until(lambda: rig.at_work == 2)  # the stream and its first message: the others have been refused
    rig.engine.go.set()
    with pytest.raises(grpc.aio.AioRpcError):
        await read_all(call)
    await until(lambda: rig.at_work == 0)
    gc.collect()
    assert complaints == []


async def test_a_stream_that_is_cancelled_records_what_it_had_begun(rig):
    rig.engine.go.clear()
    wait = asyncio.Event()

    async def bodies():
        for _ in range(5):
            yield tiny_body(image(0.5))
        await wait.wait()

    call = rig.stream(bodies())
    await until(lambda: rig.at_work == 6)
    await asyncio.to_thread(rig.engine.entered.acquire)
    call.cancel()
    wait.set()
    await until(lambda: not rig.gw.concurrency.in_flight)
    rig.engine.go.set()
    await until(lambda: len(rig.sink.entries) == 6)
    (begun,) = rig.engine.batches  # what the engine had was answered, to nobody; the rest cost no model work
    assert sorted(entry["reason"] for entry in rig.sink.records()) == ["CANCELLED"] * (6 - begun) + ["OK"] * begun
    await until(lambda: len(rig.gw.streams) == 0)


async def test_each_message_spends_a_request(rig):
    replies = await read_all(rig.stream([tiny_body(image(0.5))] * 3, caller="rated"))
    # The stream itself was the first of its two requests.
    assert [reply.error_message.partition("]")[0] for reply in replies] == ["", "[RATE_LIMITED", "[RATE_LIMITED"]


async def test_a_drain_refuses_what_comes_later_and_answers_what_came_before(rig):
    more: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def bodies():
        while (body := await more.get()) is not None:
            yield body

    call = rig.stream(bodies())
    await more.put(tiny_body(image(0.5), id="before"))
    assert ModelStreamInferResponse.FromString(await call.read()).infer_response.id == "before"
    rig.gw.draining = True
    await more.put(tiny_body(image(0.5), id="after"))
    assert "[DRAINING]" in ModelStreamInferResponse.FromString(await call.read()).error_message
    rig.gw.draining = False
    await more.put(None)
    assert await call.read() is grpc.aio.EOF

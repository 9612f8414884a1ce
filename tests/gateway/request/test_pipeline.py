"""The life of a request: each reply is its own, neighbours do no harm, and what nobody waits for costs nothing."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import grpc
import numpy as np
import pytest

import gateway.request.batch
from gateway import errors
from gateway.models.models import retire
from gateway.policy.load import load_policy
from tests.e2e.site import Site
from tests.gateway.rig import POISON, ended, image, open_rig, poisoned, tiny_body, until

CODE = grpc.StatusCode
LIVE = "/inference.GRPCInferenceService/ServerLive"
TOLERANCE = 1e-5


def with_tenants(site, tenants: Sequence[str], policy) -> None:
    """Let each tenant have a principal of its name."""
    for name in tenants:
        policy["tenants"][name] = {"limits": "unlimited", "class": "standard"}
        policy["principals"][name] = {
            "tenant": name,
            "roles": ["predictor"],
            "limits": "unlimited",
            "api_keys": [site.new_key(name)],
        }


async def started(rig, body: bytes, **more):
    """A call that holds a batch thread; where that was the only one, what is asked from now on waits."""
    rig.engine.go.clear()
    call = rig.infer(body, **more)
    await asyncio.to_thread(rig.engine.entered.acquire)
    return call


async def queued(rig, rows: int) -> None:
    await until(lambda: rig.gw.served["tiny", "1"].batcher.queued_rows >= rows)


@pytest.mark.parametrize(("threads", "count"), [(0, 2_000), (1, 50)], ids=["on the loop", "in a thread"])
async def test_thousands_of_interleaved_tenants_each_get_their_own_answer(made_site, tmp_path, threads, count):
    """Every image has a mean of its own, so that an answer shows whose it is."""
    keys, tenants = Site(made_site.directory), [f"tenant-{number}" for number in range(count)]

    def config(document) -> None:
        document["engine"]["threads"] = threads

    async with open_rig(
        made_site, tmp_path, config=config, policy=lambda policy: with_tenants(keys, tenants, policy)
    ) as rig:
        rig.site.keys |= keys.keys
        rig.engine.batches.clear()  # of the start, which times a full one
        await interleave(rig, tenants, 3_000 // count * count)


async def interleave(rig, tenants: Sequence[str], asked: int) -> None:
    rng = np.random.default_rng(0)
    limit = asyncio.Semaphore(200)
    failures = []

    async def ask(number: int) -> None:
        rows = int(rng.integers(1, 6))
        images = rng.random((rows, 28, 28), np.float32)
        async with limit:
            reply = await rig.ask(tiny_body(images, id=f"q-{number}"), caller=tenants[number % len(tenants)])
        alone = images.reshape(rows, -1).mean(axis=1, dtype=np.float64)
        right = reply.message.id == f"q-{number}" and np.allclose(reply.output("energy"), alone, rtol=0, atol=TOLERANCE)
        if not right or reply.output("probabilities").shape != (rows, 3):
            failures.append((number, reply))

    await asyncio.gather(*[ask(number) for number in range(asked)])
    assert failures == []
    assert max(rig.engine.batches) > 5, "no batch ever held more than one request"
    entries = rig.sink.records(kind="served")
    assert len({entry["id"] for entry in entries}) == asked
    answered = Counter((entry["auth"]["credential"], entry["auth"]["tenant"]) for entry in entries)
    assert answered == {(name, name): asked // len(tenants) for name in tenants}
    for batch in batches(entries).values():
        assert sorted(entry["batch"]["position"] for entry in batch) == list(range(batch[0]["batch"]["size"]))
        assert sum(entry["rows"] for entry in batch) == batch[0]["batch"]["rows"]


def batches(entries) -> dict[int, list[dict]]:
    found: dict[int, list[dict]] = {}
    for entry in entries:
        found.setdefault(entry["batch"]["id"], []).append(entry)
    return found


@pytest.mark.parametrize(
    "error",
    [
        None,
        lambda: RuntimeError("a bug below us"),
    ],
    ids=["as engines fail", "as bugs do"],
)
async def test_a_request_that_breaks_the_engine_fails_alone(rig, error):
    if error is not None:
        rig.engine.error = error
    first = await started(rig, tiny_body(image(0.9)))
    good = [rig.infer(tiny_body(image(value / 10, 2))) for value in range(1, 6)]
    bad = rig.infer(tiny_body(poisoned(2)))
    more = [rig.infer(tiny_body(image(value / 10, 2))) for value in range(6, 9)]
    await queued(rig, 18)
    rig.engine.go.set()
    replies = [await ended(call) for call in (*good, *more)]
    broken = await ended(bad)
    assert (broken.code, broken.reason) == (CODE.INTERNAL, "MODEL_ERROR")
    assert "bug" not in broken.details
    assert "poisoned" not in broken.details
    for value, reply in enumerate(replies, 1):
        np.testing.assert_allclose(reply.output("energy"), [value / 10] * 2, rtol=0, atol=TOLERANCE)
    assert (await ended(first)).code is CODE.OK
    assert 18 in rig.engine.batches, "they were not one batch"
    assert [entry["id"] for entry in rig.sink.records(kind="failed")] == [broken.request_id]


async def test_a_model_that_answers_nan_has_failed_for_that_request_alone(rig):
    def answer(outputs):
        outputs["probabilities"][outputs["energy"] > 0.6] = np.nan
        return outputs

    rig.engine.answer = answer
    first = await started(rig, tiny_body(image(0.1)))
    # Of different lengths, and bad in their last row: a request that began a row too early or too late would show.
    rows = ((3, 0.3), (1, 0.7), (4, 0.5), (2, 0.7), (1, 0.2))
    calls = [rig.infer(tiny_body(np.concatenate([image(0.2, many), image(last)]))) for many, last in rows]
    await queued(rig, 16)
    rig.engine.go.set()
    reasons = [(await ended(call)).reason for call in (first, *calls)]
    assert reasons == ["OK", "OK", "MODEL_ERROR", "OK", "MODEL_ERROR", "OK"]
    assert rig.engine.batches == [1, 16]


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.001, 1.001])
async def test_a_bad_row_is_refused_before_it_can_meet_its_neighbours(rig, value):
    first = await started(rig, tiny_body(image(0.9)))
    good = [rig.infer(tiny_body(image(0.25))) for _ in range(3)]
    rows = image(0.5, 3)
    rows[1, 5, 5] = value
    bad = await rig.ask(tiny_body(rows))
    assert bad.reason == "TENSOR_INVALID"
    rig.engine.go.set()
    for call in good:
        assert (await ended(call)).output("energy") == pytest.approx(0.25)
    assert (await ended(first)).code is CODE.OK


async def test_a_deadline_that_passes_in_the_queue_costs_no_model_work(rig):
    first = await started(rig, tiny_body(image(0.5)))
    late = rig.infer(tiny_body(image(0.25)), timeout=20)
    await queued(rig, 1)
    now_ns = rig.gw.clock_ns
    rig.gw.clock_ns = lambda: now_ns() + 30_000_000_000  # the wire rounds a timeout up
    rig.engine.go.set()
    reply = await ended(late)
    assert (reply.code, reply.reason) == (CODE.DEADLINE_EXCEEDED, "DEADLINE_PASSED")
    assert (await ended(first)).code is CODE.OK
    assert rig.engine.batches == [1]
    assert [entry["id"] for entry in rig.sink.records(reason="DEADLINE_PASSED")] == [reply.request_id]


async def test_a_deadline_that_cannot_be_met_is_refused_before_it_is_queued(rig):
    for _ in range(100):
        rig.gw.served["tiny", "1"].service_time.observe(3_000_000_000, 1, rig.gw.clock_ns())
    reply = await rig.ask(tiny_body(image(0.5)), timeout=2)
    assert (reply.code, reply.reason) == (CODE.DEADLINE_EXCEEDED, "DEADLINE_UNMEETABLE")
    assert rig.engine.batches == []
    assert (await rig.ask(tiny_body(image(0.5)), timeout=60)).code is CODE.OK


@pytest.mark.parametrize(("threads", "reason"), [(1, "DEADLINE_UNMEETABLE"), (4, "OK")])
async def test_a_deadline_is_held_against_the_queue_that_all_threads_work_on(made_site, tmp_path, threads, reason):
    def config(document) -> None:
        document["engine"]["threads"] = threads

    async with open_rig(made_site, tmp_path, config=config) as rig:
        served = rig.gw.served["tiny", "1"]
        calls = [await started(rig, tiny_body(image(0.5))) for _ in range(threads)]
        calls += [rig.infer(tiny_body(image(0.5, 10))) for _ in range(4)]
        await queued(rig, 40)
        now_ns = rig.gw.clock_ns()
        rig.gw.clock_ns = lambda: now_ns  # what was observed does not fade meanwhile
        served.service_time.observe(10_000_000_000, 1, now_ns)  # a second a batch, and a second a row
        asked = rig.infer(tiny_body(image(0.25)), timeout=25)
        await until(lambda: served.batcher.queued_rows == 41 or asked.done())
        rig.engine.go.set()
        assert (await ended(asked)).reason == reason
        assert {(await ended(call)).reason for call in calls} == {"OK"}


async def test_who_asks_first_in_a_full_queue_gives_way_by_lane_and_gets_a_hint(made_site, tmp_path):
    def small_queue(document) -> None:
        document["engine"]["queue_rows_max"] = 256

    async with open_rig(made_site, tmp_path, config=small_queue) as rig:
        first = await started(rig, tiny_body(image(0.5)))
        heavy = [rig.infer(tiny_body(image(0.5, 128))) for _ in range(2)]
        await queued(rig, 256)
        refused = await rig.ask(tiny_body(image(0.5)))
        assert (refused.code, refused.reason) == (CODE.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert int(refused.trailers["grpc-retry-pushback-ms"]) > 0
        urgent = rig.infer(tiny_body(image(0.75)), caller="kiosk-7")
        shed = await ended(heavy[1])
        assert shed.reason == "QUEUE_FULL"
        rig.engine.go.set()
        assert (await ended(urgent)).output("energy") == pytest.approx(0.75)
        assert (await ended(heavy[0])).code is CODE.OK
        assert (await ended(first)).code is CODE.OK
        assert {entry["id"] for entry in rig.sink.records(reason="QUEUE_FULL")} == {refused.request_id, shed.request_id}
        await until(lambda: rig.gw.concurrency.in_flight == 0)


async def test_near_its_bound_the_gateway_sheds_the_lower_lane_first(made_site, tmp_path):
    def few(document) -> None:
        document["transport"]["in_flight_max"] = 20

    async with open_rig(made_site, tmp_path, config=few) as rig:
        first = await started(rig, tiny_body(image(0.5)))
        flood = [rig.infer(tiny_body(image(0.25))) for _ in range(30)]
        await until(lambda: sum(call.done() for call in flood) == 30 - 16)  # a lane-1 tenant alone: 8/9 of 95 %
        urgent = rig.infer(tiny_body(image(0.75)), caller="kiosk-7")
        await until(lambda: rig.gw.concurrency.in_flight == 18)
        rig.engine.go.set()
        replies = [await ended(call) for call in (first, urgent, *flood)]
        reasons = Counter(reply.reason for reply in replies)
        assert reasons == {"OK": 18, "OVERLOADED": 14}
        shed = [reply for reply in replies if reply.reason == "OVERLOADED"]
        assert {reply.code for reply in shed} == {CODE.UNAVAILABLE}
        assert all(int(reply.trailers["grpc-retry-pushback-ms"]) > 0 for reply in shed)
        assert (await rig.ask(tiny_body(image(0.5)))).code is CODE.OK


async def test_a_draining_gateway_finishes_what_it_has_and_takes_nothing_new(rig):
    accepted = await started(rig, tiny_body(image(0.5)))
    rig.gw.draining = True
    refused = await rig.ask(tiny_body(image(0.5)))
    assert (refused.code, refused.reason) == (CODE.UNAVAILABLE, "DRAINING")
    rig.engine.go.set()
    assert (await ended(accepted)).code is CODE.OK
    rig.gw.draining = False


async def test_a_policy_change_between_two_requests_splits_no_batch_wrongly(rig):
    """Both wait in one queue; each is answered under the policy it began with."""
    first = await started(rig, tiny_body(image(0.9)))
    old = rig.infer(tiny_body(image(0.25)))
    await queued(rig, 1)
    before = rig.gw.active.digest
    rig.site.change_policy(lambda policy: policy["models"]["tiny"].update(outputs=["energy"]))
    policy = load_policy(rig.site.policy, rig.app.config.policy.public_key)
    rig.app.put_in_force(rig.app.compile(policy), policy)
    new = rig.infer(tiny_body(image(0.75)))
    await queued(rig, 2)
    rig.engine.go.set()
    was, now = await ended(old), await ended(new)
    assert (len(was.message.outputs), len(now.message.outputs)) == (6, 1)
    assert (was.trailers["x-stockade-policy"], now.trailers["x-stockade-policy"]) == (before, policy.digest)
    assert (await ended(first)).code is CODE.OK


async def test_costs_are_spent_by_rows_and_given_back_by_nobody(rig):
    assert (await rig.ask(tiny_body(image(0.5, 6)), caller="costly")).code is CODE.OK
    over = await rig.ask(tiny_body(image(0.5, 3)), caller="costly")
    assert (over.reason, over.trailers["x-ratelimit-limit"]) == ("RATE_LIMITED", "8")
    exact = await rig.ask(tiny_body(image(0.5, 2)), caller="costly")
    assert (exact.code, exact.trailers["x-ratelimit-remaining"]) == (CODE.OK, "0")


def on_the_loop(document) -> None:
    document["engine"]["threads"] = 0


@pytest.fixture
async def looped(made_site, tmp_path):
    """A gateway whose batches run on the event loop, and their models in a thread from four rows on."""
    async with open_rig(made_site, tmp_path, config=on_the_loop) as opened:
        served = opened.gw.served["tiny", "1"]
        served.offload = replace(served.offload, rows_min=4)
        opened.engine.batches.clear()  # of the start, which times a full one
        while opened.engine.entered.acquire(blocking=False):
            pass
        yield opened


async def test_while_a_large_batch_is_at_the_model_the_loop_answers_others(looped):
    looped.engine.go.clear()
    large = looped.infer(tiny_body(image(0.25, 4)))
    await asyncio.to_thread(looped.engine.entered.acquire)
    async with asyncio.timeout(20):
        assert (
            await ended(looped.channel.unary_unary(LIVE)(b"", metadata=looped.site.bearer("plenty")))
        ).code == CODE.OK
        small = looped.infer(tiny_body(image(0.75)))
        await queued(looped, 1)
    looped.engine.go.set()
    assert (await ended(large)).output("energy") == pytest.approx(0.25)
    assert (await ended(small)).output("energy") == pytest.approx(0.75)
    assert looped.engine.batches == [4, 1]


async def test_who_breaks_the_model_in_its_thread_fails_alone_and_the_loop_runs_none_of_it(looped):
    looped.engine.go.clear()
    looped.engine.threads.clear()
    first = looped.infer(tiny_body(image(0.5, 4)))
    await asyncio.to_thread(looped.engine.entered.acquire)
    calls = [looped.infer(tiny_body(images)) for images in (image(0.1, 2), poisoned(2), image(0.3, 2))]
    await queued(looped, 6)
    looped.engine.go.set()
    replies = [await ended(call) for call in (first, *calls)]
    assert [reply.code for reply in replies] == [CODE.OK, CODE.OK, CODE.INTERNAL, CODE.OK]
    assert replies[3].output("energy") == pytest.approx(0.3)
    assert looped.engine.batches == [4, 6, 2, 2, 2]
    assert threading.get_ident() not in looped.engine.threads


async def test_a_batch_that_cannot_be_judged_as_a_whole_is_judged_request_by_request_in_the_thread(looped, monkeypatch):
    """The model runs once; each caller gets what it gave for his rows, and who cannot be judged fails alone."""
    judging = []
    judge = gateway.request.batch.judge_alike

    def stumbling(batch, gw):
        judging.append((threading.get_ident(), batch.inferred.rows))
        if (batch.inferred.outputs["energy"] == np.float32(0.25)).any():
            raise errors.ScreenUnavailable
        return judge(batch, gw)

    monkeypatch.setattr(gateway.request.batch, "judge_alike", stumbling)
    looped.engine.go.clear()
    looped.engine.threads.clear()
    first = looped.infer(tiny_body(image(0.5, 4)))
    await asyncio.to_thread(looped.engine.entered.acquire)
    sent = [(0.1, 1), (0.2, 3), (0.25, 2), (0.3, 2)]
    calls = [looped.infer(tiny_body(image(value, rows))) for value, rows in sent]
    await queued(looped, 8)
    looped.engine.go.set()
    replies = [await ended(call) for call in (first, *calls)]
    assert [reply.reason for reply in replies] == ["OK", "OK", "OK", "SCREEN_UNAVAILABLE", "OK"]
    for (value, rows), reply in zip(sent, replies[1:], strict=True):
        if reply.reason == "OK":
            np.testing.assert_allclose(reply.output("energy"), [value] * rows, rtol=0, atol=TOLERANCE)
    assert looped.engine.batches == [4, 8]
    assert [rows for _, rows in judging] == [4, 8, 1, 3, 2, 2]
    assert {thread for thread, _ in judging[2:]} == looped.engine.threads, "the loop went on meanwhile"
    ran = [looped.sink.records(id=reply.request_id)[0]["batch"] for reply in replies[1:]]
    assert [(batch["position"], batch["size"], batch["rows"]) for batch in ran] == [(n, 4, 8) for n in range(4)]


async def test_outputs_that_have_lost_a_row_are_nobodys_and_each_request_is_run_alone(looped):
    def answer(outputs):
        return outputs if len(outputs["energy"]) < 8 else {name: values[1:] for name, values in outputs.items()}

    looped.engine.answer = answer
    looped.engine.go.clear()
    first = looped.infer(tiny_body(image(0.5, 4)))
    await asyncio.to_thread(looped.engine.entered.acquire)
    values = (0.1, 0.2, 0.3, 0.4)
    calls = [looped.infer(tiny_body(image(value, 2))) for value in values]
    await queued(looped, 8)
    looped.engine.go.set()
    replies = [await ended(call) for call in (first, *calls)]
    for value, reply in zip(values, replies[1:], strict=True):
        np.testing.assert_allclose(reply.output("energy"), [value] * 2, rtol=0, atol=TOLERANCE)
    assert looped.engine.batches == [4, 8, 2, 2, 2, 2]


async def test_what_fails_behind_the_model_holds_up_nobody(looped, monkeypatch):
    """Also what goes wrong after the thread is a fault of ours that is told, and the next batch runs."""

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(gateway.request.batch, "settle", broken)
        assert (await looped.ask(tiny_body(image(0.5, 4)))).code == CODE.INTERNAL
    assert (await looped.ask(tiny_body(image(0.5, 4)))).code == CODE.OK


async def test_the_end_waits_for_the_batch_in_the_thread(looped):
    looped.engine.go.clear()
    calls = [looped.infer(tiny_body(image(0.5, 4)))]
    await asyncio.to_thread(looped.engine.entered.acquire)
    calls.append(looped.infer(tiny_body(image(0.5, 4))))
    await queued(looped, 4)
    served = looped.gw.served["tiny", "1"]
    ending = asyncio.create_task(retire(served))
    await until(lambda: served.batcher.queued_rows == 0)
    assert not ending.done()
    looped.engine.go.set()
    await ending
    assert [(await ended(call)).code for call in calls] == [CODE.OK, CODE.OK]


async def test_the_end_waits_for_what_is_judged_request_by_request(looped, monkeypatch):
    judge = gateway.request.batch.judge_alike

    def stumbling(batch, gw):
        if len(batch.items) > 1:
            raise errors.ScreenUnavailable
        return judge(batch, gw)

    monkeypatch.setattr(gateway.request.batch, "judge_alike", stumbling)
    looped.engine.go.clear()
    calls = [looped.infer(tiny_body(image(0.5, 4)))]
    await asyncio.to_thread(looped.engine.entered.acquire)
    calls += [looped.infer(tiny_body(image(0.5, 2))) for _ in range(2)]
    await queued(looped, 4)
    ending = asyncio.create_task(retire(looped.gw.served["tiny", "1"]))
    await until(lambda: looped.gw.served["tiny", "1"].batcher.queued_rows == 0)
    looped.engine.go.set()
    await ending
    assert [(await ended(call)).code for call in calls] == [CODE.OK] * 3


def test_the_poison_is_an_honest_value():
    assert 0 < POISON < 1


@pytest.mark.parametrize("threads", [0, 1], ids=["on the loop", "in a thread"])
async def test_a_model_that_would_end_the_process_fails_and_the_next_batch_runs(made_site, tmp_path, threads):
    """What no handler on the way catches reaches the batcher, which must not wait for that batch for ever."""

    def broken(inputs):
        raise SystemExit(3)

    async with open_rig(made_site, tmp_path, config=lambda document: document["engine"].update(threads=threads)) as rig:
        whole, rig.engine.infer = rig.engine.infer, broken
        for rows in (1, 64):  # many are left to a thread also from the loop
            assert (await rig.ask(tiny_body(image(0.5, rows)))).reason == "MODEL_ERROR"
        rig.engine.infer = whole
        async with asyncio.timeout(20):
            assert (await rig.ask(tiny_body(image(0.5)))).code is CODE.OK

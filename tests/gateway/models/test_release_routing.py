"""Two versions behind one gateway: who is answered by which, with which rights, and what runs beside."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import grpc
import numpy as np

from defenses.budget.policy import Mode
from gateway.host.app import App
from gateway.models.compile_release import Standing, fingerprint
from gateway.models.split import split_of
from gateway.policy.load import load_policy
from stockade.open_inference.grpc_service_pb2 import ModelStreamInferResponse
from tests.gateway.request.test_judgement import rules
from tests.gateway.rig import image, open_rig, poisoned, tiny_body, until
from tests.serving.tiny import tiny_bundle

CODE = grpc.StatusCode
PEOPLE = ("plenty", "kiosk-7", "rival", "archivist", "token-user", "batch-1")
HALF = {"1": 0.5, "2": 0.5}


def two(made_site, tmp_path, release, *, second=None, change=lambda policy: None, **more):
    def policy(document) -> None:
        document["models"]["tiny"]["release"] = release
        change(document)

    return open_rig(made_site, tmp_path, policy=policy, bundles=[second or tiny_bundle("2")], **more)


async def version_for(rig, caller: str, version: str = "") -> str:
    return (await rig.ask(tiny_body(image(0.5), version=version), caller=caller)).message.model_version


async def test_each_caller_gets_the_version_of_its_share_every_time(made_site, tmp_path):
    split = split_of("tiny", HALF, "h")
    async with two(made_site, tmp_path, {"weights": HALF, "salt": "h"}) as rig:
        for _ in range(3):
            found = {name: await version_for(rig, name) for name in PEOPLE}
            assert found == {name: split.version_for(name) for name in PEOPLE}
        assert set(found.values()) == {"1", "2"}
        assert found["plenty"] != found["token-user"], "of one tenant, and yet each by itself"
        assert await version_for(rig, "plenty", "1") == "1"
        assert await version_for(rig, "plenty", "2") == "2"
        served = Counter(entry["model"]["version"] for entry in rig.sink.records(kind="served"))
        assert served["1"] + served["2"] == 3 * len(PEOPLE) + 2


async def test_who_has_no_right_to_a_version_stays_with_the_one_that_is_served(made_site, tmp_path):
    def change(document) -> None:
        document["roles"]["predictor"][0]["versions"] = ["1"]

    async with two(made_site, tmp_path, {"weights": {"2": 1.0}}, change=change) as rig:
        assert await version_for(rig, "plenty") == "1"
        assert await version_for(rig, "rival") == "2"  # whose role has them all
        named = await rig.ask(tiny_body(image(0.5), version="2"))
        assert (named.code, named.reason) == (CODE.NOT_FOUND, "MODEL_UNKNOWN")


async def test_what_a_caller_is_told_of_a_model_is_of_its_own_version(made_site, tmp_path):
    from stockade.open_inference import grpc_service_pb2 as pb

    async with two(made_site, tmp_path, {"weights": {"2": 1.0}}) as rig:
        method = "/inference.GRPCInferenceService/ModelMetadata"
        body = pb.ModelMetadataRequest(name="tiny").SerializeToString()
        call = rig.channel.unary_unary(method)(body, metadata=rig.site.bearer("plenty"))
        await call
        assert dict(await call.trailing_metadata())["x-stockade-model-digest"] == tiny_bundle("2").digest


async def test_a_canary_moves_for_everybody_and_only_under_its_own_policy(made_site, tmp_path):
    canary = {"version": "2", "steps": [0.5, 1], "step_every": "1h", "compare_rate": 1.0}
    async with two(made_site, tmp_path, {"canary": canary}) as rig:
        app: App = rig.app
        mark = fingerprint(app.in_force[1].models["tiny"])
        assert {await version_for(rig, name) for name in PEOPLE} == {"1"}  # nobody has said where it stands
        app.move_canaries({"tiny": Standing(mark, 1.0, running=True)})
        assert {await version_for(rig, name) for name in PEOPLE} == {"2"}
        assert rig.gw.active.models["tiny", "1"].mirror.rules.served.bundle.version == "2"
        assert rig.gw.active.models["tiny", "2"].mirror.rules.served.bundle.version == "1"
        unchanged = app.in_force[1]
        app.put_in_force(app.compile(unchanged), unchanged)
        assert {await version_for(rig, name) for name in PEOPLE} == {"2"}, "a reload forgot where the canary stands"
        app.move_canaries({"tiny": Standing(mark, 0.0, running=False)})
        assert {await version_for(rig, name) for name in PEOPLE} == {"1"}
        assert rig.gw.active.models["tiny", "1"].mirror is None, "what is over is compared still"
        app.move_canaries({"tiny": Standing(mark, 1.0, running=True)})
        rig.site.change_policy(lambda policy: policy["models"]["tiny"]["release"]["canary"].update(attempt=2))
        changed = load_policy(rig.site.policy, app.config.policy.public_key)
        app.put_in_force(app.compile(changed), changed)
        assert {await version_for(rig, name) for name in PEOPLE} == {"1"}, "another canary got the share of this one"


async def test_an_open_stream_follows_the_canary(made_site, tmp_path):
    canary = {"version": "2", "steps": [1], "step_every": "1h"}
    async with two(made_site, tmp_path, {"canary": canary}) as rig:
        mark = fingerprint(rig.app.in_force[1].models["tiny"])
        bodies: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def given():
            while (body := await bodies.get()) is not None:
                yield body

        stream = rig.stream(given())
        found = []
        for share in (0.0, 1.0, 0.0):
            rig.app.move_canaries({"tiny": Standing(mark, share, running=True)})
            bodies.put_nowait(tiny_body(image(0.5)))
            found.append(ModelStreamInferResponse.FromString(await stream.read()).infer_response.model_version)
        assert found == ["1", "2", "1"]
        bodies.put_nowait(None)
        assert await stream.code() is CODE.OK


async def test_a_shadow_is_run_on_what_was_answered_and_nobody_sees_it(made_site, tmp_path):
    async with two(made_site, tmp_path, {"shadow": {"version": "2"}}) as rig:
        shadow = rig.gw.served["tiny", "2"].engine
        replies = [await rig.ask(tiny_body(image(value / 10, 2))) for value in range(1, 6)]
        assert {reply.message.model_version for reply in replies} == {"1"}
        await until(lambda: rig.counted("stockade_shadow_compared_total", model="tiny", version="2") == 10)
        assert shadow.batches == [2] * 5
        assert rig.counted("stockade_shadow_requests_total", version="2") == 5
        assert rig.counted("stockade_shadow_disagreements_total", version="2") == 0
        assert {entry["model"]["version"] for entry in rig.sink.records(kind="served")} == {"1"}
        assert len(rig.sink.records(kind="served")) == 5


async def test_a_shadow_that_fails_or_hangs_takes_nothing_from_anybody(made_site, tmp_path):
    async with two(made_site, tmp_path, {"shadow": {"version": "2"}}) as rig:
        shadow = rig.gw.served["tiny", "2"].engine

        def refuse(outputs):
            raise RuntimeError("a bug in the new version")

        shadow.answer = refuse
        assert (await rig.ask(tiny_body(image(0.5)))).code is CODE.OK
        await until(lambda: rig.counted("stockade_shadow_errors_total", version="2") == 1)
        shadow.answer = lambda outputs: outputs
        shadow.go.clear()
        for _ in range(40):
            assert (await rig.ask(tiny_body(image(0.5)))).code is CODE.OK
        assert rig.counted("stockade_shadow_dropped_total", version="2") >= 40 - 17
        shadow.go.set()


async def test_a_bad_row_fails_alone_under_a_release_too(made_site, tmp_path):
    async with two(made_site, tmp_path, {"weights": HALF}) as rig:
        bad = await rig.ask(tiny_body(poisoned(), version="2"))
        assert (bad.reason, (await rig.ask(tiny_body(image(0.5), version="2"))).code) == ("MODEL_ERROR", CODE.OK)


async def test_lanes_hold_within_each_version(made_site, tmp_path):
    """A full queue of one version sheds its highest lane, and the other version does not feel it."""

    def small_queue(document) -> None:
        document["engine"]["queue_rows_max"] = 256

    async with two(made_site, tmp_path, {"weights": HALF}, config=small_queue) as rig:
        engine = rig.gw.served["tiny", "2"].engine
        engine.go.clear()
        held = rig.infer(tiny_body(image(0.5), version="2"))
        await asyncio.to_thread(engine.entered.acquire)
        waiting = [rig.infer(tiny_body(image(0.5, 128), version="2"), caller="rival") for _ in range(2)]
        await until(lambda: rig.gw.served["tiny", "2"].batcher.queued_rows == 256)
        urgent = rig.infer(tiny_body(image(0.5, 128), version="2"), caller="kiosk-7")  # lane 0
        assert (await rig.ask(tiny_body(image(0.5), version="1"))).code is CODE.OK
        await until(lambda: rig.sink.records(reason="QUEUE_FULL"))
        engine.go.set()
        assert await urgent
        assert await held
        ended = [call.code() for call in waiting]
        assert Counter([await code for code in ended])[CODE.RESOURCE_EXHAUSTED] == 1


async def test_response_times_are_counted_of_models_with_a_release(made_site, tmp_path):
    async with two(made_site, tmp_path, {"weights": {"2": 1.0}}) as rig:
        await rig.ask(tiny_body(image(0.5)))
        await rig.ask(tiny_body(np.full((1, 28, 28), 2.0)))  # out of range: refused, and no answer
        await rig.ask(tiny_body(poisoned()))  # nor is a failure
        await until(lambda: rig.counted("stockade_requests_total", version="2", reason="MODEL_ERROR") == 1)
        assert rig.counted("stockade_release_request_seconds_count", version="2") == 1


async def test_drift_is_seen_of_the_version_that_answered(made_site, tmp_path):
    async with two(made_site, tmp_path, {"weights": {"2": 1.0}}) as rig:
        for _ in range(18):
            await rig.ask(tiny_body(image(0.5, 128)))
        for _ in range(4):
            await rig.ask(tiny_body(image(0.9, 128)))
        rig.gw.tally.flush()
        (value,) = [value for *labels, value in rig.gw.tally.drifts.values() if labels == ["tiny", "2", "scores"]]
        assert value > 1


async def test_drift_of_two_versions_is_that_of_rows_that_both_have_judged(made_site, tmp_path):
    async with two(made_site, tmp_path, {"shadow": {"version": "2", "rate": 0.5}}) as rig:
        active, shown = rig.gw.active, rules(Mode.SHADOW)
        screened = {"screens": shown.screens, "screen_rules": shown.screen_rules}
        one, other = (replace(active.models["tiny", version], **screened) for version in "12")
        one = replace(one, mirror=replace(one.mirror, rules=other))
        rig.gw.active = replace(active, models={**active.models, ("tiny", "1"): one, ("tiny", "2"): other})
        for _ in range(4):
            await rig.ask(tiny_body(image(0.5, 128)))
        await until(lambda: rig.counted("stockade_shadow_compared_total", version="2") == 256)
        found = {(version, detector) for _, version, detector, _ in rig.gw.tally.drifts.values()}
        assert found >= {("1", "beside/2/energy"), ("2", "beside/1/energy")}
        windows = rig.gw.tally.drifts._both.values()
        np.testing.assert_array_equal(*(window._ring.values for window in windows))

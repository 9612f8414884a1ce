"""A replica without Ray: what it loads, what it refuses, how it answers, and when it calls itself unwell."""

import asyncio
import math
import threading

import numpy as np
import pytest

from serving.bundles.bundle import load_bundle
from serving.engines.inprocess import InProcessEngine
from serving.engines.ray.frames import Verdict, pack_request, parse_reply, unpack_arrays
from serving.engines.ray.replica import (
    DEFAULTS,
    QUICK_BYTES_MAX,
    QUICK_S_MAX,
    Replica,
    Runs,
    SharedReplica,
    settings_of,
)
from serving.engines.ray.settings import Deployable, RaySettings, applications
from serving.errors import ReplicaRefused
from serving.train.pack import public_pem
from tests.serving.tiny import signing_key, tiny_bundle, tiny_sealed, write

IMAGES = np.random.default_rng(0).random((3, 28, 28), dtype=np.float32)


@pytest.fixture
def args(tmp_path):
    """What a deployment of the small model tells its replicas."""
    write(tiny_sealed(), tmp_path / "tiny/1")
    (tmp_path / "key.pub").write_bytes(public_pem(signing_key()))
    bundle = load_bundle(tmp_path / "tiny/1", [tmp_path / "key.pub"])
    found = [Deployable(bundle.name, bundle.version, bundle.digest, str(tmp_path / "tiny/1"))]
    (application,) = applications(RaySettings(address="127.0.0.1:6379"), found, [tmp_path / "key.pub"])
    return application.args


def answer(replica, digest, inputs):
    return parse_reply(asyncio.run(replica.infer(pack_request(digest, inputs))))


def test_it_answers_with_every_output_of_the_bundle(args):
    replica = Replica(args)
    digest = bytes.fromhex(tiny_bundle().digest)
    found, verdict, rest = answer(replica, digest, {"image": IMAGES})
    assert (found, verdict) == (digest, Verdict.DONE)
    expected = InProcessEngine(tiny_bundle()).infer({"image": IMAGES})
    outputs = unpack_arrays(rest)
    assert outputs.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(outputs[name], array)
    assert asyncio.run(replica.digest()) == digest.hex()


def test_another_bundle_is_stale_and_a_bad_input_is_the_models_failure(args):
    replica = Replica(args)
    digest = bytes.fromhex(tiny_bundle().digest)
    assert answer(replica, bytes(32), {"image": IMAGES}) == (digest, Verdict.STALE, b"")
    found, verdict, rest = answer(replica, digest, {"image": IMAGES[:, :27]})
    assert (found, verdict) == (digest, Verdict.FAILED)
    assert rest
    assert parse_reply(asyncio.run(replica.infer(digest + b"no arrays")))[1] is Verdict.FAILED


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 2}, r"not one of this release \(format 2\); write it anew"),
        ({"more": 1}, "unknown field `more`"),
        ({"bundles": {}}, "not one of this release"),
        ({"trusted_keys": []}, "key_untrusted"),
    ],
)
def test_a_deployment_that_is_wrong_is_refused(args, change, problem):
    with pytest.raises(ReplicaRefused, match=problem):
        Replica({**args, **change})


def test_a_bundle_that_is_not_the_one_named_is_refused(args):
    args["bundles"]["tiny/1"]["digest"] = "0" * 64
    with pytest.raises(ReplicaRefused, match=f"bundle {'0' * 64} is meant and {tiny_bundle().digest} is there"):
        Replica(args)


def test_a_bundle_that_is_not_signed_is_refused(args, tmp_path):
    (tmp_path / "tiny/1/model.sig").unlink()
    with pytest.raises(ReplicaRefused, match=r"model\.sig: unsigned"):
        Replica(args)


def test_a_shared_replica_loads_what_its_deployment_names(args):
    replica = SharedReplica({**args, "models_max": 1})
    assert asyncio.run(replica.load("tiny/1")).digest.hex() == tiny_bundle().digest
    with pytest.raises(ReplicaRefused, match="tiny/2 is not in the Serve config"):
        asyncio.run(replica.load("tiny/2"))
    assert asyncio.run(replica.digest()) == ""


def test_a_run_that_hangs_is_unhealthy_and_the_loop_stays_free():
    """Only runs that have begun count: what waits behind them is no sign of its own."""
    entered, release, late = threading.Event(), threading.Event(), []

    class Stuck:
        took_s = math.inf

        def answer(self, body):
            entered.set()
            release.wait(20)
            return body

    async def scenario():
        runs = Runs(1, hung_after_s=0.05)
        runs.require_progress()
        call = asyncio.create_task(runs.answer(Stuck(), b"x"))
        await asyncio.to_thread(entered.wait, 20)
        async with asyncio.timeout(20):
            while not late:
                try:
                    runs.require_progress()
                except RuntimeError as problem:
                    late.append(str(problem))
                await asyncio.sleep(0)
        release.set()
        assert await call == b"x"
        runs.require_progress()

    asyncio.run(scenario())
    assert late == ["a run takes longer than 0.05 s"]


class Timed:
    """A model whose runs take what they are told to, and say whether they were on the event loop."""

    def __init__(self, clock):
        self.took_s = math.inf
        self.takes_s = 0.0
        self.clock = clock

    def answer(self, _body):
        self.clock[0] += self.takes_s
        return b"loop" if threading.current_thread() is threading.main_thread() else b"thread"


def test_small_requests_to_a_quick_model_are_run_on_the_loop():
    """It has to have been quick with the last one, which is not known of the first."""
    clock = [0.0]
    model, small, large = Timed(clock), b"x" * QUICK_BYTES_MAX, b"x" * (QUICK_BYTES_MAX + 1)

    async def scenario():
        runs = Runs(2, 5.0, lambda: clock[0])
        yield await runs.answer(model, small)
        model.takes_s = QUICK_S_MAX
        yield await runs.answer(model, small)
        model.takes_s = 1.0
        yield await runs.answer(model, large)
        yield await runs.answer(model, small)
        yield await runs.answer(model, small)

    async def where():
        return [found async for found in scenario()]

    assert asyncio.run(where()) == [b"thread", b"loop", b"thread", b"loop", b"thread"]


def test_nothing_is_run_on_the_loop_while_a_thread_is_busy():
    entered, release = threading.Event(), threading.Event()

    class Held(Timed):
        def answer(self, body):
            entered.set()
            release.wait(20)
            return super().answer(body)

    async def scenario():
        runs, quick = Runs(2, 5.0, lambda: 0.0), Timed([0.0])
        await runs.answer(quick, b"x")
        held = asyncio.create_task(runs.answer(Held([0.0]), b"x"))
        await asyncio.to_thread(entered.wait, 20)
        beside = await runs.answer(quick, b"x")
        release.set()
        await held
        return beside, await runs.answer(quick, b"x")

    assert asyncio.run(scenario()) == (b"thread", b"loop")


def test_settings_survive_and_serve_gets_no_unknown_option(args):
    settings = settings_of(args)
    assert list(settings.bundles) == ["tiny/1"]
    assert settings.hung_after_s == 5.0
    assert DEFAULTS["max_ongoing_requests"] == 8

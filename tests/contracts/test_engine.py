"""The contract of `serving.engines.engine.Engine`, over every implementation. A new engine adds one line to ENGINES."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.bundles.manifest import DATATYPES
from serving.engines.experts import ExpertsEngine
from serving.engines.fallback import FallbackEngine
from serving.engines.inprocess import InProcessEngine
from serving.errors import BackendFailed, EngineClosed
from tests.gateway.oip_server import LoopbackEngine
from tests.serving.fake_engine import FakeEngine
from tests.serving.mixture import mixture_bundle
from tests.serving.tiny import tiny_bundle

ENGINES = {
    "inprocess": InProcessEngine,
    "experts": lambda _: ExpertsEngine(mixture_bundle()),
    "experts-sparse": lambda _: ExpertsEngine(mixture_bundle(), crossover_rows=1000),
    "experts-both": lambda _: ExpertsEngine(mixture_bundle(), crossover_rows=8),
    "fake": FakeEngine,
    "oip": LoopbackEngine,
    "fallback": lambda bundle: FallbackEngine(FakeEngine(bundle), FakeEngine(bundle), lambda _: None),
    "ray": "over_ray",
    "ray-shared": "over_shared_ray",
}
"""What makes one of a bundle: a function, or the name of the fixture that is such a function."""


@pytest.fixture(scope="module")
def bundle():
    return tiny_bundle()


@pytest.fixture(params=ENGINES)
def engine(request, bundle):
    make = ENGINES[request.param]
    made = (request.getfixturevalue(make) if isinstance(make, str) else make)(bundle)
    yield made
    made.close()


def images(rows, seed=0):
    return np.random.default_rng(seed).random((rows, 28, 28), dtype=np.float32)


@pytest.mark.parametrize("rows", [1, 2, 7, 64, 257])
def test_returns_every_declared_output_as_declared(engine, bundle, rows):
    outputs = engine.infer({"image": images(rows)})
    assert outputs.keys() == {spec.name for spec in bundle.outputs}
    for spec in bundle.outputs:
        assert outputs[spec.name].shape == (rows, *spec.shape[1:])
        assert outputs[spec.name].dtype == DATATYPES[spec.datatype]


def test_rows_keep_their_order_and_do_not_influence_each_other(engine):
    batch = images(64)
    together = engine.infer({"image": batch})
    for row in range(64):
        for name, alone in engine.infer({"image": batch[row : row + 1]}).items():
            np.testing.assert_allclose(together[name][row], alone[0], rtol=0, atol=1e-5)
    assert len({float(value) for value in together["energy"]}) == 64


def test_extreme_neighbours_leave_a_row_as_it_was(engine):
    batch = images(8)
    calm = engine.infer({"image": batch})
    batch[1:] = np.float32(3e38)
    stormy = engine.infer({"image": batch})
    for name in calm:
        np.testing.assert_allclose(calm[name][0], stormy[name][0], rtol=0, atol=1e-5)


def test_inputs_are_not_changed_and_outputs_belong_to_the_caller(engine):
    batch = images(4)
    before = batch.copy()
    first = engine.infer({"image": batch})
    kept = {name: array.copy() for name, array in first.items()}
    for array in first.values():
        array.fill(7)
    second = engine.infer({"image": batch})
    np.testing.assert_array_equal(batch, before)
    for name, array in second.items():
        np.testing.assert_array_equal(array, kept[name])


def test_many_threads_each_get_their_own_answer(engine):
    batches = [images(5, seed) for seed in range(32)]
    alone = [engine.infer({"image": batch})["energy"] for batch in batches]
    start = threading.Barrier(8)

    def ask(index):
        if index < 8:
            start.wait()
        return engine.infer({"image": batches[index]})["energy"]

    with ThreadPoolExecutor(8) as pool:
        for index, energy in enumerate(pool.map(ask, range(32))):
            np.testing.assert_array_equal(energy, alone[index])


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"picture": images(1)},
        {"image": images(1)[:, :27]},
        {"image": images(1)[0]},
        {"image": images(1).astype(np.float64)},
        {"image": images(1), "more": images(1)},
    ],
    ids=["none", "name", "shape", "rank", "dtype", "extra"],
)
def test_what_was_not_declared_is_a_failed_run(engine, inputs):
    with pytest.raises(BackendFailed):
        engine.infer(inputs)
    assert engine.infer({"image": images(1)})["energy"].shape == (1,)


def test_ready_until_closed_and_closed_for_good(engine):
    assert engine.ready()
    engine.close()
    engine.close()
    assert not engine.ready()
    with pytest.raises(EngineClosed):
        engine.infer({"image": images(1)})


def test_close_lets_running_calls_finish(engine):
    batch = images(64)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(engine.infer, {"image": batch}) for _ in range(16)]
        running[0].result()
        engine.close()
        results = [(call.exception(), call) for call in running]
    for error, call in results:
        assert isinstance(error, EngineClosed) or call.result()["energy"].shape == (64,)

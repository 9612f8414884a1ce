from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from serving.bundles.manifest import TensorSpec
from serving.engines.experts import PATHS_APART_MAX, ROWS_MIN, WINDOW_ROWS, ExpertsEngine, RoutingWindow, open_engine
from serving.engines.inprocess import InProcessEngine
from serving.errors import BackendFailed, EngineClosed, GraphRejected
from tests.serving.mixture import EXPERTS, mixture_bundle, mixture_graphs
from tests.serving.tiny import tiny_bundle

ALWAYS_SPARSE = 1 << 30


def images(rows, seed=0):
    return np.random.default_rng(seed).random((rows, 28, 28), dtype=np.float32)


def sparse_outputs(rows):
    return ExpertsEngine(mixture_bundle(), crossover_rows=ALWAYS_SPARSE).infer({"image": rows})


@pytest.mark.parametrize("rows", [1, 2, 63, 300])
def test_the_two_paths_give_one_answer(rows):
    batch = images(rows)
    dense = ExpertsEngine(mixture_bundle(), crossover_rows=1).infer({"image": batch})
    for name, array in sparse_outputs(batch).items():
        np.testing.assert_allclose(array, dense[name], rtol=0, atol=PATHS_APART_MAX, err_msg=name)


def test_a_row_gets_the_same_bits_alone_and_among_others():
    batch = images(200)
    together = sparse_outputs(batch)
    for row in range(200):
        for name, alone in sparse_one(batch[row : row + 1]).items():
            np.testing.assert_allclose(together[name][row], alone[0], rtol=0, atol=1e-6, err_msg=name)


ENGINE = ExpertsEngine(mixture_bundle(), crossover_rows=ALWAYS_SPARSE)


def sparse_one(row):
    return ENGINE.infer({"image": row})


def test_rows_that_choose_different_experts_are_in_the_batch():
    chosen = ENGINE._sparse.router.run(["chosen"], {"image": images(200)})[0]
    assert len(np.unique(chosen)) == EXPERTS


def test_the_dense_graph_answers_from_the_crossover_on(monkeypatch):
    engine = ExpertsEngine(mixture_bundle(), crossover_rows=8)
    asked = []
    infer = engine._dense.infer
    monkeypatch.setattr(
        engine, "_dense", type("Watched", (), {"infer": lambda _, rows: asked.append(rows) or infer(rows)})()
    )
    engine.infer({"image": images(7)})
    assert not asked
    engine.infer({"image": images(8)})
    assert len(asked) == 1


def ticking(step_of):
    """A clock whose two readings around run `number` are `step_of(number)` apart."""
    calls = count()

    def clock():
        call = next(calls)
        return float(step_of(call // 2)) if call % 2 else 0.0

    return clock


@pytest.mark.parametrize(("dense_s", "expected"), [(1, 1), (5, 1), (9, 128)])
def test_the_crossover_is_where_the_clock_says_the_dense_graph_is_faster(dense_s, expected):
    clock = ticking(lambda run: dense_s if run // 5 % 2 == 0 else 6)
    assert ExpertsEngine(mixture_bundle(), clock=clock).crossover_rows == expected


def test_the_crossover_is_the_first_size_at_which_the_dense_graph_is_faster():
    clock = ticking(lambda run: 10 - run // 10 if run // 5 % 2 == 0 else 7)
    assert ExpertsEngine(mixture_bundle(), clock=clock).crossover_rows == 16


def test_a_bundle_without_a_router_gets_the_plain_engine():
    assert isinstance(open_engine(tiny_bundle()), InProcessEngine)
    assert isinstance(open_engine(mixture_bundle()), ExpertsEngine)


def without(*names):
    return {name: graph for name, graph in mixture_graphs().items() if name not in names}


def test_graphs_that_do_not_fit_together_are_rejected():
    graphs = mixture_graphs()
    busted = {
        "no graph named head": without("head"),
        "no graph named dense": without("dense"),
        "numbered from 0": without("expert-1"),
        "no experts": without(*(f"expert-{number}" for number in range(EXPERTS))),
        "gives no `chosen`": graphs | {"router": graphs["dense"]},
        "not a declared input": graphs | {"expert-0": graphs["head"]},
        "is not that of the dense graph": graphs | {"expert-0": graphs["expert-1"]},
        "head: ": graphs | {"head": b""},
    }
    for problem, files in busted.items():
        with pytest.raises(GraphRejected, match=problem):
            ExpertsEngine(replace(mixture_bundle(), graphs=files))


def test_an_output_that_only_the_dense_graph_gives_is_rejected():
    bundle = mixture_bundle()
    more = (*bundle.outputs, TensorSpec("total.0", "FP32", (-1, 3)))
    with pytest.raises(GraphRejected):
        ExpertsEngine(replace(bundle, outputs=more))


def test_a_router_that_chooses_who_is_not_there_fails_the_run():
    engine = ExpertsEngine(mixture_bundle(), crossover_rows=ALWAYS_SPARSE)
    engine._sparse = replace(engine._sparse, experts=engine._sparse.experts[:1])
    with pytest.raises(BackendFailed, match="not there"):
        engine.infer({"image": images(64)})


def with_choices(engine, chosen):
    """The engine with a router that always chooses these."""
    router = engine._sparse.router

    class Router:
        def run(self, names, inputs):
            found = dict(zip(names, router.run(names, inputs), strict=True))
            rows = len(inputs["image"])
            found["chosen"] = np.tile(np.array(chosen, np.int64), (rows, 1))
            found["gates"] = np.full((rows, len(chosen)), 0.5, np.float32)
            return [found[name] for name in names]

    engine._sparse = replace(engine._sparse, router=Router())
    return engine


def test_a_row_has_each_expert_once_and_not_more_than_it_may(monkeypatch):
    """Twice the same would count twice for a row alone and once for one among others."""
    engine = ExpertsEngine(mixture_bundle(), crossover_rows=ALWAYS_SPARSE)
    with pytest.raises(BackendFailed, match="twice"):
        with_choices(engine, [1, 1]).infer({"image": images(3)})
    engine = ExpertsEngine(mixture_bundle(), crossover_rows=ALWAYS_SPARSE)
    monkeypatch.setattr("serving.engines.experts.EXPERTS_ACTIVE_MAX", 3)
    with_choices(engine, [0, 1, 2]).infer({"image": images(1)})
    with pytest.raises(BackendFailed, match="more than 3"):
        with_choices(engine, [0, 1, 2, 3]).infer({"image": images(1)})


def test_how_evenly_experts_are_chosen_is_seen():
    engine = ExpertsEngine(mixture_bundle(), crossover_rows=ALWAYS_SPARSE)
    assert engine.routing is None
    engine.infer({"image": images(300)})
    usual = engine.routing
    assert usual > 0.5
    steered = with_choices(engine, [2, 3])
    for _ in range(40):
        steered.infer({"image": images(1_000)})
    assert steered.routing == pytest.approx(0.5, abs=0.05)  # two of four
    engine.close()
    assert engine.routing is None


def test_closed_on_both_paths():
    engine = ExpertsEngine(mixture_bundle(), crossover_rows=2)
    engine.close()
    for rows in (1, 4):
        with pytest.raises(EngineClosed):
            engine.infer({"image": images(rows)})


def test_even_choices_are_one_and_a_single_one_is_nothing():
    window = RoutingWindow(4)
    window.add(np.tile(np.arange(4), ROWS_MIN // 2).reshape(-1, 2))
    assert window.entropy() == pytest.approx(1.0)
    alone = RoutingWindow(4)
    alone.add(np.full((ROWS_MIN, 1), 3))
    assert alone.entropy() == 0.0


def test_shares_are_those_of_the_textbook():
    window = RoutingWindow(2)
    window.add(np.repeat([0, 1], [750, 250])[:, None])
    assert window.entropy() == pytest.approx(0.811278, abs=1e-6)


def test_nothing_is_said_before_there_are_enough_rows_and_of_one_expert():
    window = RoutingWindow(3)
    window.add(np.zeros((ROWS_MIN - 1, 1), np.int64))
    assert window.entropy() is None
    window.add(np.zeros((1, 1), np.int64))
    assert window.entropy() == 0.0
    single = RoutingWindow(1)
    single.add(np.zeros((ROWS_MIN, 1), np.int64))
    assert single.entropy() is None


def test_what_is_long_ago_counts_no_more():
    window = RoutingWindow(2)
    window.add(np.tile([[0], [1]], (WINDOW_ROWS // 2, 1)))
    for _ in range(10):
        window.add(np.zeros((WINDOW_ROWS, 1), np.int64))
    assert (window.entropy() or 1.0) < 0.01

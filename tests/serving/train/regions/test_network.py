"""The mixture of experts that `stockade bench models` measures, on a small world with the real recipe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.engines.experts import PATHS_APART_MAX, ExpertsEngine, expert_graph
from serving.engines.inprocess import InProcessEngine
from serving.train.regions.bench import DENSE, SPARSE, TWIN, SparsitySettings, compare_sparsity, region_bundle
from serving.train.regions.graph import write_mixture
from serving.train.regions.network import RegionSettings, cut_cells, place_units, train_regions
from serving.train.regions.places import Places, split_places

SMALL = RegionSettings(units=600, experts=8, epochs=2, batch_rows=128)
ALWAYS_SPARSE = 1 << 30
REGIONS = 30


def world(count=4_000, seed=0):
    """Places around clustered towns; a region is what is nearest to its capital."""
    rng = np.random.default_rng(seed)
    capitals, towns = rng.normal(size=(REGIONS, 3)), rng.normal(size=(200, 3))
    rows = towns[rng.integers(200, size=count)] + 0.15 * rng.normal(size=(count, 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    regions = (rows @ (capitals / np.linalg.norm(capitals, axis=1, keepdims=True)).T).argmax(1)
    return Places(rows.astype(np.float32), regions, tuple(f"r{number}" for number in range(REGIONS)), "")


WORLD = world()
TRAIN, TEST = split_places(WORLD, 0)


@pytest.fixture(scope="module")
def mixture():
    return train_regions(TRAIN, SMALL, mixture=True)


@pytest.fixture(scope="module")
def engine(mixture):
    return ExpertsEngine(region_bundle(mixture, WORLD.names), crossover_rows=ALWAYS_SPARSE)


def asked(engine, rows, batch):
    parts = [engine.infer({"direction": rows[at : at + batch]}) for at in range(0, len(rows), batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_cells_hold_about_as_many_units_each():
    keys, _, _ = place_units(TRAIN, SMALL)
    counts = np.bincount(cut_cells(keys, 8, 0).owner, minlength=8)
    assert counts.min() > 0.6 * len(keys) / 8
    assert counts.max() < 1.5 * len(keys) / 8


def test_learning_helps_and_the_mixture_is_as_good_as_the_dense_one(engine):
    dense = InProcessEngine(region_bundle(train_regions(TRAIN, SMALL, mixture=False), WORLD.names))
    unlearned = InProcessEngine(
        region_bundle(train_regions(TRAIN, replace(SMALL, epochs=0), mixture=False), WORLD.names)
    )
    right = {
        name: (asked(each, TEST.directions, 64)["probabilities"].argmax(1) == TEST.regions).mean()
        for name, each in (("mixture", engine), ("dense", dense), ("unlearned", unlearned))
    }
    assert right["dense"] > right["unlearned"] + 0.01
    assert right["mixture"] > right["dense"] - 0.02


def test_a_hundred_thousand_rows_do_not_influence_each_other(engine):
    rows = world(100_000, 7).directions
    alone_in_another_order = np.random.default_rng(1).permutation(len(rows))
    one, other = asked(engine, rows, 977), asked(engine, rows[alone_in_another_order], 64)
    for name, array in one.items():
        np.testing.assert_allclose(array[alone_in_another_order], other[name], rtol=0, atol=1e-6, err_msg=name)


def test_the_dense_twin_keeps_rows_apart_too(mixture):
    twin = InProcessEngine(region_bundle(mixture, WORLD.names))
    rows = TEST.directions[:200]
    together, alone = asked(twin, rows, 200), asked(twin, rows, 1)
    for name, array in together.items():
        np.testing.assert_allclose(array, alone[name], rtol=0, atol=1e-6, err_msg=name)


def test_both_paths_answer_within_what_is_declared(mixture, engine):
    rows = world(5_000, 8).directions
    twin = asked(InProcessEngine(region_bundle(mixture, WORLD.names)), rows, 256)
    for name, array in asked(engine, rows, 256).items():
        np.testing.assert_allclose(array, twin[name], rtol=0, atol=PATHS_APART_MAX, err_msg=name)


def test_a_row_wakes_the_units_of_its_two_cells_alone(mixture, engine):
    chosen = engine._sparse.router.run(["chosen"], {"direction": TEST.directions})[0]
    wanted = np.argsort(-mixture.cells.scores(TEST.directions.astype(np.float64)), axis=1)[:, :2]
    np.testing.assert_array_equal(np.sort(chosen, 1), np.sort(wanted, 1))


def test_the_routers_entropy_is_highest_between_cells(mixture, engine):
    scores = np.sort(mixture.cells.scores(TEST.directions), axis=1)
    margin, entropy = scores[:, -1] - scores[:, -2], asked(engine, TEST.directions, 64)["router_entropy"]
    assert np.corrcoef(margin, entropy)[0, 1] < -0.5
    assert entropy.min() >= -1e-6
    assert entropy.max() <= np.log(SMALL.experts) + 1e-6


def test_a_dense_network_has_no_experts(mixture):
    assert expert_graph(SMALL.experts - 1) in write_mixture(mixture)
    with pytest.raises(ValueError, match="no experts"):
        write_mixture(replace(mixture, cells=None))


def test_the_same_seed_gives_the_same_network(mixture):
    again = train_regions(TRAIN, SMALL, mixture=True)
    np.testing.assert_array_equal(again.weights, mixture.weights)
    assert not np.array_equal(train_regions(TRAIN, replace(SMALL, seed=1), mixture=True).keys, mixture.keys)


def test_the_comparison_names_everything_that_was_trained():
    said = []
    found = compare_sparsity(
        WORLD, SparsitySettings(recipe=SMALL, smaller=(100, 300), seeds=2, rounds=1, rows_max=200), said.append
    )
    models = {SPARSE, TWIN, DENSE, "dense, 100 units", "dense, 300 units"}
    assert found["us"].keys() == models
    assert found["quality"].keys() == models | {"nearest place"}
    assert found["quality"]["dense, 100 units"]["mean"] < found["quality"][DENSE]["mean"]
    assert found["times_faster_than_dense"][DENSE] == {"1": 1.0, "8": 1.0, "64": 1.0}
    assert found["apart_points"][DENSE] == {"mean": 0.0, "half": 0.0, "values": [0.0, 0.0]}
    assert max(found["paths"]["rows_apart"].values()) <= 1e-6
    assert max(found["paths"]["apart"].values()) <= PATHS_APART_MAX
    assert found["smallest_equal"]["model"] in {DENSE, "dense, 300 units", "dense, 100 units"}
    assert found["pruned"]["kept_share"] == pytest.approx(0.05, abs=0.02)
    assert any("seed 1" in line for line in said)

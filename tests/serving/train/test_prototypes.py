"""Nearest prototypes: medoids, the graph that names them, and what is refused."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gateway.tools.samples import bundles_directory
from serving.bundles.bundle import assemble, read_bundle, read_keys
from serving.engines.inprocess import InProcessEngine
from serving.engines.measure import rows_apart
from serving.registry.dataset import read_dataset
from serving.train.errors import PrototypesRefused
from serving.train.pack import seal
from serving.train.prototypes import DISTANCES, PLACES, PROTOTYPES_FILE, Wanted, medoids, with_prototypes
from tests.serving.tiny import signing_key, trusted

ROOT = bundles_directory()
SAMPLES = {"kiosk": "fashion-mnist-1000", "clickstream": "ecom-1000"}


def parts(name: str):
    files = read_bundle(ROOT / name / "1")
    bundle = assemble(files, read_keys([ROOT / "stockade-release.pub"]))
    return files, bundle, read_dataset(ROOT / f"samples/{SAMPLES[name]}.safetensors", bundle, len(bundle.class_names))


@pytest.fixture(scope="module", params=sorted(SAMPLES))
def made(request):
    files, bundle, data = parts(request.param)
    changed, manifest = with_prototypes(files, bundle, data, Wanted("2"))
    sealed = seal(changed, manifest, signing_key())
    return bundle, assemble(sealed, [trusted()]), sealed, data


def test_medoids_stand_in_the_middle_of_their_groups():
    rng = np.random.default_rng(0)
    middles = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = np.concatenate([middle + rng.normal(size=(30, 2)) for middle in middles])
    chosen = medoids(points, 3)
    assert (chosen // 30).tolist() == [0, 1, 2]
    assert np.abs(points[chosen] - middles).max() < 1
    assert medoids(points[:2], 5).tolist() == [0, 1]


POINTS = st.integers(1, 12).flatmap(lambda rows: arrays(np.float64, (rows, 2), elements=st.integers(-3, 3).map(float)))


@given(points=POINTS, count=st.integers(1, 5), apart=st.sampled_from([0.0, 1000 / 3]))
def test_medoids_are_different_points_and_a_single_one_is_the_middle_of_all(points, count, apart):
    """Many of these points are equal, and far from zero their distances are not exact."""
    chosen = medoids(points + apart, count)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(points))
    assert sorted(chosen) == chosen.tolist()
    sums = np.linalg.norm(points[:, None] - points[None], axis=2).sum(axis=0)
    assert sums[medoids(points + apart, 1)[0]] <= sums.min() + 1e-4


def test_medoids_move_to_the_middle_of_the_groups_they_begin():
    """BUILD begins at the middle of all; what it chose is then no medoid of its own group."""
    points = np.array([[0.0], [1.0], [2.0], [9.0], [20.0], [21.0], [22.0]])
    assert medoids(points, 2).tolist() == [1, 5]


def test_medoids_take_memory_for_pairs_of_points_and_not_for_their_width():
    rows, width = 400, 200
    points = np.random.default_rng(0).normal(size=(rows, width))
    tracemalloc.start()
    try:
        medoids(points, 3)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 6 * rows * rows * points.itemsize


def test_every_older_output_is_as_it_was_to_the_bit_and_prototypes_come_beside(made):
    before, after, _, data = made
    old, new = InProcessEngine(before).infer(data.inputs), InProcessEngine(after).infer(data.inputs)
    assert new.keys() - old.keys() == {PLACES, DISTANCES}
    for name, array in old.items():
        np.testing.assert_array_equal(new[name], array)
    assert (after.version, after.manifest["training"]["prototypes_of"]["digest"]) == ("2", before.digest)


def test_the_nearest_are_the_nearest_and_a_prototype_is_its_own(made):
    _, after, sealed, data = made
    exemplars = safetensors.numpy.load(sealed[PROTOTYPES_FILE])
    (name,) = data.inputs
    chosen = after.manifest["data"]["prototypes"]["rows"]
    np.testing.assert_array_equal(exemplars[name], data.inputs[name][chosen])
    np.testing.assert_array_equal(exemplars["labels"], data.labels[chosen])
    engine = InProcessEngine(after)
    own = engine.infer({name: exemplars[name]})
    assert own[PLACES][:, 0].tolist() == list(range(len(chosen)))
    assert own[DISTANCES][:, 0].max() < 1e-3
    found = engine.infer({name: data.inputs[name][:200]})
    latents = engine.infer({name: exemplars[name]})["latent"]
    apart = np.linalg.norm(found["latent"][:, None].astype(np.float64) - latents[None], axis=2)
    np.testing.assert_allclose(found[DISTANCES], np.sort(apart, axis=1)[:, :3], rtol=1e-4, atol=1e-4)


def test_rows_do_not_influence_each_other(made):
    _, after, _, data = made
    (name,) = data.inputs
    engine = InProcessEngine(after)
    some = data.inputs[name][:100]
    apart = rows_apart(engine, some, engine.infer({name: some}), name=name)
    assert apart[PLACES] == 0
    assert apart[DISTANCES] <= 1e-5


def test_the_nearest_prototype_of_a_product_is_nearly_always_of_the_predicted_class(made):
    before, after, _, _ = made
    found = after.manifest["metrics"]["prototypes"]
    assert found["agree_with_prediction"] > {"kiosk": 0.9, "clickstream": 0.6}[before.name]


def test_what_cannot_have_prototypes_is_told_why():
    files, bundle, data = parts("kiosk")
    wrong = replace(data, labels=InProcessEngine(bundle).infer(data.inputs)["probabilities"].argmax(axis=1) ^ 1)
    with pytest.raises(PrototypesRefused, match="gets no row of the data right"):
        with_prototypes(files, bundle, wrong, Wanted("2"))
    roles = {**bundle.manifest["roles"], "latent": []}
    with pytest.raises(PrototypesRefused, match="the role `latent`"):
        with_prototypes(files, replace(bundle, manifest={**bundle.manifest, "roles": roles}), data, Wanted("2"))
    few = replace(data, inputs={"image": data.inputs["image"][:4]}, labels=data.labels[:4])
    with pytest.raises(PrototypesRefused, match="give more rows"):
        with_prototypes(files, bundle, few, Wanted("2", per_class=4))

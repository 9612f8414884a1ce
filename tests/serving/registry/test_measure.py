"""What is measured of a bundle: counted by hand here, and the same each time."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from scipy import stats

from defenses.budget.intervals import clopper_pearson
from serving.bundles.bundle import assemble
from serving.bundles.manifest import TensorSpec
from serving.registry.dataset import read_dataset
from serving.registry.errors import DatasetRejected, NotMeasurable
from serving.registry.evaluation import Attacked, Decided
from serving.registry.measure import (
    STUDENT,
    Attacker,
    Clocks,
    classes_of,
    distance,
    interval,
    intervals,
    measure,
    ranked,
    wilson,
)
from serving.train.pack import seal, tensor_bytes
from tests.e2e.versions import graph_of, manifest
from tests.serving.tiny import remote_bundle, signing_key, tiny_files, tiny_manifest, trusted

ROWS = 40
LABELS = np.arange(ROWS) % 2 * 2
IMAGES = np.where(LABELS == 0, 0.9, 0.2)[:, None, None] * np.ones((1, 28, 28))


def bundle(way: str = "good", **changes):
    files = tiny_files() | {"model.onnx": graph_of(way)}
    return assemble(seal(files, manifest("m", "1") | changes, signing_key()), (trusted(),))


def data(tmp_path, **changes):
    file = tmp_path / "data.safetensors"
    tensors = {"image": IMAGES.astype(np.float32), "labels": LABELS} | changes
    file.write_bytes(tensor_bytes({name: array for name, array in tensors.items() if array is not None}))
    return file


def clocks():
    """Every look at the wall is a millisecond later than the last, and takes 0.3 s of the processor."""
    wall, cpu = count(), count()
    return Clocks(lambda: next(wall) / 1000, lambda: next(cpu) * 0.3)


def read(tmp_path, **changes):
    return read_dataset(data(tmp_path, **changes), bundle(), 3)


def test_counts_and_times(tmp_path):
    wrong = LABELS.copy()
    wrong[:4] = [2, 0, 1, 1]  # two of class 0 and 2 swapped, two of a class that is never answered
    found = measure(bundle(), None, read(tmp_path, labels=wrong), None, clocks())
    assert found.metrics["accuracy"].value == 36 / 40
    assert (found.metrics["accuracy"].low, found.metrics["accuracy"].high) == pytest.approx(wilson(36, 40))
    assert found.decided == {
        "a": Decided(rows=19, correct=18),
        "b": Decided(rows=2, correct=0),
        "c": Decided(rows=19, correct=18),
    }
    assert found.metrics["latency_p50_ms"].value == pytest.approx(1.0)
    assert found.metrics["cpu_seconds_per_1000"].value == pytest.approx(1.0)
    assert not found.metrics.keys() & {"robust_accuracy", "disagreement", "score_drift", "label_free_loss"}


def test_what_differs_from_the_baseline(tmp_path):
    found = measure(bundle("odd"), bundle(), read(tmp_path), None, clocks())
    assert found.metrics["disagreement"].value == 1.0
    assert found.metrics["score_drift"].value > 0.4
    same = measure(bundle(), bundle(), read(tmp_path), None, clocks())
    assert (same.metrics["disagreement"].value, same.metrics["score_drift"].value) == (0.0, 0.0)


def test_the_attack_gets_the_rows_that_the_seed_draws(tmp_path):
    seen = []

    def run(predict, inputs, labels, bounds):
        seen.append((inputs, labels, bounds))
        return predict(np.zeros_like(inputs)).argmax(axis=1) == labels  # black is class c

    told = Attacked(attack="black", radius=1.0, queries=1)
    found = measure(bundle(), None, read(tmp_path), Attacker(run, told, 10, 7), clocks())
    chosen = np.random.default_rng(7).permutation(ROWS)[:10]
    ((inputs, labels, bounds),) = seen
    assert (inputs == IMAGES[chosen].astype(np.float32)).all()
    assert (labels == LABELS[chosen]).all()
    assert bounds == (0.0, 1.0)
    assert found.metrics["robust_accuracy"].value == (LABELS[chosen] == 2).mean()
    assert found.attacked == told


def test_a_label_free_loss_is_the_manifests(tmp_path):
    found = measure(bundle(metrics={"label_free_loss": 0.25}), None, read(tmp_path), None, clocks())
    assert found.metrics["label_free_loss"].value == 0.25


def test_a_model_without_classes_or_that_runs_elsewhere_is_not_measured(tmp_path):
    with pytest.raises(NotMeasurable, match="has no role `prediction`"):
        classes_of(assemble(seal(tiny_files(), tiny_manifest() | {"roles": {}}, signing_key()), (trusted(),)))
    remote = remote_bundle(roles={"prediction": ["probabilities"]})
    with pytest.raises(NotMeasurable, match="runs on another server"):
        measure(remote, None, read_dataset(data(tmp_path), remote, 3), None, clocks())


def test_a_dataset_is_known_by_its_bytes(tmp_path):
    found = read(tmp_path)
    assert found.sha256 == hashlib.sha256((tmp_path / "data.safetensors").read_bytes()).hexdigest()
    pixels = np.full((ROWS, 28, 28), 51, np.uint8)
    bright = read(tmp_path, image=None, images=pixels)
    assert bright.inputs["image"].dtype == np.float32
    assert bright.inputs["image"].max() == pytest.approx(0.2)


def test_whole_numbers_may_be_narrow(tmp_path):
    clicks = replace(bundle(), inputs=(TensorSpec("events", "INT64", (-1, 3), 0.0, 9.0),))
    ids = np.arange(ROWS * 3).reshape(ROWS, 3) % 10
    found = read_dataset(data(tmp_path, image=None, ids=ids.astype(np.uint8)), clicks, 3)
    assert found.inputs["events"].dtype == np.int64
    assert (found.inputs["events"] == ids).all()
    for wrong, said in (
        (ids.astype(np.uint64), "is uint64"),
        (ids.astype(np.float32), "is float32"),
        (ids + 1, "leaves"),
    ):
        with pytest.raises(DatasetRejected, match=said):
            read_dataset(data(tmp_path, image=None, ids=wrong), clicks, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": None}, "has no `labels`"),
        ({"labels": LABELS.astype(np.float32)}, "has no `labels`"),
        ({"labels": LABELS + 1}, "a label is not from 0 to 2"),
        ({"labels": LABELS - 1}, "a label is not from 0 to 2"),
        ({"image": None}, "has no tensor 'image'"),
        ({"image": IMAGES[:, :27].astype(np.float32)}, r"image has the shape \(40, 27, 28\)"),
        ({"image": IMAGES[1:].astype(np.float32)}, r"image has the shape \(39, 28, 28\)"),
        ({"image": IMAGES}, "image is float64, and the model takes FP32"),
        ({"image": np.full((ROWS, 28, 28), np.nan, np.float32)}, "image is not finite everywhere"),
        ({"image": np.full((ROWS, 28, 28), 1.1, np.float32)}, "image leaves the range 0.0 to 1.0"),
    ],
)
def test_data_that_will_not_do(tmp_path, changes, said):
    with pytest.raises(DatasetRejected, match=f"data.safetensors: {said}"):
        read(tmp_path, **changes)


def test_data_that_is_none(tmp_path):
    with pytest.raises(DatasetRejected, match="cannot be read"):
        read_dataset(tmp_path / "nothing", bundle(), 3)
    (tmp_path / "x").write_bytes(b"\x80\x04.")
    with pytest.raises(DatasetRejected, match="is not safetensors"):
        read_dataset(tmp_path / "x", bundle(), 3)


def test_the_interval_covers_what_the_exact_one_does_nearly():
    for successes, trials in ((0, 10), (10, 10), (5, 10), (93, 100), (700, 1000)):
        low, high = wilson(successes, trials)
        exact = clopper_pearson(successes, trials)
        assert 0.0 <= low <= successes / trials <= high <= 1.0
        assert abs(low - exact.low) < 0.05
        assert abs(high - exact.high) < 0.05


def test_how_well_two_classes_are_told_apart():
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 2
    second = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    found = ranked(np.stack([1 - second, second], axis=1), labels)
    pairs = (second[labels == 1][:, None] > second[labels == 0][None, :]).mean()
    assert found["auc"].value == pytest.approx(pairs, abs=0.002)
    draws = []
    for _ in range(200):
        rows = rng.integers(600, size=600)
        draws.append(ranked(np.stack([1 - second, second], axis=1)[rows], labels[rows])["auc"].value)
    assert (found["auc"].low, found["auc"].high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.02)
    always = ranked(np.tile([0.3, 0.7], (600, 1)), labels)  # right half of the time
    assert (always["auc"].value, always["calibration_error"].value) == pytest.approx((0.5, 0.2))
    assert ranked(np.zeros((2, 3)), np.array([0, 1])).keys() == {"calibration_error"}
    assert ranked(np.array([[-1.0, 2.0]]), np.array([1])) == {}


def test_the_distance_of_two_samples():
    assert distance(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 1.0
    assert distance(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.5, 4.5])) == 0.25


@pytest.mark.parametrize("count", STUDENT)
def test_an_interval_over_runs_is_students(count):
    values = np.random.default_rng(count).normal(size=count).tolist()
    low, high = stats.t.interval(0.95, count - 1, np.mean(values), stats.sem(values))
    found = intervals([{"figure": value} for value in values])["figure"]
    assert found == interval(values)
    assert found["values"] == values
    assert (found["mean"], found["half"]) == pytest.approx(((low + high) / 2, (high - low) / 2), rel=1e-3)

"""Student densities by class: what they know, and that no batch changes a bit of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from defenses.errors import CalibrationInvalid
from defenses.screens.trigger_density import FREEDOM, ROWS_PER_CLASS_MIN, StudentClasses

CLASSES, WIDTH = 3, 12


def clouds(count, seed):
    """Three clouds of unlike shape, far enough apart to tell most rows."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    shapes = np.random.default_rng(9).normal(size=(CLASSES, WIDTH, WIDTH))
    middles = np.random.default_rng(8).normal(size=(CLASSES, WIDTH)) * 4
    noise = rng.normal(size=(count, WIDTH))
    return np.einsum("nd,nde->ne", noise, shapes[labels]) + middles[labels], labels


ROWS, LABELS = clouds(900, 0)
DENSITY = StudentClasses.fit(ROWS, LABELS, CLASSES)


def test_rows_are_likeliest_under_their_own_class():
    rows, labels = clouds(600, 1)
    assert (DENSITY.log_densities(rows).argmax(axis=1) == labels).mean() > 0.9


def test_it_is_the_student_density_of_the_fitted_mean_and_covariance():
    """All coordinates kept: the distance is the Mahalanobis distance under the shrunk covariance, but for the grid."""
    rows, _ = clouds(50, 2)
    found = DENSITY.log_densities(rows)
    for label in range(CLASSES):
        own = ROWS[label == LABELS]
        covariance = np.cov(own.T)
        covariance = 0.95 * covariance + 0.05 * np.trace(covariance) / WIDTH * np.eye(WIDTH)
        apart = rows - own.mean(axis=0)
        distance = np.einsum("nd,de,ne->n", apart, np.linalg.inv(covariance), apart)
        _, log_determinant = np.linalg.slogdet(covariance / float(DENSITY.scale) ** 2)
        wanted = -(FREEDOM + WIDTH) / 2 * np.log1p(distance / FREEDOM) - log_determinant / 2
        assert np.abs(found[:, label] - wanted).max() < 0.3


def test_arrays_bring_it_back_to_the_bit():
    arrays = DENSITY.to_arrays("t")
    rows, _ = clouds(40, 3)
    back = StudentClasses.from_arrays(arrays | {"other": np.zeros(3)}, "t")
    assert back.log_densities(rows).tobytes() == DENSITY.log_densities(rows).tobytes()
    assert all(np.array_equal(array, back.to_arrays("t")[name]) for name, array in arrays.items())


@given(rows=arrays(st.sampled_from([np.float16, np.float32, np.float64]), st.tuples(st.integers(1, 9), st.just(WIDTH))))
@settings(deadline=None, max_examples=200)
def test_any_row_has_the_same_finite_density_alone_and_in_a_batch(rows):
    together = DENSITY.log_densities(rows)
    assert np.isfinite(together).all()
    for row in range(len(rows)):
        assert DENSITY.log_densities(rows[row : row + 1]).tobytes() == together[row : row + 1].tobytes()


def test_a_wide_density_is_the_same_alone_and_in_any_batch():
    """As wide as a model's: here the order of a sum would show if it were not exact."""
    rng = np.random.default_rng(4)
    rows = rng.random((300, 784)).astype(np.float32) ** 3
    wide = StudentClasses.fit(rows, np.arange(300) % 2, 2)
    together = wide.log_densities(rows)
    for size in (1, 3, 7, 64):
        parts = [wide.log_densities(rows[start : start + size]) for start in range(0, 300, size)]
        assert np.concatenate(parts).tobytes() == together.tobytes()


def test_features_count_as_the_nearest_multiple_so_that_no_sum_is_ever_rounded():
    rng = np.random.default_rng(6)
    step = float(DENSITY.scale) * 2.0**-10
    on_grid = DENSITY.centre + step * rng.integers(-1_000, 1_000, (2_000, WIDTH))
    beside = on_grid + step * rng.uniform(-0.45, 0.45, on_grid.shape)
    assert DENSITY.log_densities(beside).tobytes() == DENSITY.log_densities(on_grid).tobytes()


def test_too_few_rows_of_a_class_are_refused_and_just_enough_are_not():
    rows, labels = clouds(3 * ROWS_PER_CLASS_MIN, 5)
    StudentClasses.fit(rows, labels, CLASSES)
    with pytest.raises(CalibrationInvalid, match="class 0 has 99 rows"):
        StudentClasses.fit(rows[1:], labels[1:], CLASSES)
    with pytest.raises(CalibrationInvalid, match="class 3 has 0 rows"):
        StudentClasses.fit(rows, labels, CLASSES + 1)
    with pytest.raises(CalibrationInvalid, match="classes"):
        StudentClasses.fit(rows, labels, CLASSES - 1)


def test_a_feature_that_never_changes_does_no_harm():
    rows = np.concatenate([ROWS, np.ones((len(ROWS), 2))], axis=1)
    fitted = StudentClasses.fit(rows, LABELS, CLASSES)
    assert np.isfinite(fitted.log_densities(rows)).all()
    assert (fitted.log_densities(rows).argmax(axis=1) == LABELS).mean() > 0.9


@pytest.mark.parametrize("part", ["centre", "scale", "components", "means", "whitening", "log_roots"])
def test_arrays_that_are_not_its_own_are_named(part):
    arrays = DENSITY.to_arrays("t")
    name = f"t.{part}"
    spoiled = arrays[name].copy().reshape(-1)
    spoiled[0] = np.nan
    for wrong in (None, arrays[name].astype(np.int64), spoiled.reshape(arrays[name].shape), arrays[name][None]):
        with pytest.raises(CalibrationInvalid) as error:
            StudentClasses.from_arrays(
                {other: a for other, a in arrays.items() if other != name} | ({} if wrong is None else {name: wrong}),
                "t",
            )
        assert error.value.field.startswith("t")


@given(
    st.dictionaries(
        st.sampled_from([*DENSITY.to_arrays("t")]),
        arrays(st.sampled_from([np.float32, np.float64]), array_shapes(min_dims=0, max_dims=3, max_side=4, min_side=0)),
        max_size=3,
    )
)
@settings(deadline=None, max_examples=200)
def test_any_arrays_give_a_density_or_the_named_error(spoiled):
    try:
        found = StudentClasses.from_arrays(DENSITY.to_arrays("t") | spoiled, "t")
    except CalibrationInvalid:
        return
    assert np.isfinite(found.log_densities(np.ones((2, found.features)))).all()

"""Fingerprints: what a ball holds whatever the pattern, what leads out of it, and what is refused as calibration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from defenses.accounts.similarity import CELLS_MAX, MARGIN, SHIFTS, Fingerprint, flatten, medians
from defenses.errors import CalibrationInvalid, EvidenceInvalid
from tests.watching import KEY, SIDE, around, images, watch_arrays


def fingerprint(**changed):
    return Fingerprint.from_calibration(watch_arrays(**changed), KEY)


def apart(one, other):
    """Units by which the codes of two images differ, (cells,), unmoved."""
    codes = fingerprint().codes({"image": np.stack([one, other])})[:, 0].astype(int)
    return np.abs(codes[0] - codes[1])


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(3, 9), st.integers(3, 9))))
def test_medians_are_those_of_the_neighbourhoods(pictures):
    rows, height, width = pictures.shape
    found = medians(pictures.reshape(rows, -1), width).reshape(pictures.shape)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            around_it = pictures[:, y - 1 : y + 2, x - 1 : x + 2].reshape(rows, -1)
            assert (found[:, y, x] == np.median(around_it, axis=1)).all()


@given(st.integers(0, 2**32), st.integers(0, 2**32), st.sampled_from(["blocks", "stripes", "pixels", "waves", "all"]))
def test_no_search_in_a_ball_leaves_it_whatever_its_pattern(first, second, pattern):
    image = images(1, 1)[0]

    def changed(seed):
        rng = np.random.default_rng(seed)
        if pattern == "blocks":
            return around(image, seed, 1)[0]
        line = rng.choice([-0.1, 0.1], SIDE)
        change = {
            "stripes": np.broadcast_to(line, (SIDE, SIDE)),
            "pixels": np.where(rng.random((SIDE, SIDE)) < 0.05, 0.1, 0.0),
            "waves": 0.1 * np.sin(np.outer(np.arange(SIDE), rng.random(SIDE)) + rng.random()),
            "all": np.full((SIDE, SIDE), float(rng.choice([-0.1, 0.1]))),
        }[pattern]
        return np.clip(image + change, 0, 1).astype(np.float32)

    assert apart(changed(first), changed(second)).max() <= 52


def test_wild_pixels_lead_out_of_no_ball_and_other_things_lie_outside():
    image, other = images(2, 2)
    rng = np.random.default_rng(3)
    wild = np.where(rng.random(image.shape) < 0.02, rng.integers(0, 2, image.shape), image).astype(np.float32)
    assert (np.abs(wild - image) > 0.3).sum() > 5
    assert (apart(image, wild) > 52).sum() <= 1
    assert (apart(image, other) > 52).sum() > 20


def test_moved_views_are_the_codes_of_the_moved_image():
    image = images(4, 1)[0]
    reader = fingerprint()
    views = reader.codes({"image": image[None]})[0]
    for (down, right), view in zip(SHIFTS, views, strict=True):
        moved = np.roll(image, (-down, -right), (0, 1))
        assert (reader.codes({"image": moved[None]})[0, 0] == view).all()


def test_a_row_is_coded_alike_alone_and_in_a_batch_and_is_not_written_to():
    rows = images(5, 4)
    rows.flags.writeable = False
    together = fingerprint().codes({"image": rows})
    for number in range(4):
        assert (fingerprint().codes({"image": rows[number : number + 1]})[0] == together[number]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_what_is_no_number_becomes_an_edge(value):
    rows = np.full((1, SIDE, SIDE), value, np.float32)
    codes = fingerprint().codes({"image": rows})
    assert np.isin(codes, (0, 255)).all()


def test_cells_are_secret_and_never_at_the_border():
    one, again = fingerprint(), fingerprint()
    other = Fingerprint.from_calibration(watch_arrays(), b"another key of 16 bytes or more")
    assert (one.chosen == again.chosen).all()
    assert set(one.chosen[0]) != set(other.chosen[0])
    y, x = np.divmod(one.chosen[0], SIDE)
    assert one.cells == CELLS_MAX == len(set(one.chosen[0]))
    assert min(y.min(), x.min()) >= MARGIN
    assert max(y.max(), x.max()) < SIDE - MARGIN
    assert KEY.decode() not in repr(one)


def test_numbers_without_a_picture_are_compared_one_by_one():
    reader = Fingerprint.from_calibration(
        {
            "similarity.low": np.array([0.0, -10.0, 5.0], np.float32),
            "similarity.step": np.array([1.0, 0.1, 2.0], np.float32),
            "similarity.weight": np.array([1.0, 1.0, 0.0], np.float32),
            "similarity.picture": np.zeros(0, np.int64),
            "similarity.tolerances": np.array([3, 0]),
            "similarity.allowed": np.array([0, 0]),
        },
        KEY,
    )
    codes = reader.codes({"b": np.array([[7.4, 99.0]]), "a": np.array([[200]])})
    assert codes.shape == (1, 1, 2)
    assert set(codes[0, 0].tolist()) == {200, 174}


def test_exact_hashes_tell_every_bit_and_depend_on_the_key():
    rows = images(6, 2)
    rows[1] = rows[0]
    rows[1, 3, 3] = np.nextafter(rows[1, 3, 3], np.float32(2))
    one, other = fingerprint().exact(flatten({"image": rows}))
    assert one != other
    assert 0 not in (one, other)
    elsewhere = Fingerprint.from_calibration(watch_arrays(), b"another key of 16 bytes or more")
    assert elsewhere.exact(flatten({"image": rows}))[0] != one


@pytest.mark.parametrize("inputs", [{}, {"image": np.array([["a"]], object)}, {"image": np.zeros((1, 5), np.float32)}])
def test_inputs_of_another_kind_are_refused(inputs):
    with pytest.raises(EvidenceInvalid):
        fingerprint().codes(inputs)


@pytest.mark.parametrize(
    "changed",
    [
        {"similarity_low": None},
        {"similarity_low": np.zeros(784)},
        {"similarity_low": np.full(784, np.nan, np.float32)},
        {"similarity_low": np.zeros(783, np.float32)},
        {"similarity_step": np.zeros(784, np.float32)},
        {"similarity_weight": np.full(784, -1, np.float32)},
        {"similarity_weight": np.zeros(784, np.float32)},
        {"similarity_picture": None},
        {"similarity_picture": np.array([28])},
        {"similarity_picture": np.array([4, 196])},
        {"similarity_picture": np.array([28, 27])},
        {"similarity_tolerances": np.array([52])},
        {"similarity_tolerances": np.array([52, 256])},
        {"similarity_tolerances": np.array([52.0, 52.0])},
        {"similarity_allowed": np.array([-1, 0])},
    ],
    ids=str,
)
def test_calibrations_that_mean_nothing_are_refused(changed):
    with pytest.raises(CalibrationInvalid):
        fingerprint(**changed)

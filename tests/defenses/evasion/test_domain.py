import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, floating_dtypes, integer_dtypes

from defenses.errors import EvidenceInvalid
from defenses.evasion.domain import check_domain

BOUND = st.none() | st.sampled_from([-1.0, 0.0, 0.1, 1.0, 1e6])


@given(
    st.one_of(floating_dtypes(endianness="="), integer_dtypes(endianness="=")).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    ),
    BOUND,
    BOUND,
)
def test_the_mask_is_what_a_loop_over_the_elements_says(array, low, high):
    mask = check_domain(array, low, high)
    assert mask.dtype == np.bool_
    assert mask.shape == array.shape[:1]
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            low, high = (None if bound is None else array.dtype.type(bound) for bound in (low, high))
    for inside, row in zip(mask, array, strict=True):
        wanted = all(
            np.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
            for value in row.reshape(-1)
        )
        assert inside == wanted


def test_a_bad_row_does_not_touch_its_neighbours():
    images = np.full((7, 28, 28), 0.5, np.float32)
    images[1, 3, 4] = np.nan
    images[2, 0, 0] = np.inf
    images[3, 27, 27] = -np.inf
    images[4, 5, 5] = np.nextafter(np.float32(1), np.float32(2))
    images[5, 5, 5] = -np.float32(1e-45)
    assert check_domain(images, 0.0, 1.0).tolist() == [True, False, False, False, False, False, True]


def test_the_ends_belong_to_the_range_in_the_dtype_of_the_array():
    # As float64, float32's 0.1 is above 0.1, and its 0.7 below 0.7.
    images = np.array([[0.1], [0.7]], np.float32)
    for number in (float, np.float64):
        assert check_domain(images, number(0.7), number(0.8)).tolist() == [False, True]
        assert check_domain(images, number(0.0), number(0.1)).tolist() == [True, False]


@pytest.mark.parametrize(("low", "high"), [(None, None), (0.0, None), (None, 1.0)])
def test_what_is_not_finite_is_outside_even_of_an_open_range(low, high):
    values = np.array([[0.5, 0.5], [0.5, np.nan], [0.5, np.inf], [0.5, -np.inf]], np.float32)
    assert check_domain(values, low, high).tolist() == [True, False, False, False]


def test_signalling_nans_pass_no_check_and_raise_no_warning():
    signalling = np.array([[0x7F800001]], np.uint32).view(np.float32)
    assert check_domain(signalling, None, None).tolist() == [False]


def test_rows_without_elements_have_nothing_outside():
    assert check_domain(np.zeros((3, 0)), 1.0, 2.0).tolist() == [True, True, True]


@pytest.mark.parametrize("array", [np.float32(1), np.zeros(2, np.complex64), np.array(["a"]), np.array([b"a"], object)])
def test_what_has_no_range_or_no_rows_is_refused(array):
    with pytest.raises(EvidenceInvalid):
        check_domain(np.asarray(array), 0.0, 1.0)

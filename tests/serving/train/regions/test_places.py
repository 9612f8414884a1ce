from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.train.errors import DatasetMalformed
from serving.train.regions.places import REGIONS_MAX, parse_places, split_places


def encoded(rows):
    keys = ("latitude", "longitude", "countrycode", "admin1code")
    return json.dumps({str(number): dict(zip(keys, row, strict=True)) for number, row in enumerate(rows)}).encode()


def rows_of(count, regions=4):
    rng = np.random.default_rng(0)
    return [(rng.uniform(-90, 90), rng.uniform(-180, 180), "AT", f"{number % regions:02}") for number in range(count)]


def test_places_become_directions_and_regions():
    places = parse_places(encoded([*rows_of(200), (90.0, 17.0, "XX", "9"), (0.0, 90.0, "XX", "9")]), "p")
    assert places.names == ("AT.00", "AT.01", "AT.02", "AT.03", "XX.9")
    np.testing.assert_allclose(places.directions[200:], [[0, 0, 1], [0, 1, 0]], atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(places.directions, axis=1), 1, rtol=1e-6)
    assert places.regions[200:].tolist() == [4, 4]
    assert places.regions[:8].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_smallest_regions_are_left_out():
    rows = [*rows_of(2 * REGIONS_MAX, REGIONS_MAX), (0.0, 0.0, "ZZ", "1")]
    places = parse_places(encoded(rows), "p")
    assert len(places.names) == REGIONS_MAX
    assert "ZZ.1" not in places.names
    assert len(places) == 2 * REGIONS_MAX


def test_a_tenth_is_the_test_and_no_place_is_in_both():
    places = parse_places(encoded(rows_of(500)), "p")
    train, test = split_places(places, 3)
    assert (len(train), len(test)) == (450, 50)
    both = np.concatenate([train.directions, test.directions])
    assert len(np.unique(both, axis=0)) == 500
    assert not np.array_equal(split_places(places, 4)[1].directions, test.directions)


@pytest.mark.parametrize(
    "rows",
    [
        rows_of(99),
        [*rows_of(200), (91.0, 0.0, "AT", "01")],
        [*rows_of(200), (0.0, 180.5, "AT", "01")],
        [*rows_of(200), (float("nan"), 0.0, "AT", "01")],
        [*rows_of(200), ("north", 0.0, "AT", "01")],
    ],
    ids=["few", "latitude", "longitude", "nan", "text"],
)
def test_what_is_no_list_of_places_is_named(rows):
    with pytest.raises(DatasetMalformed, match="cities"):
        parse_places(encoded(rows), "cities")


@given(st.binary(max_size=60) | st.recursive(st.none() | st.integers(), st.lists).map(lambda x: json.dumps(x).encode()))
def test_any_other_bytes_are_malformed(data):
    with pytest.raises(DatasetMalformed):
        parse_places(data, "cities")

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from serving.train.seeds import COUNTS, interval, intervals


@pytest.mark.parametrize("count", COUNTS)
def test_an_interval_is_students(count):
    values = np.random.default_rng(count).normal(size=count).tolist()
    found = interval(values)
    low, high = stats.t.interval(0.95, count - 1, np.mean(values), stats.sem(values))
    assert found["mean"] == pytest.approx((low + high) / 2)
    assert found["half"] == pytest.approx((high - low) / 2, rel=1e-3)


def test_one_value_has_no_width():
    assert interval([0.5]) == {"mean": 0.5, "half": 0.0, "values": [0.5]}


def test_each_figure_has_its_own():
    assert intervals([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0}]) == {
        "a": interval([1.0, 3.0]),
        "b": interval([2.0, 2.0]),
    }

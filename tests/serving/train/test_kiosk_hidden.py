from __future__ import annotations

import numpy as np

from serving.train.kiosk_hidden import hidden_areas, without
from serving.train.kiosk_report import ENERGIES
from serving.train.loop import LoopSettings
from tests.serving.train.test_kiosk_few import bars
from tests.serving.train.test_loop import one_thread  # noqa: F401


def test_a_hidden_class_leaves_no_row_and_no_gap():
    rows = bars(50, 0)
    kept = without(rows, 3)
    assert len(kept) == 45
    assert sorted(set(kept.labels.tolist())) == list(range(9))
    np.testing.assert_array_equal(kept.images[kept.labels == 3], rows.images[rows.labels == 4])


def test_a_class_that_looks_unlike_the_others_is_noticed():
    rows = bars(600, 0)
    rows.images[rows.labels == 9] = 255 - rows.images[rows.labels == 9]
    loop = LoopSettings(epochs=2, batch_rows=32, average_decay=0.9)
    found = hidden_areas(rows, bars(50, 1), rows, 9, loop)
    assert set(found) == set(ENERGIES)
    assert max(found.values()) > 0.95

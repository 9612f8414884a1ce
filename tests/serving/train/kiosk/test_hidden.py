from __future__ import annotations

import numpy as np

from serving.train.kiosk.hidden import WAYS, _rarity, hidden_areas, without
from serving.train.kiosk.loop import LoopSettings
from tests.serving.train.kiosk.test_few import bars
from tests.serving.train.kiosk.test_loop import one_thread  # noqa: F401  a fixture


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
    assert tuple(found) == WAYS
    assert max(found.values()) > 0.95
    assert found["neighbours"] > 0.9
    assert found["together"] > 0.95


def test_what_is_rare_among_usual_rows_scores_high_and_the_rarest_stay_in_order():
    usual = np.arange(99.0)
    scores = _rarity(usual, np.array([-1.0, 49.0, 98.0, 99.0, 500.0, 501.0]))
    np.testing.assert_allclose(np.exp(-scores), [1.0, 0.51, 0.02, 0.01, 0.01, 0.01], rtol=1e-3)
    assert (np.diff(scores) > 0).all()

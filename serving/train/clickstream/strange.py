"""Click sequences that no visitor made, for measuring what the energies notice. Nothing is trained or fitted on them.

All are windows int64 like the test rows they are made from, drawn by seed; padding and marks stay where they are:

- uniform: every event replaced by one drawn at random, as a naive robot clicks.
- popular: every event drawn as often as it occurs in the test rows: the right events in no order.
- shuffled: a window's own events in another order.
- reversed: a window's own events backwards.
- stuck: a window's last event over and over.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.train.clickstream.ecom import FIRST_EVENT, IDS

Ids = NDArray[np.int64]


def strange_sequences(ids: Ids, seed: int) -> dict[str, Ids]:
    """Return each kind by name, a row for each row of `ids`."""
    rng = np.random.default_rng([seed, 0x5E])
    events = ids >= FIRST_EVENT
    drawn = rng.choice(ids[events], ids.shape)
    return {
        "uniform": np.where(events, rng.integers(FIRST_EVENT, IDS, ids.shape), ids),
        "popular": np.where(events, drawn, ids),
        "shuffled": np.stack(
            [_reordered(row, rng.permutation(int(is_event.sum()))) for row, is_event in zip(ids, events, strict=True)]
        ),
        "reversed": np.stack(
            [_reordered(row, np.arange(int(is_event.sum()))[::-1]) for row, is_event in zip(ids, events, strict=True)]
        ),
        "stuck": np.where(events, ids[:, -1:], ids),
    }


def _reordered(row: Ids, order: NDArray[np.intp]) -> Ids:
    changed = row.copy()
    changed[row >= FIRST_EVENT] = row[row >= FIRST_EVENT][order]
    return changed

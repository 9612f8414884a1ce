"""Applications that nobody made, to measure what the energies notice. Never trained on, fitted to or calibrated with.

All are float32 (rows, features) as clients send them, one for each test row, drawn by seed:

- mixed: each feature from another row, so every column is as usual and the rows are not.
- uniform: each feature anywhere in its declared range.
- shifted: each row with its features moved one place, cut to the range of where they land: a client's columns mixed up.
- embellished: real rows with one number, drawn by chance, three times as large: a figure that was improved.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.train.payments.schema import Schema

EMBELLISHED_TIMES = 3.0


def strange_applications(schema: Schema, rows: NDArray[np.float32], seed: int) -> dict[str, NDArray[np.float32]]:
    """Return each kind by name."""
    rng = np.random.default_rng([seed, 0x57])
    tops = np.array([feature.top for feature in schema.features], np.float32)
    coded = np.array([bool(feature.levels or feature.ranks) for feature in schema.features])
    uniform = rng.random(rows.shape, dtype=np.float32) * tops
    uniform = np.where(coded, np.floor(uniform + 0.5), uniform)
    embellished = rows.copy()
    chosen = rng.choice(np.flatnonzero(~coded), len(rows))
    at = (np.arange(len(rows)), chosen)
    embellished[at] = np.where(rows[at] > 0, np.minimum(rows[at] * EMBELLISHED_TIMES, tops[chosen]), rows[at])
    return {
        "mixed": rng.permuted(rows, axis=0),
        "uniform": uniform.astype(np.float32),
        "shifted": np.minimum(np.roll(rows, 1, axis=1), tops),
        "embellished": embellished,
    }

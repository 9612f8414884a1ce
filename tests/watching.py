"""A watch over small images, with bounds as benign traffic might have them: for every test that needs one."""

from __future__ import annotations

import numpy as np

from defenses.accounts import direction
from defenses.accounts.lookup import Lookup
from defenses.accounts.observed import Asker
from defenses.accounts.similarity import Fingerprint, flatten
from defenses.accounts.watch import Watch
from defenses.accounts.window import Window, query_of

KEY = b"a key for tests, 16 bytes or more"
SIDE = 28
STARTS = np.zeros(1, np.intp)


def watch_arrays(**changed):
    """Calibration arrays; a keyword such as similarity_allowed=... replaces one, None takes it out."""
    cells = SIDE * SIDE
    arrays = {
        "similarity.low": np.zeros(cells, np.float32),
        "similarity.step": np.full(cells, 1 / 255, np.float32),
        "similarity.weight": np.ones(cells, np.float32),
        "similarity.picture": np.array([SIDE, SIDE]),
        "similarity.tolerances": np.array([52, 52]),
        "similarity.allowed": np.array([1, 0]),
        "similarity.bounds": np.array(
            [
                [0.8, 0.02, 0.28, 0.28, 0.17, 0.03],
                [0.05, 0.04, 0.01, 0.005, 0.003, 0.002],
                [0.03, 0.03, 0.002, 0.002, 0.002, 0.002],
            ]
        ),
        "direction.bounds": np.full((direction.CONTEXTS, direction.BINS), 0.3),
    }
    for name, array in changed.items():
        arrays[name.replace("_", ".", 1)] = array
    return {name: array for name, array in arrays.items() if array is not None}


def new_watch(*, key=KEY, arrays=None, **settings):
    return Watch.from_calibration(watch_arrays() if arrays is None else arrays, key=key, **settings)


def images(seed, rows):
    """Different things: no two lie in one ball."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((rows, 7, 7), np.float32)
    return np.kron(coarse, np.ones((4, 4), np.float32))


def around(image, seed, rows, radius=0.1):
    """A search: points at the edge of the ball around an image, in blocks of random sizes."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(rows):
        side = int(rng.choice([1, 2, 4, 7]))
        blocks = rng.choice([-radius, radius], (SIDE // side, SIDE // side))
        found.append(np.clip(image + np.kron(blocks, np.ones((side, side))), 0, 1))
    return np.array(found, np.float32)


def answers(rows):
    """An answer that tells the row it was made for."""
    numbers = np.asarray(rows, np.float32).reshape(len(rows), -1).mean(axis=1)
    return {"probabilities": np.column_stack([numbers, 1 - numbers]), "latent": np.outer(numbers, np.ones(8))}


def ask(watch, rows, principal="mallory", tenant="acme", now_ns=0):
    """One request of these rows."""
    return watch.observe([Asker(principal, tenant)], STARTS, {"image": rows}, answers(rows), now_ns)


READER = Fingerprint.from_calibration(watch_arrays(), KEY)


def codes(rows):
    """What is compared of each row; one call says it of all, since the next one may overwrite it."""
    return READER.units(flatten({"image": rows})).copy()


def filled(rows, answer_bytes=40):
    """A window that was asked about these rows."""
    window = Window.new(READER.cells, answer_bytes, 7)
    for units in codes(rows):
        query = query_of(window.queries + 1, 1)
        window.asked(query)
        answer = np.full(answer_bytes, window.queries % 256, np.uint8)
        window.remember(units.take(READER.chosen[0]), "alice", answer, query)
    return window


def anchor_of(window, units):
    """The one anchor in whose ball a query lies, None without."""
    found = Lookup(window, units[None], READER).inside(0)
    assert len(found) <= 1
    return found[0] if found else None

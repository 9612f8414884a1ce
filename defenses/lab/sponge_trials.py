"""Sponge inputs measured: can the values of a row make a model slow? (Shumailov et al., arXiv 2006.03463)

Rows of one value, noise, and subnormal numbers, which some processors multiply a hundred times slower, run alternately
with benign ones, one row a call. What is compared is the processor's time of the calling thread, so that what else the
machine does matters little. A kind succeeds where its 99th percentile is above RATIO_MAX times that of benign rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.lab.attack import Lab, Size, Split, Trial

FAMILY: Final = "availability"
TECHNIQUE: Final = "AML.T0034"
CALLS = {Size.SMOKE: 20, Size.FULL: 2_000}
RATIO_MAX: Final = 1.2
BENIGN: Final = "benign"


def sponges(benign: NDArray[np.float32], rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Return rows float32 (n, *shape) in [0, 1] by kind, benign ones among them."""
    shape = benign.shape
    tiny = np.finfo(np.float32).tiny
    return {
        BENIGN: benign,
        "zeros": np.zeros(shape, np.float32),
        "ones": np.ones(shape, np.float32),
        "noise": rng.random(shape, np.float32),
        "subnormal": (rng.random(shape) * tiny).astype(np.float32),
        "smallest": np.full(shape, np.float32(1e-45)),
        "benign-over-subnormal": np.maximum(benign, np.float32(tiny / 8)),
    }


def sponge_of(
    model: str, version: str, clock: Callable[[], int] = time.thread_time_ns
) -> Callable[[Lab, int], list[Trial]]:
    """Return the run: one trial a kind. `clock`: nanoseconds that this thread has used."""

    def run(lab: Lab, seed: int) -> list[Trial]:
        rng = np.random.default_rng([seed, 0x5B0])
        known = lab.model(model, version)
        kinds = sponges(lab.rows(model, Split.TEST, 50, seed).rows, rng)
        calls = CALLS[lab.size]
        spent: dict[str, list[int]] = {kind: [] for kind in kinds}
        for number in range(calls):
            for kind, rows in kinds.items():
                row = rows[number % len(rows)][None]
                began = clock()
                known.outputs(row)
                spent[kind].append(clock() - began)
        usual = _percentiles(spent.pop(BENIGN))
        return [
            _trial(f"sponge/{model}-{version}/{kind}", seed, calls, _percentiles(each), usual)
            for kind, each in spent.items()
        ]

    return run


def _percentiles(spent_ns: list[int]) -> tuple[float, float]:
    return float(np.median(spent_ns)), float(np.quantile(spent_ns, 0.99))


def _trial(name: str, seed: int, calls: int, found: tuple[float, float], usual: tuple[float, float]) -> Trial:
    median, late = (one / max(other, 1.0) for one, other in zip(found, usual, strict=True))
    return Trial(
        attack=name,
        family=FAMILY,
        technique=TECHNIQUE,
        knowledge="static",
        defended=True,
        seed=seed,
        samples=1,
        successes=int(late > RATIO_MAX),
        metrics={"median_ratio": median, "p99_ratio": late, "benign_median_us": usual[0] / 1000},
        settings={"calls": calls, "success": f"a 99th percentile of more than {RATIO_MAX} times that of benign rows"},
    )

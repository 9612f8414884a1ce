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

from defenses.lab.attack import Finding, Run, Size, Split

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


def sponge(run: Run, *, clock: Callable[[], int] = time.thread_time_ns) -> list[Finding]:
    """Return a finding a kind. `clock`: nanoseconds that this thread has used."""
    known = run.victim()
    kinds = sponges(run.rows(Split.TEST, 50).rows, np.random.default_rng([run.seed, 0x5B0]))
    calls = CALLS[run.lab.size]
    spent: dict[str, list[int]] = {kind: [] for kind in kinds}
    for number in range(calls):
        for kind, rows in kinds.items():
            row = rows[number % len(rows)][None]
            began = clock()
            known.outputs(row)
            spent[kind].append(clock() - began)
    settings = {"calls": calls, "success": f"a 99th percentile of more than {RATIO_MAX} times that of benign rows"}
    measured = {kind: (float(np.median(each)), float(np.quantile(each, 0.99))) for kind, each in spent.items()}
    usual = measured.pop(BENIGN)
    findings = []
    for kind, found in measured.items():
        median, late = (one / max(other, 1.0) for one, other in zip(found, usual, strict=True))
        metrics = {"median_ratio": median, "p99_ratio": late, "benign_median_us": usual[0] / 1000}
        findings.append(Finding(1, int(late > RATIO_MAX), metrics, settings, part=kind))
    return findings

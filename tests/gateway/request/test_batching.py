"""How long a full batch takes is measured where others start too: the best of some runs says it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from gateway.request.batching import RUNS_TIMED, time_full_batch
from serving.bundles.manifest import TensorSpec


def test_a_full_batch_takes_what_its_best_run_took():
    now_ns = [0]
    pauses_ms = [900.0, 12.5, 40.0][:RUNS_TIMED]
    seen: list[tuple[int, ...]] = []

    def infer(inputs):
        assert inputs["ids"].dtype == np.int64
        seen.append(inputs["ids"].shape)
        now_ns[0] += int(pauses_ms[len(seen) - 1] * 1e6)

    specs = (TensorSpec("ids", "INT64", (-1, 7)),)
    served = SimpleNamespace(bundle=SimpleNamespace(inputs=specs), engine=SimpleNamespace(infer=infer))
    assert time_full_batch(served, 32, SimpleNamespace(clock_ns=lambda: now_ns[0])) == 12.5
    assert seen == [(32, 7)] * RUNS_TIMED

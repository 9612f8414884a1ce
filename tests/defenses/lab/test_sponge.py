"""Sponge inputs: all in the declared range, and a model that they make slow is found."""

from __future__ import annotations

import numpy as np

from defenses.lab.attack import Run
from defenses.lab.sponge import sponge, sponges
from tests.defenses.lab.inference.fake_lab import Corners, FakeLab


def test_sponges_are_inputs_that_the_gateway_lets_in():
    rng = np.random.default_rng(0)
    benign = rng.random((3, 28, 28), np.float32)
    for kind, rows in sponges(benign, rng).items():
        assert (rows.shape, rows.dtype) == (benign.shape, np.float32), kind
        assert 0 <= rows.min() <= rows.max() <= 1, kind
    made = sponges(benign, rng)
    assert 0 < made["subnormal"].max() < np.finfo(np.float32).tiny
    assert made["smallest"].max() > 0


class Slow(Corners):
    """Takes ten times as long for rows of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0

    def outputs(self, rows):
        self.now += 10_000 if rows.min() == 1 else 1_000
        return super().outputs(rows)


def test_a_kind_that_makes_the_model_slow_is_found(tmp_path):
    lab, model = FakeLab(tmp_path), Slow()
    lab.model = lambda *_: model
    found = {one.part: one for one in sponge(Run(lab, 0, "kiosk", "1", "sponge"), clock=lambda: model.now)}
    assert {name for name, one in found.items() if one.successes} == {"ones"}
    assert found["ones"].metrics["p99_ratio"] == 10
    assert found["subnormal"].metrics["median_ratio"] == 1

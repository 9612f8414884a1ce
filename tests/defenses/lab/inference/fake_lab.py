"""A lab without a gateway and without a data set: blobs of light, a linear model of them, an oracle in memory."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from defenses.budget.calibration import ConformalCalibration
from defenses.budget.hardening import HardeningRule, harden
from defenses.lab.attack import Answers, Sample, Size, Split

CLASSES, SIDE = 4, 28
_PLACES = [(7, 7), (7, 20), (20, 7), (20, 20)]


def blobs(count: int, seed: int) -> Sample:
    """Images of a light in one of four corners, in noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count)
    rows = rng.random((count, SIDE, SIDE)) * 0.3
    for row, label in zip(rows, labels, strict=True):
        down, right = _PLACES[label]
        row[down - 4 : down + 4, right - 4 : right + 4] += 0.6
    return Sample(rows.clip(0, 1).astype(np.float32), labels.astype(np.int64))


@dataclass
class Corners:
    """Says which corner is lightest."""

    name: str = "kiosk"
    version: str = "1"
    classes: int = CLASSES

    def outputs(self, rows):
        light = np.stack([rows[:, d - 4 : d + 4, r - 4 : r + 4].mean(axis=(1, 2)) for d, r in _PLACES], axis=1)
        likely = np.exp(20 * (light - light.max(axis=1, keepdims=True)))
        return {"probabilities": (likely / likely.sum(axis=1, keepdims=True)).astype(np.float32)}

    def arrays(self):
        return {"scores": ConformalCalibration.from_scores(np.linspace(0, 1, 1_000)).scores}

    def module(self):
        import torch

        def run(images):
            light = torch.stack([images[:, d - 4 : d + 4, r - 4 : r + 4].mean(dim=(1, 2)) for d, r in _PLACES], dim=1)
            return {"probabilities": torch.softmax(20 * light, dim=1)}

        return run


class MemoryOracle:
    accounts = 1

    def __init__(self, model, *, defended: bool) -> None:
        self.model, self.defended, self.asked = model, defended, 0

    def ask(self, rows, account=0):
        self.asked += len(rows)
        likely = self.model.outputs(rows)["probabilities"]
        if self.defended:
            likely = harden(likely, HardeningRule(2, 1.0, 3))
        return Answers(likely, likely.argmax(axis=1).astype(np.int64), np.ones(len(rows), np.bool_))


class FakeLab:
    size = Size.SMOKE

    def __init__(self, directory: Path) -> None:
        self.directory, self.oracles = directory, []

    def model(self, name, version):
        return Corners(name, version)

    def rows(self, model, split, count, seed):
        return blobs(count, [*Split].index(split) * 1_000 + seed)

    @contextmanager
    def oracle(self, name, version, *, defended, accounts=1, tenants=1, changes=None):
        self.oracles.append(MemoryOracle(self.model(name, version), defended=defended))
        yield self.oracles[-1]

    def tell(self, what, done, total):
        pass

"""Models and rows for the lab: verified bundles in this process, and the data they were made and measured with."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from defenses.lab.attack import Sample, Split
from gateway.tools.samples import sample_images
from serving.bundles.bundle import load_bundle
from serving.engines.inprocess import InProcessEngine
from serving.train.errors import DatasetMissing
from serving.train.kiosk import data

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

BATCH_ROWS = 500
SPLIT_SEED = 0  # of the committed kiosk bundles
ORDER_SEED = 0x1AB


class NoRows(Exception):
    """The data is not on this machine. The message says what to do."""


class BundleModel:
    """Implements Model over a bundle."""

    def __init__(self, directory: Path, key: Path) -> None:
        """Raises BundleRejected, GraphRejected."""
        self._directory, self._key = directory, key
        self._bundle = load_bundle(directory, [key])
        self.name, self.version = self._bundle.name, self._bundle.version
        self.classes = len(self._bundle.class_names)
        self.tensor = self._bundle.inputs[0].name

    @cached_property
    def _engine(self) -> InProcessEngine:
        return InProcessEngine(self._bundle)

    def outputs(self, rows: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        parts = [
            self._engine.infer({self.tensor: np.ascontiguousarray(rows[start : start + BATCH_ROWS])})
            for start in range(0, len(rows), BATCH_ROWS)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        return self._bundle.calibration

    @cached_property
    def _module(self) -> Any:
        from serving.train.kiosk.module import load_kiosk_module  # noqa: PLC0415  loads torch

        return load_kiosk_module(self._directory, [self._key])

    def module(self) -> Any:
        return self._module


class Rows:
    """Rows by split, in one order that never changes: seeds take slices of it one after the other."""

    def __init__(self, data: Path | None) -> None:
        self._data = data
        self._parts: dict[Split, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}

    def draw(self, model: str, split: Split, count: int, seed: int) -> Sample:
        """Return the slice of this seed; around the end it begins anew.

        Raises:
            NoRows: of another model than the kiosk, or of a split that is not on this machine.
        """
        if model != "kiosk":
            raise NoRows(f"the lab has no rows for {model}")
        images, labels = self._part(split)
        order = np.random.default_rng(ORDER_SEED).permutation(len(labels))
        chosen = order[np.arange(seed * count, (seed + 1) * count) % len(order)][: len(order)]
        return Sample(images[chosen].astype(np.float32) / np.float32(255), labels[chosen].astype(np.int64))

    def _part(self, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        if split not in self._parts:
            self._parts |= self._load(split)
        return self._parts[split]

    def _load(self, split: Split) -> dict[Split, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        try:
            whole = data.load_fashion_mnist(self._data)
        except DatasetMissing as problem:
            if split is Split.TEST and self._data is None:
                few = safetensors.numpy.load(sample_images().read_bytes())
                return {Split.TEST: (few["images"], few["labels"])}
            raise NoRows(str(problem)) from problem
        parts = data.split(whole.pool, SPLIT_SEED)
        found = {
            Split.TRAIN: parts.train,
            Split.DEVELOP: parts.fit,
            Split.CALIBRATE: parts.calibrate,
            Split.TEST: whole.test,
        }
        return {name: (part.images, part.labels) for name, part in found.items()}

"""An engine without a runtime, for tests of what stands above engines: numpy only, each row by itself, exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bundles.bundle import Bundle
from serving.bundles.manifest import DATATYPES
from serving.errors import BackendFailed, EngineClosed


class FakeEngine:
    """Answers every declared output with the mean of the row's inputs, so that a reply shows whose row it was."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._model = f"{bundle.name}/{bundle.version}"
        self._closed = False

    def infer(self, inputs: Mapping[str, NDArray[Any]], /) -> Mapping[str, NDArray[Any]]:
        if self._closed:
            raise EngineClosed(self._model)
        rows = self._rows(inputs)
        flat = np.concatenate([inputs[spec.name].reshape(rows, -1) for spec in self._bundle.inputs], axis=1)
        # By row: numpy adds in another order for another number of rows, and then rows would differ in the last bit.
        means = np.array([row.mean(dtype=np.float64) for row in flat])
        return {
            spec.name: np.broadcast_to(means.reshape(rows, *[1] * (len(spec.shape) - 1)), (rows, *spec.shape[1:]))
            .astype(DATATYPES[spec.datatype])
            .copy()
            for spec in self._bundle.outputs
        }

    def ready(self) -> bool:
        return not self._closed

    def close(self) -> None:
        self._closed = True

    def _rows(self, inputs: Mapping[str, NDArray[Any]]) -> int:
        if inputs.keys() != {spec.name for spec in self._bundle.inputs}:
            raise BackendFailed(self._model, "not the declared inputs")
        rows = len(next(iter(inputs.values())))
        for spec in self._bundle.inputs:
            array = inputs[spec.name]
            if array.shape != (rows, *spec.shape[1:]) or array.dtype != DATATYPES[spec.datatype] or rows == 0:
                raise BackendFailed(self._model, f"{spec.name} is not as declared")
        return rows

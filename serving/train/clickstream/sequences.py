"""What sequence models learn from and are measured on, whatever the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

NO_TARGET = -1


@dataclass(frozen=True, slots=True)
class Sequences:
    """What a model learns from: ids int64 (n, L), and after each id the class that followed, or NO_TARGET."""

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


class Rows(Protocol):
    """What a model is measured on: ids int64 (n, L) and the class that followed the last, int64 (n,)."""

    @property
    def ids(self) -> NDArray[np.int64]: ...
    @property
    def labels(self) -> NDArray[np.int64]: ...

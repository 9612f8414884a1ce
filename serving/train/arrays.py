"""The numbers of a network as numpy has them, by name."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn


def arrays_of(net: nn.Module) -> dict[str, NDArray[Any]]:
    """Return them as they are, C-contiguous: what a bundle keeps."""
    return {name: value.detach().contiguous().numpy() for name, value in net.state_dict().items()}


def doubles_of(net: nn.Module) -> dict[str, NDArray[np.float64]]:
    """Return them as float64: what a graph is computed from."""
    return {name: value.detach().double().contiguous().numpy() for name, value in net.state_dict().items()}

"""What a screen is: rows of evidence in, one number a row out.

A screen scores; it does not decide (policy does), does not know a rate (calibration does), keeps no clock and does
no IO. The contract, checked over every screen by tests/contracts/test_screen.py:

1. `score` returns float64 of shape (rows,), higher = more suspicious, never NaN, for any floating-point outputs of
   the model, infinities and NaN among them (those count as most suspicious).
2. A row's score depends on that row alone: scored in a batch or by itself it is the same to the bit.
3. The same evidence gives the same score, always: no hidden state, no randomness. It is safe to call from several
   threads at once, and the evidence is not written to.
4. Evidence that lacks an array, or has it in a wrong shape, raises EvidenceInvalid; nothing else is raised.
5. `digest` changes when anything that can change a score or its p-value changes: parameters, calibration, code version.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What is known about a batch after the model ran; the leading axis of every array is the rows, in one order."""

    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]


class Screen(Protocol):
    @property
    def name(self) -> str:
        """Short and stable: the key in the policy, the record and the metrics."""
        ...

    @property
    def technique(self) -> str:
        """The MITRE ATLAS technique that a high score points at, such as AML.T0015."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the screen's parameters and its calibration."""
        ...

    def score(self, evidence: Evidence) -> NDArray[np.float64]:
        """Score each row; see the module for the contract."""
        ...

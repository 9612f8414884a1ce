"""What a watch is asked, and what it says: of a batch, and of an account to an operator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Asker:
    principal: str
    tenant: str


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What a batch says about its askers.

    scores, p_values: per stateful screen, float64 (rows,); a higher score is more suspicious.
    log_evidence: float64 (rows,), natural logarithm of the evidence against the asker after that row, its group's part
        included; -inf is none.
    outcomes: per stateful screen, int64 (rows, 2): the context a row was bet on in and what came of it, -1 where there
        was no bet; what bounds are fitted to. Of "returns" too, where these are bet on.
    anchors: row -> the outputs, one row each, that were given to the query it repeats; only where that was the
        asker's own, or its group's.
    """

    scores: Mapping[str, NDArray[np.float64]]
    p_values: Mapping[str, NDArray[np.float64]]
    log_evidence: NDArray[np.float64]
    outcomes: Mapping[str, NDArray[np.int64]]
    anchors: Mapping[int, Mapping[str, NDArray[Any]]]

    def part(self, first: int, end: int) -> "Observed":
        """Return what it says of the rows from `first` up to, but not including, `end`."""
        return Observed(
            {name: scores[first:end] for name, scores in self.scores.items()},
            {name: p_values[first:end] for name, p_values in self.p_values.items()},
            self.log_evidence[first:end],
            {name: outcomes[first:end] for name, outcomes in self.outcomes.items()},
            {row - first: answer for row, answer in self.anchors.items() if first <= row < end},
        )


class AccountView(NamedTuple):
    """An account as an operator sees it; `log_evidence` in natural logarithm, -inf where there is none."""

    principal: str
    tenant: str
    group: str
    queries: int
    repeats: int
    log_evidence: float
    seen_ns: int

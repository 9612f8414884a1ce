"""S2 returns: does an account come back, long after, to a thing that is like nothing else it asks about?

A search that goes round among thousands of images, or hides between innocent questions, repeats each of its things so
seldom that bursts and counts (`account.Bet`) do not show it. It comes back all the same. What benign accounts ask comes
back by likeness alone (a plain pair of trousers looks like many others), and what looks alike has many neighbours. So a
*return* is a query in the ball of an anchor of the account's own, or its group's, that

- was met last at least AGE queries of the tenant ago, and
- lies alone: fewer than OTHERS further anchors differ from the query in APART_SHARE of its cells or fewer.

That is the ratio test of feature matching (Lowe, IJCV 60(2), 2004, section 7.1) with the further neighbours as witness.

Where a window is full, every query is a bet on it, against an upper bound of how often benign streams return. So that
what was asked long ago is remembered, SLOW of a window's places give way a SLOWER-th as often as the others.

An account whose things do come back (the same article before the same camera, the next day) returns all the time: so
this is in use only where the calibration was told how often that happens, by the array "similarity.returns".
Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from defenses.accounts import similarity
from defenses.accounts.account import Bet
from defenses.errors import CalibrationInvalid

NAME: Final = "returns"
BOUND: Final = f"{similarity.NAME}.{NAME}"
AGE: Final = 64  # queries
OTHERS: Final = 4
APART_SHARE: Final = 0.1  # of the cells
SLOW: Final = 100  # places of a window
SLOWER: Final = 16
SHARES: Final = (0.01, 0.03, 0.2)  # which part of an attacker's queries are returns, a bet each
BETS: Final = len(SHARES)


@dataclass(frozen=True, slots=True)
class Returns:
    """Bets on returns. Build it with `from_calibration`."""

    log_e: tuple[list[float], list[float]]  # of a query that is none, and of a return; a number a bet

    @classmethod
    def from_calibration(cls, arrays: Mapping[str, NDArray[Any]]) -> Self | None:
        """Read "similarity.returns", float64 (1,): how often benign queries return, at most. None where it is absent.

        CalibrationInvalid where it is no probability.
        """
        bound = arrays.get(BOUND)
        if bound is None:
            return None
        if bound.dtype != np.float64 or bound.shape != (1,) or not 0 < bound[0] < 1:
            raise CalibrationInvalid(BOUND, "float64 (1,) between 0 and 1 wanted")
        log_e = Bet.against(np.array([[bound[0], bound[0]]]), [(share, (1.0,)) for share in SHARES]).log_e
        return cls((log_e[:, 0, 0].tolist(), log_e[:, 0, 1].tolist()))


def lies_alone(apart: NDArray[np.uint8], cells: int) -> bool:
    """Return whether a query lies alone: `apart` uint8 (anchors,), in how many cells the further anchors differ."""
    near = int(np.count_nonzero(apart <= cells * APART_SHARE))
    return near < OTHERS

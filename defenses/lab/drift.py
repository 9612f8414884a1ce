"""How soon drift is seen, and how often where there is none: streams of rows through the detectors of S8.

A stream is p-values, confidences and roughness, row by row, drawn with replacement from rows that a model and its
screen have judged; where they come from is the caller's. Nothing here decides: it is said at which row a detector first
spoke.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.drift.adwin import Adwin
from defenses.drift.martingale import ALARM, ConformalMartingale
from defenses.drift.roughness import RoughnessWindow

PORTION_ROWS = 8  # rows a batch: what a gateway under light load has
BEFORE_PORTION_ROWS = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """p-values, top probabilities and roughness of rows, float64 (rows,) each."""

    p_values: NDArray[np.float64]
    scores: NDArray[np.float64]
    roughness: NDArray[np.float64]

    def drawn(self, rows: int, rng: np.random.Generator) -> Judged:
        """Draw rows with replacement."""
        chosen = rng.integers(len(self.p_values), size=rows)
        return Judged(self.p_values[chosen], self.scores[chosen], self.roughness[chosen])


@dataclass(slots=True)
class Spoke:
    """The row at which each detector first spoke, None: not at all."""

    martingale: int | None = None
    adwin_p_values: int | None = None
    adwin_scores: int | None = None
    adwin_roughness: int | None = None

    @property
    def first(self) -> int | None:
        """When any of them first spoke."""
        rows = [getattr(self, word) for word in self.__slots__]
        return min((each for each in rows if each is not None), default=None)


def run_stream(streams: list[Judged], calibration_rows: int, portion_rows: int = PORTION_ROWS) -> list[Spoke]:
    """Feed streams one after the other to the same detectors; rows of `Spoke` count from the beginning of each.

    Only the last stream comes in portions of `portion_rows`, so only there rows are exact to that. A detector that
    spoke in an earlier stream may speak again in the next: a false alarm does not hide a true one.
    """
    martingale = ConformalMartingale(calibration_rows)
    windows: dict[str, Adwin | RoughnessWindow] = {"adwin_p_values": Adwin(), "adwin_scores": Adwin()}
    windows["adwin_roughness"] = RoughnessWindow()
    found = []
    for number, stream in enumerate(streams, 1):
        spoke, before = Spoke(), {word: window.cuts for word, window in windows.items()}
        size = portion_rows if number == len(streams) else BEFORE_PORTION_ROWS
        for begin in range(0, len(stream.p_values), size):
            part = slice(begin, begin + size)
            end = min(begin + size, len(stream.p_values))
            martingale.peak = 0.0
            martingale.add(stream.p_values[part])
            if spoke.martingale is None and martingale.peak > ALARM:
                spoke.martingale = end
            for word, values in zip(windows, (stream.p_values, stream.scores, stream.roughness), strict=True):
                windows[word].add(values[part])
                if getattr(spoke, word) is None and windows[word].cuts > before[word]:
                    setattr(spoke, word, end)
        found.append(spoke)
    return found


def first_words(spoken: list[int | None]) -> tuple[int, float, float]:
    """Return in how many runs a detector spoke, and the median and the 95th percentile of the rows until then."""
    rows = [each for each in spoken if each is not None]
    if not rows:
        return 0, float("nan"), float("nan")
    # A run in which it never spoke is later than all others.
    late = np.sort(np.array([float("inf") if each is None else float(each) for each in spoken]))
    return len(rows), float(late[(len(late) - 1) // 2]), float(late[int(0.95 * (len(late) - 1))])

"""Refusals without a record of their own: counted by caller and reason, and written as one entry a second.

Those of strangers always; of a known caller those that took nothing from his limits, such as RATE_LIMITED itself,
beyond SINGLE_MAX in a second and process. If each had its record, whoever is refused often enough could fill the disk,
and then nobody is served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

SINGLE_MAX = 10


class Sums:
    """What is not written yet, by what entries say of a caller (strangers: ""), and how many each has had lately."""

    def __init__(self) -> None:
        self.waiting: dict[str, Counter[str]] = {}
        self._refusals: Counter[str] = Counter()

    def seen(self, caller: str) -> int:
        """Note a refusal of a known caller; returns how many there were since the last turn."""
        self._refusals[caller] += 1
        return self._refusals[caller]

    def add(self, auth_json: str, reasons: Mapping[str, int]) -> None:
        """Count refusals of a caller."""
        self.waiting.setdefault(auth_json, Counter()).update(reasons)

    def turn(self) -> dict[str, Counter[str]]:
        """Begin another second; returns what has to be written of the last one."""
        self._refusals.clear()
        waiting, self.waiting = self.waiting, {}
        return waiting

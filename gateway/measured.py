"""What a bundle says was measured when its screens were calibrated, for the metrics; no decision rests on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class Rate(msgspec.Struct):
    """How many of the held-out rows were flagged."""

    rate: float


class OperatingPoint(msgspec.Struct):
    """A level of p, and the false-positive rate that was measured at it."""

    level: float
    measured: Rate


class ScreenReport(msgspec.Struct):
    """One screen's part of the calibration report; what is not needed here is left out."""

    operating_points: list[OperatingPoint]


def measured_fpr(report: Mapping[str, Any], screen: str, level: float) -> float | None:
    """Return the false-positive rate measured at this level of p, from a manifest's `calibration_report`.

    Between two levels it is that of the higher one, which flags all that the lower one does. None where none is as high
    and where the report does not say.
    """
    try:
        points = msgspec.convert(report.get(screen), ScreenReport).operating_points
    except msgspec.ValidationError:
        return None
    high_enough = [point for point in points if point.level >= level]
    return min(high_enough, key=lambda point: point.level).measured.rate if high_enough else None

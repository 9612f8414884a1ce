"""What a bundle says was measured when its screens were calibrated, for the metrics; no decision rests on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class Rate(msgspec.Struct):
    """How many of the held-out rows were flagged, and between which bounds the true rate lies."""

    rate: float
    interval: tuple[float, float] | None = None


class OperatingPoint(msgspec.Struct):
    """A level of p, and the false-positive rate that was measured at it."""

    level: float
    measured: Rate


class ScreenReport(msgspec.Struct):
    """One screen's part of the calibration report; what is not needed here is left out."""

    operating_points: list[OperatingPoint]


class Measured(NamedTuple):
    """The rate measured at a level of p, and its bounds; each None where nothing says it."""

    rate: float | None = None
    low: float | None = None
    high: float | None = None


def measured_fpr(report: Mapping[str, Any], screen: str, level: float) -> Measured:
    """Return the false-positive rate measured at this level of p, from a manifest's `calibration_report`.

    Between two levels the rate and its upper bound are those of the higher one, which flags all that the level does;
    the lower bound is that of the lower one, all of whose rows the level flags.
    """
    try:
        points = msgspec.convert(report.get(screen), ScreenReport).operating_points
    except msgspec.ValidationError:
        return Measured()
    above = min((point for point in points if point.level >= level), key=by_level, default=None)
    below = max((point for point in points if point.level <= level), key=by_level, default=None)
    return Measured(
        rate=None if above is None else above.measured.rate,
        low=None if below is None or below.measured.interval is None else below.measured.interval[0],
        high=None if above is None or above.measured.interval is None else above.measured.interval[1],
    )


def by_level(point: OperatingPoint) -> float:
    """Return what operating points are ordered by."""
    return point.level

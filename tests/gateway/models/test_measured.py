"""The calibrated false-positive rate is what was measured, never what was asked for."""

from __future__ import annotations

import json

import pytest

from defenses.budget.policy import Mode, calibrated_rule
from defenses.screens.evidence import load_evidence
from gateway.models.measured import measured_fpr
from gateway.tools.samples import bundles_directory
from serving.bundles.bundle import load_bundle

POINTS = [
    {"level": level, "measured": {"rate": rate, "rows": 100, "interval": [rate - 0.002, rate + 0.003]}}
    for level, rate in ((0.05, 0.04), (0.01, 0.006))
]
REPORT = {"evidence": {"operating_points": POINTS}}


@pytest.mark.parametrize(
    ("level", "rate", "low", "high"),
    [
        (0.0, 0.006, None, 0.009),
        (0.001, 0.006, None, 0.009),
        (0.01, 0.006, 0.004, 0.009),
        (0.010001, 0.04, 0.004, 0.043),
        (0.05, 0.04, 0.038, 0.043),
        (0.050001, None, 0.038, None),
    ],
)
def test_rate_and_upper_bound_of_the_next_level_above_and_lower_bound_of_the_next_below(level, rate, low, high):
    assert measured_fpr(REPORT, "evidence", level) == pytest.approx((rate, low, high))


def test_a_report_without_intervals_has_the_rate_alone():
    points = [{"level": 0.01, "measured": {"rate": 0.006}}]
    assert measured_fpr({"evidence": {"operating_points": points}}, "evidence", 0.01) == (0.006, None, None)


@pytest.mark.parametrize(
    "report",
    [{}, {"other": REPORT["evidence"]}, {"evidence": None}, {"evidence": {}}, {"evidence": {"operating_points": [{}]}}],
)
def test_a_report_that_does_not_say(report):
    assert measured_fpr(report, "evidence", 0.01) == (None, None, None)


@pytest.mark.parametrize("point", [0, 1, 2])
def test_the_committed_bundle_has_a_rate_for_each_level_it_was_measured_at(point):
    root = bundles_directory()
    bundle = load_bundle(root / "kiosk/1", [root / "stockade-release.pub"])
    report = json.loads((root / "kiosk/1/manifest.json").read_text())["calibration_report"]
    measured = report["evidence"]["operating_points"][point]
    calibration = load_evidence(bundle.calibration).calibration
    rule = calibrated_rule(Mode.SHADOW, calibration, flag_fpr_max=measured["fpr_max"], refuse_fpr_max=0.0)
    found = measured_fpr(bundle.manifest["calibration_report"], "evidence", rule.flag_alpha)
    assert found == (measured["measured"]["rate"], *measured["measured"]["interval"])

"""The metrics page of a host says what is so: of workers, certificates and screens."""

from __future__ import annotations

import json

from gateway.tools.samples import bundles_directory
from tests.e2e.running import until


def test_the_page_counts_workers_only_and_names_certificates_by_role(stand):
    assert stand.counted("stockade_build_info") == 1
    assert stand.counted("stockade_policy_info", digest=stand.facts["policy"]) == 1
    roles = {
        dict(has)["certificate"] for name, has in stand.series() if name == "stockade_cert_expiry_timestamp_seconds"
    }
    assert roles == {"server", "client_ca"}


def test_the_calibrated_rate_is_what_was_measured(stand):
    manifest = json.loads((bundles_directory() / "kiosk/1/manifest.json").read_text())
    points = manifest["calibration_report"]["evidence"]["operating_points"]
    level = stand.counted("stockade_screen_threshold", model="kiosk", screen="evidence")
    (rate,) = [point["measured"]["rate"] for point in points if point["level"] == level]
    assert stand.counted("stockade_screen_fpr_calibrated", model="kiosk", screen="evidence") == rate != level


def test_calls_without_room_in_the_ring_are_on_the_page(stand):
    until(lambda: "stockade_inflight_ring_full_total 0.0" in stand.page(), "the count is not there")

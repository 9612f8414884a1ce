"""What `bench screens` says of what it measured."""

from __future__ import annotations

import pytest

from gateway.tools.bench.screens import Round, summary


def test_a_report_has_medians_over_rounds_and_what_is_kept_of_the_throughput():
    without = [Round(rps, [2_000.0], [200.0], [20.0]) for rps in (900.0, 1_000.0, 2_000.0)]
    using = [Round(800.0, [4_000.0], [each], [each / 10, each / 10, each]) for each in (900.0, 1_000.0, 5_000.0)]
    report = summary({"without": without, "with": using})
    assert report["kept"] == pytest.approx(0.8)
    assert report["rounds"] == len(using)
    assert report["with"]["p50_ms"] == pytest.approx(4.0)
    assert report["with"]["screen_p50_us"] == pytest.approx(1_000.0)
    assert report["with"]["shared_p50_us"] == pytest.approx(100.0)
    assert report["with"]["shared_p99_us"] == pytest.approx(100 + 0.98 * 900)

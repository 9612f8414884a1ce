import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from gateway.tools.bench.measure import Cell
from gateway.tools.bench.report import RATIOS, RPS_KEYS, as_json, as_table
from gateway.tools.bench.targets import TARGETS

CELL = Cell(
    rps=1000.0,
    p50_ms=1.0,
    p99_ms=2.0,
    cpu_us=300.0,
    half_load_rps=500.0,
    half_load_p50_ms=0.5,
    half_load_p99_ms=1.5,
    foreign_cores=0.1,
)
IN_FLIGHT = (1, 32, 256)


def cells(**rps):
    """The same rounds at every number in flight."""
    rounds = {name: [replace(CELL, rps=float(value)) for value in values] for name, values in rps.items()}
    return {name: dict.fromkeys(IN_FLIGHT, each) for name, each in rounds.items()}


def test_a_figure_is_the_median_of_its_rounds_and_the_spread_stands_beside_it():
    report = as_json(cells(protected=(900, 4000, 1000)), IN_FLIGHT, {})
    assert report["protected_rps"] == {"1": 1000.0, "32": 1000.0, "256": 1000.0}
    assert report["details"]["protected"]["256"]["rps"] == {
        "median": 1000.0,
        "min": 900.0,
        "max": 4000.0,
        "rounds": [900.0, 4000.0, 1000.0],
    }


def test_a_ratio_is_the_quotient_of_the_figures_shown():
    report = as_json(cells(protected=(4000, 4100), ray_proxy=(400, 410)), IN_FLIGHT, {})
    shown = report["protected_rps"]["256"] / report["ray_proxy_rps"]["256"]
    assert report["protected_over_ray"]["256"] == pytest.approx(shown)


def test_latency_with_one_in_flight_over_ray_stands_beside_the_proxys():
    measured = cells(ray_engine=(1,), ray_model=(1,))
    measured["ray_model"] = {each: [replace(CELL, p50_ms=2.5)] for each in IN_FLIGHT}
    report = as_json(measured, IN_FLIGHT, {})
    assert (report["p50_ms_1_ray_engine"], report["p50_ms_1_ray_model"]) == (1.0, 2.5)


def test_what_was_not_measured_is_null():
    report = as_json(cells(protected=(1,)), IN_FLIGHT, {"skipped": {"triton": "not installed"}})
    assert report["triton_rps"] == {"1": None, "32": None, "256": None}
    assert report["protected_over_triton"] == {"1": None, "32": None, "256": None}
    assert report["p50_ms_1_tls"] is None
    assert report["p50_ms_1_ray_engine"] is None
    assert report["skipped"] == {"triton": "not installed"}


def test_the_keys_that_others_read_are_there():
    report = as_json({}, IN_FLIGHT, {})
    assert {
        "protected_rps",
        "protected_tls_rps",
        "unprotected_rps",
        "echo_rps",
        "ray_proxy_rps",
        "mlserver_rps",
        "triton_rps",
        "protected_cpu_us",
        "p50_ms_1",
        "p99_ms_half_load",
        "protected_over_ray",
        "protected_over_mlserver",
        "protected_over_triton",
        "on_over_off",
    } <= set(report)
    json.dumps(report)


def test_every_name_in_the_report_is_a_target():
    assert set(RPS_KEYS) == set(TARGETS)
    assert {name for pair in RATIOS.values() for name in pair} <= set(TARGETS)


def test_the_table_fits_a_terminal_and_leaves_out_what_was_not_measured():
    console = Console(width=80, record=True, file=StringIO())
    measured = cells(**{name: (12_340,) for name in TARGETS if name != "echo"})
    console.print(as_table(measured, IN_FLIGHT, {name: target.title for name, target in TARGETS.items()}))
    text = console.export_text()
    for name, target in TARGETS.items():
        assert (target.title in text) is (name != "echo")
    assert text.count("12,340") == 3 * (len(TARGETS) - 1)

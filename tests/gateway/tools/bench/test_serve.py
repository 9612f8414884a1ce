import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from gateway.tools.bench import peers
from gateway.tools.bench.machine import h2load_missing
from gateway.tools.bench.serve import FIGURES, IN_FLIGHT, RATIOS, Cell, Plan, as_json, as_table, measure_all
from gateway.tools.bench.targets import TARGETS, Place
from gateway.tools.samples import bundles_directory

needs_h2load = pytest.mark.skipif(h2load_missing() is not None, reason=str(h2load_missing()))


def plan(tmp_path, *targets, rounds=1):
    return Plan(
        targets=targets,
        rounds=rounds,
        seconds=0.3,
        warm_up_s=0.2,
        root=Place(tmp_path, bundles_directory(), tmp_path / "peers", "no network of its own"),
    )


@needs_h2load
def test_a_short_run_measures_the_echo_and_skips_what_is_not_installed(tmp_path):
    steps = []
    results = measure_all(plan(tmp_path, "echo", "triton", rounds=2), lambda text, cells: steps.append((text, cells)))
    assert {each: len(rounds) for each, rounds in results.cells["echo"].items()} == {1: 2, 32: 2, 256: 2}
    assert all(cell.rps > 0 and cell.cpu_us > 0 for rounds in results.cells["echo"].values() for cell in rounds)
    assert "bench peers --install" in results.skipped["triton"]
    assert results.failed == {}
    assert sum(cells for _text, cells in steps) == 12


@needs_h2load
def test_a_target_that_does_not_start_fails_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "script", lambda name: tmp_path / name)
    results = measure_all(plan(tmp_path, "echo", rounds=2), lambda _text, _cells: None)
    assert results.cells == {}
    assert "echo.py" in results.failed["echo"]


@needs_h2load
def test_the_verb_writes_a_report(measured, tmp_path):
    written, shown = measured(
        "serve", "--targets", "echo", "--rounds", "1", "--seconds", "0.2", "--workspace", str(tmp_path)
    )
    assert "grpc.aio echo" in shown
    assert written["echo_rps"]["256"] > 0
    assert written["protected_over_ray"]["256"] is None
    shapes = {"1": "1 connections x 1", "32": "4 connections x 8", "256": "8 connections x 32"}
    assert written["method"]["in_flight"] == shapes
    assert set(written["details"]) == {"echo"}
    assert "cores" in written["machine"]
    assert written["versions"]["grpcio"]


@needs_h2load
@pytest.mark.slow
def test_our_gateway_is_measured_in_each_of_its_settings(measured, tmp_path):
    targets = ("protected", "protected_tls", "unprotected")
    options = ["--rounds", "1", "--seconds", "0.3", "--workspace", str(tmp_path)]
    report, _ = measured("serve", "--targets", ",".join(targets), *options)
    assert [target for target in targets if not report[f"{target}_rps"]["256"] > 0] == []


def test_a_target_that_does_not_exist_is_named(bench, capsys):
    assert bench("serve", "--targets", "echo,tensorflow") == 2
    assert "tensorflow" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--rounds", "0"], ["--seconds", "0.05"], ["--seconds", "nan"], ["--seconds", "3601"]]
)
def test_a_plan_has_limits(bench, arguments, capsys):
    with pytest.raises(SystemExit):
        bench("serve", *arguments)
    assert "is not a" in capsys.readouterr().err


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


def cells(**rps):
    """The same rounds at every number in flight."""
    rounds = {name: [replace(CELL, rps=float(value)) for value in values] for name, values in rps.items()}
    return {name: dict.fromkeys(IN_FLIGHT, each) for name, each in rounds.items()}


def test_a_figure_is_the_median_of_its_rounds_and_the_spread_stands_beside_it():
    report = as_json(cells(protected=(900, 4000, 1000)), {})
    assert report["protected_rps"] == {"1": 1000.0, "32": 1000.0, "256": 1000.0}
    assert report["details"]["protected"]["256"]["rps"] == {
        "median": 1000.0,
        "min": 900.0,
        "max": 4000.0,
        "rounds": [900.0, 4000.0, 1000.0],
    }


def test_a_ratio_is_the_quotient_of_the_figures_shown():
    report = as_json(cells(protected=(4000, 4100), ray_proxy=(400, 410)), {})
    shown = report["protected_rps"]["256"] / report["ray_proxy_rps"]["256"]
    assert report["protected_over_ray"]["256"] == pytest.approx(shown)


def test_latency_with_one_in_flight_over_ray_stands_beside_the_proxys():
    measured = cells(ray_engine=(1,), ray_model=(1,))
    measured["ray_model"] = {each: [replace(CELL, p50_ms=2.5)] for each in IN_FLIGHT}
    report = as_json(measured, {})
    assert (report["p50_ms_1_ray_engine"], report["p50_ms_1_ray_model"]) == (1.0, 2.5)


def test_what_was_not_measured_is_null():
    report = as_json(cells(protected=(1,)), {"skipped": {"triton": "not installed"}})
    assert report["triton_rps"] == {"1": None, "32": None, "256": None}
    assert report["protected_over_triton"] == {"1": None, "32": None, "256": None}
    assert report["p50_ms_1_tls"] is None
    assert report["p50_ms_1_ray_engine"] is None
    assert report["skipped"] == {"triton": "not installed"}


def test_the_keys_that_others_read_are_there():
    report = as_json({}, {})
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
    assert {name for name, *_ in FIGURES.values()} == set(TARGETS)
    assert {name for pair in RATIOS.values() for name in pair} <= set(TARGETS)


def test_the_table_fits_a_terminal_and_leaves_out_what_was_not_measured():
    console = Console(width=80, record=True, file=StringIO())
    measured = cells(**{name: (12_340,) for name in TARGETS if name != "echo"})
    console.print(as_table(measured))
    text = console.export_text()
    for name, target in TARGETS.items():
        assert (target.title in text) is (name != "echo")
    assert text.count("12,340") == 3 * (len(TARGETS) - 1)

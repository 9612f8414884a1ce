"""From cells to what people and machines read. Pure: no clock, no files.

Rules: a figure is the median of its rounds, and its spread stands in `details`; a ratio is the quotient of two medians,
so that it can be checked from the report; what was not measured is null and named under `skipped` or `failed`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from gateway.tools.bench.measure import Cell

Cells = Mapping[str, Mapping[int, Sequence[Cell]]]
"""Rounds, by target and requests in flight."""

RATIOS: Mapping[str, tuple[str, str]] = {
    "protected_over_ray": ("protected", "ray_proxy"),
    "protected_tls_over_ray": ("protected_tls", "ray_proxy"),
    "ray_engine_over_ray": ("ray_engine", "ray_proxy"),
    "ray_engine_over_ray_model": ("ray_engine", "ray_model"),
    "protected_over_ray_haproxy": ("protected", "ray_haproxy"),
    "protected_tls_over_ray_haproxy": ("protected_tls", "ray_haproxy"),
    "protected_over_mlserver": ("protected", "mlserver"),
    "protected_tls_over_mlserver": ("protected_tls", "mlserver"),
    "protected_over_triton": ("protected", "triton"),
    "protected_tls_over_triton": ("protected_tls", "triton"),
    "protected_over_echo": ("protected", "echo"),
    "on_over_off": ("protected", "unprotected"),
    "tls_over_plaintext": ("protected_tls", "protected"),
}
"""Name in the report: throughput of the first over throughput of the second."""

RPS_KEYS = (
    "protected",
    "protected_tls",
    "unprotected",
    "ray_engine",
    "echo",
    "ray_proxy",
    "ray_model",
    "ray_haproxy",
    "mlserver",
    "triton",
)


def as_json(cells: Cells, in_flight: Sequence[int], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The whole report. `facts` (date, machine, versions, method, what was skipped or failed) go in as they are."""
    report: dict[str, Any] = {f"{name}_rps": _medians(cells, name, in_flight, "rps") for name in RPS_KEYS}
    report["protected_cpu_us"] = _medians(cells, "protected", in_flight, "cpu_us")
    report["p50_ms_1"] = _median(cells, "protected", 1, "p50_ms")
    report["p50_ms_1_tls"] = _median(cells, "protected_tls", 1, "p50_ms")
    report["p50_ms_1_ray_engine"] = _median(cells, "ray_engine", 1, "p50_ms")
    report["p50_ms_1_ray_model"] = _median(cells, "ray_model", 1, "p50_ms")
    report["p99_ms_half_load"] = _medians(cells, "protected", in_flight, "half_load_p99_ms")
    report["p99_ms_half_load_tls"] = _medians(cells, "protected_tls", in_flight, "half_load_p99_ms")
    for ratio, (above, below) in RATIOS.items():
        report[ratio] = {str(each): _ratio(cells, above, below, each) for each in in_flight}
    details = {
        name: {str(each): _spread(rounds) for each, rounds in by_in_flight.items() if rounds}
        for name, by_in_flight in cells.items()
    }
    return report | dict(facts) | {"details": details}


def _median(cells: Cells, name: str, in_flight: int, field: str) -> float | None:
    rounds = cells.get(name, {}).get(in_flight, ())
    return _short(statistics.median(getattr(cell, field) for cell in rounds)) if rounds else None


def _medians(cells: Cells, name: str, in_flight: Sequence[int], field: str) -> dict[str, float | None]:
    return {str(each): _median(cells, name, each, field) for each in in_flight}


def _ratio(cells: Cells, above: str, below: str, in_flight: int) -> float | None:
    first, second = (_median(cells, name, in_flight, "rps") for name in (above, below))
    return round(first / second, 3) if first is not None and second else None


def _spread(rounds: Sequence[Cell]) -> dict[str, Any]:
    """Median, extremes and every round of each figure."""
    spread = {}
    for field in fields(Cell):
        values = [_short(getattr(cell, field.name)) for cell in rounds]
        middle = _short(statistics.median(values))
        spread[field.name] = {"median": middle, "min": min(values), "max": max(values), "rounds": values}
    return spread


def _short(value: float) -> float:
    """Four significant digits: more would claim a precision that no round has."""
    return float(f"{value:.4g}")


def as_table(cells: Cells, in_flight: Sequence[int], titles: Mapping[str, str]) -> Table:
    """What fits eighty columns: throughput, CPU time a request at most in flight, latency where it is felt."""
    most, fewest = max(in_flight), min(in_flight)
    table = Table(title="requests/s by requests in flight", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("target", no_wrap=True)
    for each in in_flight:
        table.add_column(str(each), justify="right")
    table.add_column(f"CPU us\nat {most}", justify="right")
    table.add_column(f"p50 ms\nat {fewest}", justify="right")
    table.add_column("p99 ms\nhalf load", justify="right")
    for name, title in titles.items():
        if not any(cells.get(name, {}).values()):
            continue
        table.add_row(
            title,
            *(_shown(_median(cells, name, each, "rps"), ",.0f") for each in in_flight),
            _shown(_median(cells, name, most, "cpu_us"), ",.0f"),
            _shown(_median(cells, name, fewest, "p50_ms"), ".2f"),
            _shown(_median(cells, name, most, "half_load_p99_ms"), ".1f"),
        )
    return table


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)

"""Dashboards as files: made by their generator, telling no series that does not exist, leading to runbooks that do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.ops.prometheus.test_rules import ALERTS, EVERY_RULE, exported

ROOT = Path(__file__).resolve().parents[3]
GRAFANA = ROOT / "ops/grafana"
BOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (GRAFANA / "dashboards").glob("*.json")}
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, board in sorted(BOARDS.items())
    for panel in board["panels"]
    if panel["type"] != "row"
]


def test_the_files_are_what_the_generator_writes():
    script = ROOT / "scripts/generate_dashboards.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_each_dashboard_has_the_address_that_people_keep():
    assert {name: board["uid"] for name, board in BOARDS.items()} == {
        name: f"stockade-{name}" for name in ("service", "security", "models", "audit")
    }


@pytest.mark.parametrize("name", BOARDS)
def test_no_panel_covers_another(name):
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in BOARDS[name]["panels"]}) == len(BOARDS[name]["panels"])


@pytest.mark.parametrize("panel", PANELS)
def test_each_panel_says_what_it_shows_in_which_unit_from_the_chosen_source(panel):
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert panel["datasource"]["uid"] == "${datasource}"
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert 'job=~"$job"' in target["expr"]


@pytest.mark.parametrize("panel", PANELS)
def test_each_query_asks_for_series_that_exist(panel):
    recorded = {rule["record"] for rule in EVERY_RULE if "record" in rule}
    for target in panel["targets"]:
        assert set(re.findall(r"\b(?:stockade|grpc_server)_\w+\b", target["expr"])) - exported() == set()
        assert set(re.findall(r"stockade:[\w:]+", target["expr"])) - recorded == set()


def test_each_link_is_a_runbook_and_each_alert_is_linked_from_a_panel():
    urls = {link["url"] for board in BOARDS.values() for panel in board["panels"] for link in panel.get("links", ())}
    linked = {re.fullmatch(r"\$\{runbooks\}/(\w+)\.md", url)[1] for url in urls}
    assert linked <= ALERTS.keys()
    assert ALERTS.keys() - linked == {"StockadePoliciesDiffer"}  # told apart by digests, which are no series to draw


def test_every_query_is_promql(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    queries = [target["expr"] for param in PANELS for target in param.values[0]["targets"]]
    plain = [re.sub(r"\$__(rate_interval|range)", "5m", query) for query in queries]
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(plain)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_dashboards_and_source_where_compose_puts_them():
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/stockade.yml").read_text())["providers"]
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
    assert (source["type"], source["isDefault"], source["url"]) == ("prometheus", True, "http://prometheus:9090")

"""Rules and alerts: they parse, they fire when they should and not otherwise, and each says what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PROMETHEUS = ROOT / "ops/prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
CASES = sorted((PROMETHEUS / "tests").glob("*.yml"))
ALERTMANAGER = ROOT / "ops/alertmanager/alertmanager.yml"
RUNBOOKS = ROOT / "ops/runbooks"
SECTIONS = ("What it means", "What to look at", "What to do", "Whom to wake")


def read(path: Path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


EVERY_RULE = [rule for path in RULES for group in read(path)["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in EVERY_RULE if "alert" in rule}


def ran(program: str, package: str, *arguments: object) -> str:
    """Run a program of Prometheus's; what it said. It must be content."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (Debian: {package})")
    command = [found, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_parse_and_lint_clean():
    ran("promtool", "prometheus", "check", "rules", "--lint=all", "--lint-fatal", *RULES)


def test_the_configuration_is_one():
    ran("promtool", "prometheus", "check", "config", PROMETHEUS / "prometheus.yml")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_not_otherwise(path):
    ran("promtool", "prometheus", "test", "rules", path)


def test_every_alert_has_a_case_where_it_fires_and_one_where_it_does_not():
    fires, silent = set(), set()
    for path in CASES:
        for case in read(path)["tests"]:
            for check in case["promql_expr_test"]:
                for name in re.findall(r'alertname="(\w+)"', check["expr"]):  # none where a recorded series is meant
                    (fires if check["exp_samples"] else silent).add(name)
    assert fires == ALERTS.keys()
    assert silent == ALERTS.keys()


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_how_bad_it_is_what_it_is_about_and_what_to_do(name):
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert alert["labels"]["about"]
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    runbook = ROOT / alert["annotations"]["runbook"]
    assert runbook == RUNBOOKS / f"{name}.md"
    text = runbook.read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [*SECTIONS]


def test_every_runbook_belongs_to_an_alert():
    assert {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"} == ALERTS.keys()


def exported() -> set[str]:
    """Every name that a process of ours writes, with the suffixes of its samples."""
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "ops/metrics").glob("*.py"))
    names = set(re.findall(r'"((?:stockade|grpc_server)_\w+)"', written))
    return names | {f"{name}_{suffix}" for name in names for suffix in ("bucket", "count", "sum")}


def test_rules_ask_for_metrics_that_exist():
    recorded = {rule["record"] for rule in EVERY_RULE if "record" in rule}
    for rule in EVERY_RULE:
        asked = set(re.findall(r"\b(?:stockade|grpc_server)_\w+\b", rule["expr"]))
        assert asked - exported() == set(), rule
        assert set(re.findall(r"stockade:[\w:]+", rule["expr"])) - recorded == set(), rule


def test_alertmanager_takes_its_configuration():
    ran("amtool", "prometheus-alertmanager", "check-config", ALERTMANAGER)


@pytest.mark.parametrize("severity", ["page", "ticket"])
def test_each_severity_has_its_own_way_to_people(severity):
    route = ("config", "routes", "test", f"--config.file={ALERTMANAGER}")
    assert ran("amtool", "prometheus-alertmanager", *route, f"severity={severity}").strip() == severity


def test_inhibition_names_alerts_that_exist():
    named = set(re.findall(r"Stockade\w+", ALERTMANAGER.read_text(encoding="utf-8")))
    assert named - ALERTS.keys() == set()


def test_the_reasons_that_burn_the_budget_are_reasons_of_the_gateway():
    from gateway.host.app import REASONS

    burning = [set(found.split("|")) for rule in EVERY_RULE for found in re.findall(r'reason=~"([^"]+)"', rule["expr"])]
    assert burning
    assert all(reasons == burning[0] for reasons in burning)
    assert burning[0] <= REASONS


def test_the_manual_lists_every_alert_with_its_severity():
    text = (ROOT / "docs/how-to/monitoring.md").read_text(encoding="utf-8")
    listed = re.findall(
        r"^\| \[(\w+)\]\(\.\./\.\./ops/runbooks/\1\.md\) \| (\w+) \| ([\w-]+) \| .+ \|$", text, re.MULTILINE
    )
    labels = {name: (alert["labels"]["severity"], alert["labels"]["about"]) for name, alert in ALERTS.items()}
    assert {name: (severity, about) for name, severity, about in listed} == labels

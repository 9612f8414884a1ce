"""The scorecard written down: every kind of row and curve, and nothing of a name is taken for markup."""

from __future__ import annotations

import json
import re

import pytest

from defenses.lab.attack import Size, Trial
from defenses.lab.trial import Line
from gateway.tools.lab.place import policy_under_test
from gateway.tools.lab.report import CURVES, write_report
from gateway.tools.lab.whitebox import rates_of

NAME = "whitebox/<i>x</i>|y/fpr-1/right"


def line(seed=0, *, samples=10, **changes):
    trial = Trial(
        **{
            "attack": NAME,
            "family": "evasion",
            "technique": "AML.T0015",
            "knowledge": "adaptive white box",
            "defended": True,
            "seed": seed,
            "samples": samples,
            "successes": samples // 2,
            "metrics": {"auc <": 0.5 + seed},
            "settings": {"radius": "<0.1>"},
            "curves": {},
        }
        | changes
    )
    return Line("x", Size.FULL, 60.0, trial, done=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    curves = {name: [(0.001, 0.01), (0.1, 0.5), (1.0, 0.9)] for name in CURVES}
    lines = [
        line(),
        line(1),
        line(attack="counts/nothing", family="benign", samples=0),
        line(attack="curved", family="extraction", curves=curves),
        line(attack="whitebox/kiosk-1/eps-0.1/all", defended=False, successes=10),
        line(attack="strange", family="another family"),
        line(family="poisoning", knowledge="poisoned the training set, picks the class that the screen misses most"),
    ]
    files, missed = write_report(lines, tmp_path_factory.mktemp("report"))
    return {file.name: file.read_text() for file in files} | {"missed": missed}


def test_the_results_are_pooled_json(written):
    results = json.loads(written["results.json"])
    pooled = next(row for row in results["rows"] if row["attack"] == NAME)
    assert (pooled["samples"], pooled["seeds"]) == (20, [0, 1])
    assert written["missed"] == 0


def test_the_page_shows_all_and_takes_no_name_for_markup(written):
    page = written["index.html"]
    assert "<i>x</i>" not in page
    assert "&lt;i&gt;x&lt;/i&gt;" in page
    assert "&lt;0.1&gt;" in page
    assert "auc &lt;" in page
    for title, _, _ in CURVES.values():
        assert title in page
    assert "Another family" in page
    assert "10 / 20" in page
    assert not re.search(r'(src|href)="(?!#)|<link|<script', page)


def test_the_document_shows_all_and_keeps_its_columns(written):
    document = written["README.md"]
    assert "<i>x</i>\\|y" in document
    tables = [row for row in document.splitlines() if row.startswith("| ") and "fpr-1" in row]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 7 for row in tables)
    assert "whitebox/kiosk-1/eps-0.1/all (control)" in document
    assert "## Another family" in document


def test_the_pipeline_takes_the_rates_that_init_writes():
    rates = rates_of(policy_under_test(None)["kiosk"])
    assert (rates["evidence"].flag, rates["evidence"].refuse) == (0.01, 0.001)
    assert rates_of({"screens": {"evidence": {"mode": "shadow", "flag": 0.01}}}) == {}


def test_a_policy_that_is_none_is_said_to_be_none(tmp_path):
    file = tmp_path / "policy.yaml"
    for text in ("", "models: 3", "models: [", "- models"):
        file.write_text(text)
        with pytest.raises(ValueError, match="is no policy with a map of `models`"):
            policy_under_test(file)

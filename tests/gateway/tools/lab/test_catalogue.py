"""The table of experiments: every row names a method that is there and takes its parameters, and the scorecard's trials
are of rows of it.
"""

from __future__ import annotations

import inspect
import json
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from defenses.lab.evasion.query_trials import QUERY_ATTACKS, SEARCHES
from defenses.lab.scorecard import targets
from gateway.tools.lab.catalogue import TABLE, catalogue

ROWS = catalogue()
TRIALS = Path(__file__).resolve().parents[4] / "docs" / "scorecard" / "trials.jsonl"


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_row_names_a_method_and_its_parameters(row):
    module, _, function = row.method.partition(":")
    inspect.signature(getattr(import_module(module), function)).bind("run", **row.parameters)
    assert row.summary
    assert row.seeds >= 1
    assert f"/kiosk-{row.version}" in row.name or "/kiosk-" not in row.name
    assert row.parameters.get("search", "square") in {*SEARCHES, *QUERY_ATTACKS}


def test_the_table_has_no_method_that_nobody_runs_and_no_name_twice():
    table = tomllib.loads(TABLE.read_text())
    assert {row.method for row in ROWS.values()} == {where for where, *_ in table["methods"].values()}
    assert len(ROWS) == len(table["experiments"]["rows"])


def test_the_trials_of_the_scorecard_are_of_these_rows():
    for line in TRIALS.read_text().splitlines():
        trial = json.loads(line)
        row = ROWS[trial["experiment"]]
        assert f"{trial['attack']}/".startswith(f"{row.attack}/")
        assert (trial["family"], trial["technique"]) == (row.family, row.technique)
        assert trial["knowledge"].startswith(row.knowledge)


def test_every_target_is_of_a_row():
    attacks = {row.attack for row in ROWS.values()}
    assert all(any(f"{target.attack}/".startswith(f"{attack}/") for attack in attacks) for target in targets())

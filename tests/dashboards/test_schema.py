"""The dashboards are of Grafana's own types, to the last key."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.dashboards.drawing import BOARDS, SOURCES, node

Board = dict[str, Any]


def test_every_dashboard_is_one():
    done = node(SOURCES / "schema.mjs", *sorted(BOARDS.glob("*.json")))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def first(board: Board, kind: str) -> Board:
    return next(panel for panel in board["panels"] if panel["type"] == kind)


BROKEN: dict[str, tuple[Callable[[Board], object], str]] = {
    "a key that no dashboard has": (lambda board: board.update(colour="red"), "colour"),
    "no schema version": (lambda board: board.pop("schemaVersion"), "schemaVersion"),
    "a width that is a text": (lambda board: first(board, "stat")["gridPos"].update(w="4"), "gridPos/w"),
    "a misspelt option": (lambda board: first(board, "stat")["options"].update(textmode="auto"), "textmode"),
    "an option with no such value": (
        lambda board: first(board, "stat")["options"].update(graphMode="big"),
        "graphMode",
    ),
    "a misspelt style of lines": (
        lambda board: first(board, "timeseries")["fieldConfig"]["defaults"]["custom"].update(linewidth=1),
        "linewidth",
    ),
    "an unknown kind of panel": (lambda board: first(board, "stat").update(type="statistic"), "statistic"),
}


def test_what_is_not_one_is_found(tmp_path):
    for name, (spoil, _) in BROKEN.items():
        board = json.loads((BOARDS / "service.json").read_text("utf-8"))
        spoil(board)
        (tmp_path / f"{name}.json").write_text(json.dumps(board))
    done = node(SOURCES / "schema.mjs", *tmp_path.glob("*.json"))
    assert done.returncode == 1, done.stderr
    for name, (_, told) in BROKEN.items():
        found = [line for line in done.stdout.splitlines() if line.startswith(f"{name}.json")]
        assert any(told in line for line in found), (name, found)

"""Every panel is drawn by Grafana's own components, from what a live Prometheus says, without a complaint."""

from __future__ import annotations

import json

import pytest

from tests.dashboards.drawing import BOARDS, Studio, studio

NAMES = sorted(path.stem for path in BOARDS.glob("*.json"))


@pytest.fixture(scope="module")
def drawing(stage, tmp_path_factory):
    with studio(stage, tmp_path_factory.mktemp("studio")) as found:
        yield found


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_is_drawn(drawing: Studio, tmp_path, name):
    picture = tmp_path / f"{name}.png"
    drawing.draw(name, picture, seconds=20)
    assert drawing.complaints == []
    words = drawing.texts()
    for panel in json.loads((BOARDS / f"{name}.json").read_text("utf-8"))["panels"]:
        assert panel["title"] in words
    assert picture.stat().st_size > 50_000  # an empty board is a tenth of that


def test_a_panel_without_data_is_an_error(drawing: Studio, tmp_path, monkeypatch):
    board = json.loads((BOARDS / "audit.json").read_text("utf-8"))
    last = board["panels"][-1]
    last["targets"] = [{**last["targets"][0], "expr": "no_such_metric"}]
    (tmp_path / "audit.json").write_text(json.dumps(board))
    monkeypatch.setattr("tests.dashboards.drawing.BOARDS", tmp_path)
    with pytest.raises(Exception, match=f"no data: {last['title']}"):
        drawing.draw("audit", tmp_path / "audit.png", seconds=20)

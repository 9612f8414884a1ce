"""`stockade bench models` on small data: every part that has data here runs, and the others say what they miss."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from gateway.cli.main import main
from gateway.tools.bench.model_parts import Kept
from gateway.tools.bench.models import PARTS
from gateway.tools.samples import bundles_directory
from tests.serving.train.clicks import compressed


def test_a_run_goes_on_where_another_stopped_and_measures_what_is_of_something_else(tmp_path):
    measured = []

    def measure(value):
        return lambda: measured.append(value) or {"value": value}

    kept = Kept(tmp_path / "kept", {"seed": 1})
    assert kept("a", measure(1)) == kept("a", measure(2)) == {"value": 1}
    assert Kept(tmp_path / "kept", {"seed": 2})("a", measure(3)) == {"value": 3}
    assert kept("b", measure(4)) == {"value": 4}
    (tmp_path / "kept" / "b.json").write_text("[]")
    assert kept("b", measure(5)) == {"value": 5}
    assert Kept(None, {})("b", measure(6)) == {"value": 6}
    assert measured == [1, 3, 4, 5, 6]


def test_bundles_are_measured_again_on_rows_they_never_saw(tmp_path, capsys):
    for name in ("kiosk/1", "clickstream/1", "payments/1"):  # of each kind; more versions of one take the same way
        shutil.copytree(bundles_directory() / name, tmp_path / name)
    shutil.copy(bundles_directory() / "stockade-release.pub", tmp_path)
    assert main(["bench", "models", "--only", "bundles", "--bundles", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["bundles"]
    told = json.loads((bundles_directory() / "kiosk" / "1" / "manifest.json").read_text())["metrics"]
    kiosk = found["kiosk/1"]
    right, area = kiosk["accuracy"], kiosk["digits_auroc"]["energy"]
    assert right["value"] == pytest.approx(told["accuracy"], abs=0.02 if kiosk["rows"] < 10_000 else 1e-9)
    assert right["interval"][0] < right["value"] < right["interval"][1]
    assert area["value"] == pytest.approx(told["foreign"]["digits"]["auroc"]["energy"], abs=0.01)
    assert area["interval"][0] < area["value"] < area["interval"][1]
    assert [alarm["fpr_max"] for alarm in kiosk["alarms"]] == [0.05, 0.01, 0.001]
    assert kiosk["alarms"][0]["rate"] < 0.07
    assert found.keys() == {"kiosk/1", "clickstream/1", "payments/1"}
    assert "digits_auroc" not in found["clickstream/1"]


def test_what_an_attack_left_right_is_quoted_from_the_manifest(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    shutil.copytree(bundles_directory() / "kiosk" / "2", tmp_path / "kiosk" / "2")
    shutil.copy(bundles_directory() / "stockade-release.pub", tmp_path)
    assert main(["bench", "models", "--only", "bundles", "--bundles", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "kiosk/2: 80.33 (75.46-84.44) % of 300 right under AutoAttack" in shown
    assert "…" not in shown


def test_clicks_are_measured_seed_by_seed_beside_what_is_simpler(tmp_path, monkeypatch, capsys):
    file, report = tmp_path / "ecom.csv.gz", tmp_path / "report.json"
    file.write_bytes(compressed(400))
    words = ["--only", "clicks", "--quick", "--seeds", "2", "--clicks", str(file), "--keep", str(tmp_path / "kept")]
    assert main(["bench", "models", *words, "--report", str(report)]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("markov", "popular", "works, and nothing more"))
    found = json.loads(report.read_text())["clicks"]
    assert found["markov_accuracy"]["mean"] > found["popular_accuracy"]["mean"]
    assert found["popular_log_loss"]["mean"] > found["markov_log_loss"]["mean"]
    assert found["model_log_loss"]["mean"] < np.log(19) + 1
    kept = [json.loads((tmp_path / "kept" / f"clicks-{seed}.json").read_text())["found"] for seed in (0, 1)]
    assert found["model_log_loss"]["values"] == [one["model_log_loss"] for one in kept]
    assert kept[0]["model_log_loss"] != kept[1]["model_log_loss"]
    monkeypatch.setattr("serving.train.clickstream.recipe.train_clicks", None)  # nothing is trained again
    assert main(["bench", "models", *words, "--report", str(report)]) == 0
    assert json.loads(report.read_text())["clicks"] == found


def test_a_part_whose_data_are_not_here_says_so_and_the_others_are_measured(tmp_path, capsys):
    file = tmp_path / "ecom.csv.gz"
    file.write_bytes(compressed(400))
    words = ["--clicks", str(file), "--modeldata", str(tmp_path / "none")]
    assert main(["bench", "models", "--only", "credit,clicks", "--json", "--quick", "--seeds", "2", *words]) == 1
    found = json.loads(capsys.readouterr().out)
    assert "modeldata" in found["credit"]["not_measured"]
    assert "model_accuracy" in found["clicks"]
    missing = ["--only", "clicks", "--json", "--clicks", str(tmp_path / "none")]
    assert main(["bench", "models", *missing]) == 1
    assert "retentioneering" in json.loads(capsys.readouterr().out)["clicks"]["not_measured"]


def test_an_unknown_part_is_named(capsys):
    assert main(["bench", "models", "--only", "speed"]) == 2
    said = capsys.readouterr().err
    assert "speed" in said
    assert all(part in said for part in PARTS)

"""`stockade bench models` on small data: every part that has data here runs, and the others say what they miss."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from gateway.cli.main import main
from gateway.tools.bench.kept import Kept
from gateway.tools.bench.models import PARTS
from gateway.tools.samples import bundles_directory
from serving.train.clickstream import bench as click_bench
from tests.serving.train.clicks import compressed
from tests.serving.train.kiosk.test_loop import one_thread  # noqa: F401 - a fixture
from tests.serving.train.kiosk.test_recipe import data  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = [
        {
            "latitude": float(latitude),
            "longitude": float(longitude),
            "countrycode": "XX",
            "admin1code": f"{int(longitude) // 40}",
        }
        for latitude, longitude in zip(rng.uniform(-80, 80, 3000), rng.uniform(-180, 180, 3000), strict=True)
    ]
    file = tmp_path_factory.mktemp("data") / "cities.json"
    file.write_text(json.dumps(dict(enumerate(rows))))
    return file


def test_the_sparsity_part_trains_asks_times_and_fits_a_terminal(places, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    report = tmp_path / "report.json"
    words = ["--only", "sparsity", "--quick", "--seeds", "2", "--places", str(places), "--report", str(report)]
    keep = ["--keep", str(tmp_path / "kept")]
    assert main(["bench", "models", *words, *keep]) == 0
    assert sorted(file.name for file in (tmp_path / "kept").iterdir()) == ["sparsity-0.json", "sparsity-1.json"]
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "mixture, sparse path" in shown
    assert "works, and nothing more" in shown
    found = json.loads(report.read_text())["sparsity"]
    assert found["rows"] == 3000
    assert {"us", "quality", "apart_points", "smallest_equal", "paths", "pruned"} <= found.keys()
    monkeypatch.setattr("serving.train.regions.bench.train_regions", None)  # nothing is trained again
    assert main(["bench", "models", *words, *keep]) == 0
    assert json.loads(report.read_text())["sparsity"] == found


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


@pytest.mark.slow
@pytest.mark.slow
def test_clicks_are_measured_seed_by_seed_beside_what_is_simpler(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(click_bench, "LABELS", (50,))
    file, report = tmp_path / "ecom.csv.gz", tmp_path / "report.json"
    file.write_bytes(compressed(400))
    words = ["--only", "clicks", "--quick", "--seeds", "2", "--clicks", str(file), "--keep", str(tmp_path / "kept")]
    assert main(["bench", "models", *words, "--report", str(report)]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("markov", "popular", "embedding", "supervised"))
    found = json.loads(report.read_text())["clicks"]
    assert found["markov_accuracy"]["mean"] > found["popular_accuracy"]["mean"]
    kept = [json.loads((tmp_path / "kept" / f"clicks-{seed}.json").read_text())["found"] for seed in (0, 1)]
    assert found["model_log_loss"]["values"] == [one["model_log_loss"] for one in kept]
    assert kept[0]["model_log_loss"] != kept[1]["model_log_loss"]


@pytest.mark.slow
def test_few_labels_and_hidden_classes_are_measured_on_images(data, tmp_path, capsys):  # noqa: F811 - the fixture
    report = tmp_path / "report.json"
    words = ["--only", "few,hidden", "--quick", "--seeds", "2", "--images", str(data), "--report", str(report)]
    assert main(["bench", "models", *words]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("scattering", "the labels alone", "neighbours", "together"))
    found = json.loads(report.read_text())
    assert found["few"]["labels"] == 600
    assert found["few"]["scattered"]["mean"] > 0.6
    assert len(found["few"]["supervised"]["values"]) == 2
    assert found["hidden"]["classes"].keys() == {"T-shirt/top", "Trouser"}
    assert found["hidden"]["means"]["together"]["half"] > 0


def test_a_part_whose_data_are_not_here_says_so_and_the_others_are_measured(tmp_path, places, capsys):
    absent = ("movielens", "modeldata", "clicks", "images")
    words = [word for name in absent for word in (f"--{name}", str(tmp_path / "none"))]
    only = ["--only", "ranking,credit,clicks,few,hidden", "--json", "--quick", "--seeds", "2"]
    assert main(["bench", "models", *only, "--places", str(places), *words]) == 1
    found = json.loads(capsys.readouterr().out)
    assert "retentioneering" in found["clicks"]["not_measured"]
    assert all("dataset-fashion-mnist" in found[part]["not_measured"] for part in ("few", "hidden"))
    assert "recbole" in found["ranking"]["not_measured"]
    assert "modeldata" in found["credit"]["not_measured"]


def test_an_unknown_part_is_named(capsys):
    assert main(["bench", "models", "--only", "speed"]) == 2
    said = capsys.readouterr().err
    assert "speed" in said
    assert all(part in said for part in PARTS)

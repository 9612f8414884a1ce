from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from serving.train.payments import compare as payments_compare
from serving.train.payments.compare import compare_payments
from serving.train.payments.data import load_applications
from serving.train.payments.schema import CREDIT_DATA
from tests.serving.train.applications import applications, save


@pytest.mark.slow
def test_every_model_is_judged_on_the_same_splits(tmp_path, monkeypatch):
    monkeypatch.setattr(payments_compare, "PERFECT_DRAWS", 5)
    data = load_applications(CREDIT_DATA, save(tmp_path / "credit_data.rda", applications(600)), other=True)
    steps = []
    found = compare_payments(CREDIT_DATA, data, 2, folds=True, on_step=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]
    assert len(found["models"]) == len(found["pooled"]) == 7
    assert 0 < found["pooled"]["logistic regression"] < 0.1
    assert all(1 <= len(terms) <= 8 for terms in found["terms"])
    ours = found["models"]["additive, at most 8 terms"]
    for model in found["models"].values():
        assert 0.6 < model["auc"]["mean"] < 0.95
        low, high = model["auc"]["interval"]
        assert low < model["auc"]["mean"] < high
        less = np.subtract(ours["auc"]["values"], model["auc"]["values"])
        np.testing.assert_allclose(model["auc_less"]["values"], less)
        assert model["auc"]["mean"] == pytest.approx(np.mean(model["auc"]["values"]))
    assert 0 < ours["if_perfect"]["mean"] < 0.2


def test_the_command_prints_what_was_compared_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    def compare(schema, data, rounds, *, folds, on_step):
        on_step(rounds, rounds)
        return {"table": schema.table, "rows": len(data), "rounds": rounds, "folds": folds}

    monkeypatch.setattr(payments_compare, "compare_payments", compare)
    monkeypatch.setattr(payments_compare, "load_applications", partial(load_applications, other=True))
    data = save(tmp_path / "credit_data.rda", applications(600))
    assert payments_compare.main(["--data", str(data), "--rounds", "3", "--folds"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"table": "credit_data", "rows": 600, "rounds": 3, "folds": True}
    assert "round 3 of 3" in said.err
    assert payments_compare.main(["--data", str(tmp_path / "absent")]) == 1
    assert "r-cran-modeldata" in capsys.readouterr().err

from __future__ import annotations

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

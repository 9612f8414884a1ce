"""Labels of training data that no digest speaks for, held against the payments bundle that comes with the project."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from gateway.cli.main import main
from gateway.tools.samples import bundles_directory
from gateway.tools.train_labels import doubts_of
from serving.train.payments.data import Applications
from serving.train.payments.schema import CREDIT_DATA
from tests.serving.train.applications import save

ROWS = load_file(bundles_directory() / "samples/credit-data-891.safetensors")


def changed(share: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = ROWS["labels"].copy()
    rows = rng.choice(len(labels), round(share * len(labels)), replace=False)
    labels[rows] = 1 - labels[rows]
    return labels


@pytest.mark.parametrize(("share", "told"), [(0.0, False), (0.05, True), (0.2, True)])
def test_changed_labels_are_told_of_and_right_ones_are_not(share, told):
    assert bool(doubts_of(Applications(ROWS["features"], changed(share)))) is told


def table(labels):
    """The sample as a table of R's."""
    columns = {"Status": pd.Categorical(np.where(labels == 1, "bad", "good"), categories=["bad", "good"])}
    for feature, values in zip(CREDIT_DATA.features, ROWS["features"].T, strict=True):
        known = values >= 0
        if feature.levels:
            named = np.array(feature.levels)[np.where(known, values, 0).astype(int)]
            columns[feature.name] = pd.Categorical(np.where(known, named, None), categories=list(feature.levels))
        else:
            columns[feature.name] = pd.array(np.where(known, values, None), dtype="Int32")
    return pd.DataFrame(columns)


def test_who_trains_on_them_is_warned(tmp_path, capsys):
    data = save(tmp_path / "credit_data.rda", table(changed(0.1)))
    words = ["payments", "--smoke", "--other-data", "--data", data, "--bundle", tmp_path / "b"]
    main(["train", *map(str, words), "--signing-key", str(tmp_path / "k.key")])
    assert "of the labels contradict payments/1" in capsys.readouterr().err

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from serving.train.clickstream import bench as click_bench
from serving.train.clickstream.bench import label_efficiency, labelled_sessions, main, next_click
from serving.train.clickstream.ecom import EVENTS, FIRST_EVENT, IDS, parse_ecom, split_ecom, windows_of
from serving.train.clickstream.movielens_rank import co_occurrence, windows_of_users
from serving.train.clickstream.network import ClickNet, ClickShape
from serving.train.clickstream.recipe import markov_log_prior
from serving.train.clickstream.sequences import NO_TARGET
from tests.serving.train.clicks import compressed
from tests.serving.train.clickstream.test_ecom import packed as packed_clicks
from tests.serving.train.clickstream.test_movielens import packed


def session(name, *events):
    return [f"u,{name},{event},2024-01-01 10:00:{second:02d},x" for second, event in enumerate(events)]


def test_a_session_is_labelled_after_three_events_by_what_follows_them():
    early, late = "home", "cart"
    lines = [
        *session("buys", early, late, late, late, "purchase"),
        *session("leaves", early, late, late, late),
        *session("bought", early, "purchase", late, late, "purchase"),
        *session("short", early, late, late),
    ]
    clicks = windows_of(parse_ecom(packed_clicks(*lines), "f"))
    labelled = labelled_sessions(clicks)
    assert sorted(labelled.labels.tolist()) == [0, 1]
    assert (labelled.ids[:, -1] == 2 + EVENTS.index(late)).all()


def test_every_item_but_a_users_first_is_a_target_once():
    users = [np.arange(120), np.arange(3), np.array([5])]
    sequences = windows_of_users(users, 25)
    rows, places = np.nonzero(sequences.targets != NO_TARGET)
    assert sorted(sequences.targets[rows, places].tolist()) == sorted([*range(1, 120), 1, 2])
    np.testing.assert_array_equal(sequences.targets[rows, places], sequences.ids[rows, places])  # id 1 is item 0


def test_pairs_count_by_distance_and_half_backwards():
    counts = co_occurrence([np.array([0, 1, 2])], 3, 2)
    assert counts.tolist() == [[0, 1, 0.5], [0.5, 0, 1], [0.25, 0.5, 0]]


@pytest.mark.slow
def test_ecom_is_measured_beside_what_is_simpler(monkeypatch):
    monkeypatch.setattr(click_bench, "LABELS", (50,))
    data = parse_ecom(compressed(), "f")
    torch.manual_seed(0)
    prior = torch.from_numpy(markov_log_prior(split_ecom(data, 0).train)).float()
    net = ClickNet(ClickShape(IDS, FIRST_EVENT), prior)
    found = next_click(data, net, 0)
    assert found["popular_log_loss"] > found["markov_log_loss"]
    assert found["popular_accuracy"] < found["markov_accuracy"]
    assert found["model_log_loss"] < np.log(len(EVENTS)) + 1
    areas = label_efficiency(data, net, 0)
    assert areas.keys() == {"embedding_50", "counts_50", "supervised_50"}
    assert all(0 <= area <= 1 for area in areas.values())


def test_movielens_is_measured_from_a_file(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = [(user, 1 + item, 1, at) for user in range(12) for at, item in enumerate(rng.permutation(30)[:12])]
    (tmp_path / "ml.inter").write_bytes(packed(*rows))
    assert main(["ml-100k", "--data", str(tmp_path / "ml.inter"), "--seeds", "2", "--epochs", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"product_ndcg", "markov_hit_rate"} <= found.keys()
    assert found["prior_ndcg"]["half"] == 0
    assert all(np.isfinite([one["mean"], one["half"]]).all() for one in found.values())

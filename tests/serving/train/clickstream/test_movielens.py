from __future__ import annotations

import numpy as np
import pytest

from serving.train.clickstream.movielens import Ranking, load_movielens, parse_movielens, rank_metrics
from serving.train.errors import DatasetMalformed, DatasetMissing

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


def packed(*rows, header=HEADER):
    return "\n".join([header, *("\t".join(map(str, row)) for row in rows), ""]).encode()


def test_users_in_the_order_of_time_with_items_from_zero_and_the_short_left_out():
    rows = [(7, 30, 5, 3), (7, 10, 5, 1), (7, 20, 5, 2), (2, 30, 1, 9), (2, 40, 1, 8)]
    data = parse_movielens(packed(*rows), "f")
    assert [user.tolist() for user in data.users] == [[0, 1, 2]]
    assert data.items == 4


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", packed(header="user_id:token"), packed((1, "x", 1, 1)), packed(), packed((1, "nan", 1, 1))],
)
def test_what_is_no_such_file_is_refused(data):
    with pytest.raises(DatasetMalformed):
        parse_movielens(data, "f")


def test_an_absent_path_names_the_package(tmp_path):
    with pytest.raises(DatasetMissing, match=r"recbole==1\.2\.1"):
        load_movielens(tmp_path / "absent")


def test_every_unseen_item_competes_and_ties_count_half():
    scores = np.array([[0.9, 0.5, 0.5, 0.5, 0.1], [0.1, 0.2, 0.3, 0.4, 0.5]])
    ranking = rank_metrics(scores, [np.array([0]), np.array([3, 4])], np.array([1, 0]))
    assert ranking.ranks.tolist() == [1.0, 2.0]
    assert ranking.ndcg == pytest.approx((1 / np.log2(3) + 1 / np.log2(4)) / 2)
    assert Ranking(np.array([9.0, 10.0])).hit_rate == 0.5
    assert Ranking(np.array([9.0, 10.0])).gains[1] == 0

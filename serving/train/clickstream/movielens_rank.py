"""MovieLens-100k, leave-one-out with full ranking: the co-occurrence prior times the clickstream's encoder.

The prior counts how often one item follows another within ten places, by distance, half of it the other way round, and
takes popularity to the power of a half off; a user's scores are the sum over the last twenty items. The encoder is the
clickstream's, wider, trained without a prior. Their product's weight and the epoch are chosen on the item before the
last, as were the constants here; the last item only measures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from serving.train.clickstream.loop import ClickSettings, predict_clicks, train_clicks
from serving.train.clickstream.movielens import MovieLens, Ranking, rank_metrics
from serving.train.clickstream.network import ClickNet, ClickShape
from serving.train.clickstream.sequences import NO_TARGET, Sequences

WINDOW, REACH, PENALTY = 10, 20, 0.5
LENGTH = 50
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Last:
    ids: Ints
    labels: Ints


def co_occurrence(users: Sequence[Ints], items: int, window: int) -> NDArray[np.float64]:
    """Return how often the second item follows the first, 1 / distance each, half counted the other way round."""
    counts = np.zeros((items, items))
    for sequence in users:
        for distance in range(1, window + 1):
            np.add.at(counts, (sequence[:-distance], sequence[distance:]), 1 / distance)
    return counts + 0.5 * counts.T


def _prior(data: MovieLens, until: int) -> NDArray[np.float64]:
    """The prior's scores for each user (users, items), from what stands before the item counted from the end."""
    train = [user[:-until] for user in data.users]
    popular = np.bincount(np.concatenate(train), minlength=data.items)
    links = co_occurrence(train, data.items, WINDOW) / (popular + 1) ** PENALTY
    recent = [user[::-1][:REACH] for user in train]
    scores = np.stack([1 / np.arange(1, len(row) + 1) @ links[row] for row in recent])
    return np.asarray(np.log(scores + 1e-4 * popular / popular.max() + 1e-9))


def _markov(data: MovieLens, until: int) -> NDArray[np.float64]:
    train = [user[:-until] for user in data.users]
    links = np.zeros((data.items, data.items))
    for user in train:
        np.add.at(links, (user[:-1], user[1:]), 1)
    popular = np.bincount(np.concatenate(train), minlength=data.items)
    return np.stack([links[user[-1]] + 1e-6 * popular for user in train])


def windows_of_users(users: Sequence[Ints], stride: int) -> Sequences:
    """Windows of ids (0 is padding, items from 1), each item but a user's first a target once."""
    ids, targets = [], []
    for user in users:
        for end in range(len(user) - 1, 0, -stride):
            seen, following = user[max(0, end - LENGTH) : end], user[max(1, end - LENGTH + 1) : end + 1]
            row, target = np.zeros(LENGTH, np.int64), np.full(LENGTH, NO_TARGET)
            row[LENGTH - len(seen) :] = seen + 1
            fresh = min(stride, len(following))
            target[LENGTH - fresh :] = following[-fresh:]
            ids.append(row)
            targets.append(target)
    return Sequences(np.stack(ids), np.stack(targets))


def _last_windows(data: MovieLens, until: int) -> _Last:
    rows = np.zeros((len(data.users), LENGTH), np.int64)
    for row, user in zip(rows, data.users, strict=True):
        seen = user[:-until][-LENGTH:]
        row[LENGTH - len(seen) :] = seen + 1
    return _Last(rows, np.array([user[-until] for user in data.users]))


def _ranked(data: MovieLens, scores: NDArray[np.float64], until: int) -> Ranking:
    return rank_metrics(scores, [user[:-until] for user in data.users], np.array([user[-until] for user in data.users]))


def rank_movielens(data: MovieLens, settings: ClickSettings) -> dict[str, float]:
    """Return NDCG and hit rate at 10 on the last items: of the product, the encoder, the prior and Markov."""
    shape = ClickShape(data.items + 1, 1, item_width=64, state_width=64, latent_width=64)
    torch.manual_seed(settings.seed)
    net = ClickNet(shape, torch.zeros(shape.ids, shape.classes))
    train = windows_of_users([user[:-2] for user in data.users], LENGTH)
    best, _ = train_clicks(net, train, _last_windows(data, 2), settings)
    logits = {until: predict_clicks(best, _last_windows(data, until))[2].double().numpy() for until in (1, 2)}
    priors = {until: _prior(data, until) for until in (1, 2)}
    weights = np.linspace(0.0, 3.0, 13)
    chosen = max(weights, key=lambda weight: _ranked(data, logits[2] + weight * priors[2], 2).ndcg)
    product = _ranked(data, logits[1] + chosen * priors[1], 1)
    rankings = {"product": product, "encoder": _ranked(data, logits[1], 1)}
    rankings |= {"prior": _ranked(data, priors[1], 1), "markov": _ranked(data, _markov(data, 1), 1)}
    half = 1.96 * float(product.gains.std()) / math.sqrt(len(product.gains))
    found = {"prior_weight": float(chosen), "product_ndcg_half_over_users": half}
    found |= {f"{name}_ndcg": ranking.ndcg for name, ranking in rankings.items()}
    return found | {f"{name}_hit_rate": ranking.hit_rate for name, ranking in rankings.items()}

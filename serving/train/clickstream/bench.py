"""Measure what the clickstream recipe is worth, over seeds, beside what is simpler.

`python -m serving.train.clickstream.bench ecom` and `... ml-100k` print the figures as JSON:

- next: the next event on ecom's test sessions, beside Markov of order 1 and the most popular event.
- labels: who of the test sessions will buy, told after three events, from few labelled sessions: a logistic regression
  on the frozen user embedding, beside the same network trained on the labels alone and a regression on event counts.
- ml-100k: the next film, see `serving.train.clickstream.movielens_rank`.

Intervals are 95 %, over the seeds (Student's t).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.nn import functional

from serving.engines.measure import ranking_area
from serving.train.clickstream.ecom import EVENTS, FIRST_EVENT, IDS, Clicks, Ecom, load_ecom, sessions_of, split_ecom
from serving.train.clickstream.loop import ClickSettings, predict_clicks, train_clicks
from serving.train.clickstream.movielens import load_movielens
from serving.train.clickstream.movielens_rank import rank_movielens
from serving.train.clickstream.network import ClickNet, ClickShape
from serving.train.clickstream.recipe import markov_log_prior
from serving.train.seeds import COUNTS, intervals

SEEN_EVENTS = 3
LABELS = (50, 100, 200, 400)
PURCHASE = EVENTS.index("purchase")
GRID = {"C": [0.0003, 0.001, 0.003, 0.01, 0.03]}  # of the regressions, by cross-validation on the labels alone
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Windows int64 (n, L) that end with a session's third event, and whether a purchase follows."""

    ids: Rows
    labels: Rows


def trained(data: Ecom, settings: ClickSettings) -> ClickNet:
    """Train one network on the split of the settings' seed."""
    parts = split_ecom(data, settings.seed)
    torch.manual_seed(settings.seed)
    net = ClickNet(ClickShape(IDS, FIRST_EVENT), torch.from_numpy(markov_log_prior(parts.train)).float())
    return train_clicks(net, sessions_of(parts.train), parts.fit, settings)[0]


def next_click(data: Ecom, net: ClickNet, seed: int) -> dict[str, float]:
    """Return accuracies and log-losses on the test rows: the model's, Markov's, and the most popular event's."""
    parts = split_ecom(data, seed)
    labels = parts.test.labels
    counts = np.bincount(parts.train.labels, minlength=len(EVENTS)) + 0.5
    scores = {
        "model": predict_clicks(net, parts.test)[2].log_softmax(1).double().numpy(),
        "markov": markov_log_prior(parts.train)[parts.test.ids[:, -1]],
        "popular": np.broadcast_to(np.log(counts / counts.sum()), (len(labels), len(EVENTS))),
    }
    found = {f"{name}_accuracy": float((values.argmax(1) == labels).mean()) for name, values in scores.items()}
    own = np.arange(len(labels))
    return found | {f"{name}_log_loss": float(-values[own, labels].mean()) for name, values in scores.items()}


def compare_clicks(data: Ecom, settings: ClickSettings) -> dict[str, float]:
    """Train one network and return what it is worth on the test rows: `next_click` and `label_efficiency`."""
    net = trained(data, settings)
    return next_click(data, net, settings.seed) | label_efficiency(data, net, settings.seed)


def labelled_sessions(clicks: Clicks) -> Labelled:
    """Return the sessions that go on after three events without a purchase so far."""
    early = (clicks.places == SEEN_EVENTS + 1) & ~(clicks.ids[:, -SEEN_EVENTS:] == FIRST_EVENT + PURCHASE).any(1)
    bought = np.unique(clicks.sessions[(clicks.labels == PURCHASE) & (clicks.places > SEEN_EVENTS)])
    return Labelled(clicks.ids[early], np.isin(clicks.sessions[early], bought).astype(np.int64))


def label_efficiency(data: Ecom, net: ClickNet, seed: int) -> dict[str, float]:
    """Return the AUC on the test sessions by way and number of labels, which are drawn from the train sessions."""
    parts = split_ecom(data, seed)
    train, test = labelled_sessions(parts.train), labelled_sessions(parts.test)
    order = np.random.default_rng([seed, 0x1AB]).permutation(len(train.labels))
    ways: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {
        "embedding": (_embedded(net, train.ids), _embedded(net, test.ids)),
        "counts": (_counted(train.ids), _counted(test.ids)),
    }
    found = {}
    for count in LABELS:
        rows = _with_both(order, train.labels, count)
        for way, (features, others) in ways.items():
            mean, scale = features[rows].mean(0), features[rows].std(0) + 1e-6
            fitted = GridSearchCV(LogisticRegression(max_iter=2000), GRID, cv=5, scoring="neg_log_loss")
            fitted.fit((features[rows] - mean) / scale, train.labels[rows])
            found[f"{way}_{count}"] = _auc(fitted.decision_function((others - mean) / scale), test.labels)
        found[f"supervised_{count}"] = _auc(_supervised(train, test, rows, seed), test.labels)
    return found


def _with_both(order: NDArray[np.intp], labels: Rows, count: int) -> NDArray[np.intp]:
    """The first rows of the order; of the rarer label at least five, so that every way can be fitted."""
    rows = order[:count]
    bought = order[labels[order] == 1][:5]
    return np.concatenate([np.setdiff1d(rows, bought)[: count - 5], bought])


def _auc(scores: NDArray[Any], labels: Rows) -> float:
    return ranking_area(scores[labels == 0], scores[labels == 1])


def _embedded(net: ClickNet, ids: Rows) -> NDArray[Any]:
    return np.asarray(predict_clicks(net, Labelled(ids, ids[:, 0]))[0].double().numpy())


def _counted(ids: Rows) -> NDArray[Any]:
    session = (ids[:, -SEEN_EVENTS:, None] == np.arange(IDS)).sum(1)
    return np.concatenate([session, (ids[:, :, None] == np.arange(IDS)).sum(1)], axis=1).astype(float)


def _supervised(train: Labelled, test: Labelled, rows: NDArray[np.intp], seed: int) -> NDArray[Any]:
    """The recipe's own encoder with a head, trained on the labels alone; a fifth of them decides when to stop."""
    torch.manual_seed(seed)
    net = ClickNet(ClickShape(IDS, FIRST_EVENT), torch.zeros(IDS, len(EVENTS)))
    head = nn.Linear(net.shape.state_width, 1)
    ids, labels = torch.from_numpy(train.ids[rows]), torch.from_numpy(train.labels[rows]).float()
    held = torch.zeros(len(rows), dtype=torch.bool)
    held[::5] = True
    optimizer = torch.optim.AdamW([*net.parameters(), *head.parameters()], lr=0.005, weight_decay=0.01)

    def scores(some: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = head(net.states(some)[:, -1])[:, 0]
        return logits

    best, answer = math.inf, np.zeros(len(test.labels))
    for _ in range(30):
        loss = functional.binary_cross_entropy_with_logits(scores(ids[~held]), labels[~held])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        optimizer.step()
        with torch.no_grad():
            now = float(functional.binary_cross_entropy_with_logits(scores(ids[held]), labels[held]))
            if now < best:
                best, answer = now, scores(torch.from_numpy(test.ids)).double().numpy()
    return answer


def main(words: Sequence[str] | None = None) -> int:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Measure the clickstream recipe over seeds.")
    parser.add_argument("what", choices=["ecom", "ml-100k"])
    parser.add_argument("--data", type=Path, help="the data's file, when it shall not be looked for")
    parser.add_argument("--seeds", type=int, choices=COUNTS, default=5)
    parser.add_argument("--epochs", type=int, default=0, help="instead of the recipe's number")
    options = parser.parse_args(words)
    found = []
    for seed in range(options.seeds):
        settings = replace(ClickSettings(seed=seed), **({"epochs": options.epochs} if options.epochs else {}))
        if options.what == "ecom":
            found.append(compare_clicks(load_ecom(options.data), settings))
        else:
            wide = replace(settings, directions=16, joint=0.002, patience=4)
            found.append(rank_movielens(load_movielens(options.data), wide))
        sys.stderr.write(json.dumps(found[-1]) + "\n")
    sys.stdout.write(json.dumps(intervals(found), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How good the decision is beside models that explain less: several rounds, the same rows for all, with intervals.

Beside the additive model stand logistic regression (numbers standardised, categories and "missing" as indicators) and
histogram gradient boosting, both of scikit-learn with its defaults (the latter with its own early stopping also), on
exactly the features that the additive model may choose from, ratios included; and logistic regression and boosting on
the features alone. Nothing is tuned on test rows. `stockade bench models --only credit` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from serving.engines import measure
from serving.registry.measure import interval
from serving.train.payments.additive import AdditiveSettings, Source, sigmoid
from serving.train.payments.data import Applications, sources_of, split
from serving.train.payments.recipe import decide
from serving.train.payments.schema import Schema

PERFECT_DRAWS = 200
OURS = "additive, at most 8 terms"

Floats = NDArray[np.float64]


def compare_payments(
    schema: Schema,
    data: Applications,
    rounds: int,
    *,
    folds: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Return, by model, AUC and calibration error of each round with mean and 95 % interval, as plain JSON.

    A round is a seed of the recipe's own split, or with `folds` one of as many folds, each row a test row once; then
    `pooled` is the calibration error over all rows. `rounds` is 2, 3, 4, 5 or 10.

    `auc_less`: how much less the AUC is than the additive model's on the same split. `if_perfect`: the calibration
    error that chance alone gives where every probability is right.
    The interval is Student's over rounds. Rows of different rounds overlap, so it is of the rounds and no more.
    """
    sources = sources_of(data.features, schema)
    plain = {name: sources[name] for name in (feature.name for feature in schema.features)}
    views = {"": _matrix(sources), ", features alone": _matrix(plain)}
    found: dict[str, dict[str, list[float]]] = {}
    chosen = []
    pooled: dict[str, Floats] = {}
    for seed, (learn, test_rows) in enumerate(_folds(data.labels, rounds) if folds else _seeds(data.labels, rounds)):
        model = decide(schema, data, learn, replace(AdditiveSettings(), seed=seed))
        chosen.append([term.source for term in model.terms])
        test = {name: Source(source.values[test_rows], source.levels) for name, source in sources.items()}
        scores = {OURS: sigmoid(model.logit(test))}
        for view, (numbers, indicators) in views.items():
            for name, (matrix, classifier) in _others(numbers, indicators, seed).items():
                classifier.fit(matrix[learn], data.labels[learn])
                scores[name + view] = classifier.predict_proba(matrix[test_rows])[:, 1]
        labels = data.labels[test_rows]
        for name, bad in scores.items():
            pooled.setdefault(name, np.zeros(len(data)))[test_rows] = bad
            entry = found.setdefault(name, {"auc": [], "auc_less": [], "calibration_error": [], "if_perfect": []})
            entry["auc"].append(measure.ranking_area(bad[labels == 0], bad[labels == 1]))
            entry["auc_less"].append(found[OURS]["auc"][-1] - entry["auc"][-1])
            entry["calibration_error"].append(_error(bad, labels))
            entry["if_perfect"].append(_error_if_perfect(bad, seed))
        if on_step is not None:
            on_step(seed + 1, rounds)
    return {
        "table": schema.table,
        "rounds": rounds,
        "terms": chosen,
        "pooled": {name: _error(bad, data.labels) for name, bad in pooled.items()} if folds else {},
        "models": {
            name: {metric: _summary(values) for metric, values in entry.items()} for name, entry in found.items()
        },
    }


def _seeds(labels: NDArray[np.uint8], seeds: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    parts = [split(labels, seed) for seed in range(seeds)]
    return [(part.learn, part.test) for part in parts]


def _folds(labels: NDArray[np.uint8], count: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    folds = StratifiedKFold(count, shuffle=True, random_state=0)
    return [(np.asarray(learn), np.asarray(test)) for learn, test in folds.split(labels, labels)]


def _matrix(sources: Mapping[str, Source]) -> tuple[Floats, Floats]:
    """Return values with NaN for boosting, and the same filled, with indicators, for logistic regression."""
    numbers = np.column_stack([source.values for source in sources.values()])
    columns = []
    for source in sources.values():
        missing = np.isnan(source.values)
        if source.levels:
            columns += [source.values == level for level in range(source.levels)]
        else:
            columns.append(np.where(missing, np.nanmedian(source.values), source.values))
        if missing.any():
            columns.append(missing)
    return numbers, np.column_stack(columns).astype(np.float64)


def _others(numbers: Floats, indicators: Floats, seed: int) -> dict[str, tuple[Floats, Any]]:
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    return {
        "logistic regression": (indicators, regression),
        "gradient boosting": (numbers, HistGradientBoostingClassifier(random_state=seed)),
        "gradient boosting, stopped early": (
            numbers,
            HistGradientBoostingClassifier(random_state=seed, early_stopping=True, learning_rate=0.05),
        ),
    }


def _error(bad: Floats, labels: NDArray[np.uint8]) -> float:
    return measure.calibration_error(np.column_stack([1.0 - bad, bad]), labels)


def _error_if_perfect(bad: Floats, seed: int) -> float:
    """Return what the calibration error would be on average if every probability were right: chance in the labels."""
    rng = np.random.default_rng([seed, 0xECE])
    draws = [_error(bad, (rng.random(len(bad)) < bad).astype(np.uint8)) for _ in range(PERFECT_DRAWS)]
    return float(np.mean(draws))


def _summary(values: list[float]) -> dict[str, Any]:
    found = interval(values)
    low, high = found["mean"] - found["half"], found["mean"] + found["half"]
    return {"mean": found["mean"], "interval": [low, high], "values": values}

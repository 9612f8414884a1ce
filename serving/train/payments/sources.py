"""From rows as clients send them to the values that terms are functions of; `payments_graph` does the same in ONNX."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.train.payments.additive import Source
from serving.train.payments.schema import Ratio, Schema


def clean(features: NDArray[np.float32], schema: Schema) -> NDArray[np.float64]:
    """Return float64 (rows, features): NaN where missing, the end of the range beyond it, codes rounded."""
    values = np.minimum(features.astype(np.float64), [feature.top for feature in schema.features])
    coded = [bool(feature.levels or feature.ranks) for feature in schema.features]
    values = np.where(coded, np.floor(values + 0.5), values)
    return np.where(features < 0, np.nan, values)


def sources_of(features: NDArray[np.float32], schema: Schema) -> dict[str, Source]:
    """Return every feature and every ratio by name."""
    values = clean(features, schema)
    columns = {feature.name: values[:, index] for index, feature in enumerate(schema.features)}
    sources = {feature.name: Source(columns[feature.name], len(feature.levels)) for feature in schema.features}
    return sources | {ratio.name: Source(_ratio(ratio, columns)) for ratio in schema.ratios}


def _ratio(ratio: Ratio, columns: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    total = np.sum([weight * np.nan_to_num(columns[name]) for name, weight in ratio.sum.items()], axis=0)
    value = np.maximum(total, 0.0) / np.maximum(np.nan_to_num(columns[ratio.over]), ratio.over_min)
    if ratio.times:
        value = value * np.nan_to_num(columns[ratio.times])
    missing = np.any([np.isnan(columns[name]) for name in ratio.needs], axis=0)
    return np.where(missing, np.nan, value)

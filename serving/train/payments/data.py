"""Loan applications: found on disk, checked, turned into rows of numbers, split by seed.

Rules:
- An explicit path is the only one looked at: an `.rda` file, a directory with `TABLE.rda`, the data directory of the R
  package, or a directory into which Debian's package was unpacked. Without one, where that package is installed.
- A column that is missing, of the wrong kind, out of its declared range or with an undeclared level is refused.
- The digest of the content must be the published one, unless the caller takes other data and says so; then many rows
  that are equal but for their label, and a label that hardly ever or nearly always occurs, are refused: whoever poisons
  data changes labels.
- Each split has one use: `train` teaches the energies, `calibrate` is for the conformal threshold, `test` only
  measures. The decision learns from train and calibrate, which no energy depends on.

Both tables: package modeldata (c) 2019 Max Kuhn, RStudio, MIT licence; Debian's `r-cran-modeldata`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.train.errors import DatasetMalformed, DatasetMissing
from serving.train.payments.additive import Source
from serving.train.payments.rtables import Column, Table, read_database, read_rda, table_digest
from serving.train.payments.schema import MISSING, Feature, Ratio, Schema

INSTALLED = Path("usr/lib/R/site-library/modeldata/data")
DEBIAN_DIRECTORY = Path("/") / INSTALLED
DEBIAN_PACKAGE = "r-cran-modeldata"
LICENCE = "MIT, (c) 2019 Max Kuhn, RStudio"
SOURCE = "https://cran.r-project.org/package=modeldata"
GOOD, BAD = "good", "bad"
ROWS_MIN, ROWS_MAX = 500, 1_000_000
LABEL_SHARE_MIN = 0.01
CONTRADICTIONS_MAX = 0.01
TEST_SHARE = CALIBRATE_SHARE = 0.2
EMBELLISHED_TIMES = 3.0


@dataclass(frozen=True, slots=True)
class Applications:
    """`features` float32 (rows, features) as a client sends them, `labels` uint8 (rows,): 1 is bad."""

    features: NDArray[np.float32]
    labels: NDArray[np.uint8]
    digest: str = ""
    published: bool = False

    def take(self, rows: NDArray[np.intp]) -> Applications:
        return Applications(self.features[rows], self.labels[rows], self.digest, self.published)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Parts:
    """Disjoint rows of the table, as places in it; `digests` names each by the SHA-256 of its places."""

    train: NDArray[np.intp]
    calibrate: NDArray[np.intp]
    test: NDArray[np.intp]

    @property
    def learn(self) -> NDArray[np.intp]:
        """What the decision learns from."""
        return np.sort(np.concatenate([self.train, self.calibrate]))

    @property
    def digests(self) -> dict[str, str]:
        parts = {"train": self.train, "calibrate": self.calibrate, "test": self.test}
        return {name: hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest() for name, rows in parts.items()}


def load_applications(schema: Schema, path: Path | None = None, *, other: bool = False) -> Applications:
    """Load a table. `other`: its content need not be the published one.

    Raises:
        DatasetMissing: it is not there.
        DatasetMalformed: it is not what it should be.
    """
    place = DEBIAN_DIRECTORY if path is None else path
    try:
        table, file = _read(place, schema.table)
    except OSError as error:
        raise DatasetMissing(schema.table, [place], DEBIAN_PACKAGE) from error
    digest = table_digest(table)
    published = digest == schema.sha256
    if not published and not other:
        problem = f"{schema.table} is not the published one (SHA-256 {digest}); --other-data takes it"
        raise DatasetMalformed(file, problem)
    features = np.column_stack([_feature(table, feature, file) for feature in schema.features]).astype(np.float32)
    applications = Applications(features, _labels(table, schema, file), digest, published)
    if not published:
        _check(applications, schema, file)
    return applications


def split(labels: NDArray[np.uint8], seed: int) -> Parts:
    """Split at random into 60 % train, 20 % calibrate and 20 % test, each with its share of bad ones."""
    rng = np.random.default_rng([seed, 0x5041])
    parts: list[list[NDArray[np.intp]]] = [[], [], []]
    for label in (0, 1):
        rows = rng.permutation(np.flatnonzero(labels == label))
        test = round(TEST_SHARE * len(rows))
        calibrate = round(CALIBRATE_SHARE * len(rows))
        for part, chosen in zip(parts, np.split(rows, [test, test + calibrate]), strict=True):
            part.append(chosen)
    held_out, calibration, train = (np.sort(np.concatenate(part)) for part in parts)
    return Parts(train=train, calibrate=calibration, test=held_out)


def _read(place: Path, name: str) -> tuple[Table, str]:
    if place.is_file():
        return read_rda(place, name), place.name
    for file in (place / f"{name}.rda", place / f"{name}.RData"):
        if file.is_file():
            return read_rda(file, name), file.name
    directory = place if (place / "Rdata.rdx").exists() else place / INSTALLED
    return read_database(directory, name), "Rdata.rdb"


def _column(table: Table, name: str, file: str) -> Column:
    if name not in table:
        raise DatasetMalformed(file, f"has no column {name}")
    return table[name]


def _feature(table: Table, feature: Feature, file: str) -> NDArray[np.float64]:
    column = _column(table, feature.name, file)
    places = feature.levels or feature.ranks
    if bool(column.levels) != bool(places):
        kind = "categories" if places else "numbers"
        raise DatasetMalformed(file, f"column {feature.name} does not hold {kind}")
    values = _codes(column, feature, file) if places else column.values
    known = values[~np.isnan(values)]
    if known.size and not (known.min() >= 0 and known.max() <= feature.top):
        problem = f"column {feature.name} has a value outside of 0 to {feature.top:g}"
        raise DatasetMalformed(file, problem)
    return np.where(np.isnan(values), MISSING, values)


def _codes(column: Column, feature: Feature, file: str) -> NDArray[np.float64]:
    places: Mapping[str, float] = {
        **{level: float(code) for code, level in enumerate(feature.levels or feature.ranks)},
        **dict.fromkeys(feature.unknown, np.nan),
    }
    used = {column.levels[int(code)] for code in np.unique(column.values[~np.isnan(column.values)])}
    if strange := sorted(used - places.keys()):
        raise DatasetMalformed(file, f"column {feature.name} has the unknown level {strange[0]!r}")
    lookup = np.array([*(places.get(level, np.nan) for level in column.levels), np.nan])
    return np.asarray(lookup[np.where(np.isnan(column.values), len(column.levels), column.values).astype(np.intp)])


def _labels(table: Table, schema: Schema, file: str) -> NDArray[np.uint8]:
    column = _column(table, schema.label, file)
    if set(column.levels) != {GOOD, BAD} or np.isnan(column.values).any():
        raise DatasetMalformed(file, f"column {schema.label} is not {GOOD} or {BAD} in every row")
    if not ROWS_MIN <= len(column.values) <= ROWS_MAX:
        raise DatasetMalformed(file, f"has {len(column.values)} rows, not {ROWS_MIN} to {ROWS_MAX}")
    return np.asarray(column.values == column.levels.index(BAD), np.uint8)


def _check(applications: Applications, schema: Schema, file: str) -> None:
    """Look for labels that somebody may have changed, where no digest speaks for them."""
    share = float(applications.labels.mean())
    if not LABEL_SHARE_MIN <= share <= 1 - LABEL_SHARE_MIN:
        raise DatasetMalformed(file, f"{share:.2%} of {schema.label} are {BAD}; {LABEL_SHARE_MIN:.0%} is the least")
    _, same = np.unique(applications.features, axis=0, return_inverse=True)
    rows = np.bincount(same)
    bad = np.bincount(same, weights=applications.labels)
    contradictions = float(np.minimum(bad, rows - bad).sum()) / len(applications)
    if contradictions > CONTRADICTIONS_MAX:
        problem = f"{contradictions:.2%} of the rows have an equal with the other {schema.label}"
        raise DatasetMalformed(file, f"{problem}; at most {CONTRADICTIONS_MAX:.0%} may")


def clean(features: NDArray[np.float32], schema: Schema) -> NDArray[np.float64]:
    """Return float64 (rows, features): NaN where missing, the end of the range beyond it, codes rounded."""
    values = np.minimum(features.astype(np.float64), [feature.top for feature in schema.features])
    coded = [bool(feature.levels or feature.ranks) for feature in schema.features]
    values = np.where(coded, np.floor(values + 0.5), values)
    return np.where(features < 0, np.nan, values)


def sources_of(features: NDArray[np.float32], schema: Schema) -> dict[str, Source]:
    """Return what terms are functions of, every feature and ratio by name; `graph` does the same in ONNX."""
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


def strange_applications(schema: Schema, rows: NDArray[np.float32], seed: int) -> dict[str, NDArray[np.float32]]:
    """Return rows that nobody sent, by kind, one for each test row, drawn by seed; nothing is fitted to them.

    - mixed: each feature from another row, so every column is as usual and the rows are not.
    - uniform: each feature anywhere in its declared range.
    - shifted: each row with its features moved one place, cut to the range of where they land: columns mixed up.
    - embellished: real rows with one number, drawn by chance, three times as large: a figure that was improved.
    """
    rng = np.random.default_rng([seed, 0x57])
    tops = np.array([feature.top for feature in schema.features], np.float32)
    coded = np.array([bool(feature.levels or feature.ranks) for feature in schema.features])
    uniform = rng.random(rows.shape, dtype=np.float32) * tops
    uniform = np.where(coded, np.floor(uniform + 0.5), uniform)
    embellished = rows.copy()
    chosen = rng.choice(np.flatnonzero(~coded), len(rows))
    at = (np.arange(len(rows)), chosen)
    embellished[at] = np.where(rows[at] > 0, np.minimum(rows[at] * EMBELLISHED_TIMES, tops[chosen]), rows[at])
    return {
        "mixed": rng.permuted(rows, axis=0),
        "uniform": uniform.astype(np.float32),
        "shifted": np.minimum(np.roll(rows, 1, axis=1), tops),
        "embellished": embellished,
    }

"""Loan applications that nobody made: a table of the columns of credit_data, saved as R would save it."""

from __future__ import annotations

import gzip
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import rdata


def applications(rows=2_000, seed=0):
    """A data frame whose risk falls with seniority and income and rises with the amount; some values are missing."""
    rng = np.random.default_rng(seed)
    seniority = rng.integers(0, 30, rows)
    income = rng.integers(50, 400, rows)
    amount = rng.integers(2, 40, rows) * 100
    records = rng.random(rows) < 0.2
    logit = 0.5 - 0.12 * seniority - 0.008 * income + 0.0008 * amount + 1.5 * records
    bad = rng.random(rows) < 1 / (1 + np.exp(-logit))

    def numbers(values, missing=0.0):
        return pd.array(np.where(rng.random(rows) < missing, None, values), dtype="Int32")

    def kinds(*levels):
        return pd.Categorical(rng.choice(levels, rows), categories=list(levels))

    return pd.DataFrame(
        {
            "Status": pd.Categorical(np.where(bad, "bad", "good"), categories=["bad", "good"]),
            "Seniority": numbers(seniority),
            "Home": kinds("ignore", "other", "owner", "parents", "priv", "rent"),
            "Time": numbers(rng.integers(1, 7, rows) * 12),
            "Records": pd.Categorical(np.where(records, "yes", "no"), categories=["no", "yes"]),
            "Job": kinds("fixed", "freelance", "others", "partime"),
            "Expenses": numbers(rng.integers(35, 120, rows)),
            "Income": numbers(income, missing=0.05),
            "Assets": numbers(rng.integers(0, 20, rows) * 1000),
            "Debt": numbers(rng.integers(0, 2, rows) * rng.integers(0, 3000, rows)),
            "Amount": numbers(amount),
            "Price": numbers(amount + rng.integers(0, 1500, rows)),
        }
    )


def save(path, frame, name="credit_data", **how):
    """Write an `.rda` file."""
    rdata.write_rda(path, {name: writable(frame)}, **how)
    return path


def writable(frame):
    """A frame with its texts as objects, anything else as it is: with PyArrow, pandas' own texts cannot be written."""
    if not isinstance(frame, pd.DataFrame):
        return frame
    plain = frame.rename(columns=str)
    plain.columns = plain.columns.astype(object)
    for name, column in plain.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            plain[name] = column.cat.rename_categories(column.cat.categories.astype(object))
        elif column.dtype == "str":
            plain[name] = column.astype(object)
    return plain


def serialized(value):
    """R's serialization of a value, not compressed."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "value.rds"
        rdata.write_rds(file, writable(value), compression=None)
        return file.read_bytes()


def save_database(directory, frame, name="credit_data", *, compression=1, record=None, place=None):
    """Write the database in which an installed package keeps its data."""
    directory.mkdir(parents=True, exist_ok=True)
    raw = serialized(frame)
    if record is None:
        record = struct.pack(">I", len(raw)) + zlib.compress(raw)
    start, length = place or (7, len(record))
    index = {
        "variables": {name: np.array([start, length], np.int32)},
        "references": {},
        "compressed": np.array([compression], np.int32),
    }
    (directory / "Rdata.rdb").write_bytes(b"another" + record)
    (directory / "Rdata.rdx").write_bytes(gzip.compress(serialized(index)))
    return directory

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from serving.train.errors import DatasetMalformed, DatasetMissing
from serving.train.payments import data as payments_data
from serving.train.payments.data import DEBIAN_DIRECTORY, INSTALLED, load_applications, split
from serving.train.payments.schema import CREDIT_DATA, LENDING_CLUB, MISSING, SCHEMAS
from tests.serving.train.applications import applications, save, save_database

FRAME = applications()
NAMES = [feature.name for feature in CREDIT_DATA.features]


def load(path, **how):
    return load_applications(CREDIT_DATA, path, **({"other": True} | how))


def refused(tmp_path, frame):
    with pytest.raises(DatasetMalformed) as caught:
        load(save(tmp_path / "credit_data.rda", frame))
    return caught.value.problem


def test_rows_are_numbers_codes_and_missing_values(tmp_path):
    loaded = load(save(tmp_path / "any-name.rda", FRAME))
    assert loaded.features.dtype == np.float32
    assert loaded.features.shape == (2_000, 11)
    income = loaded.features[:, NAMES.index("Income")]
    np.testing.assert_array_equal(income == MISSING, FRAME["Income"].isna())
    np.testing.assert_array_equal(income[income >= 0], FRAME["Income"].dropna().astype(float))
    home = loaded.features[:, NAMES.index("Home")]
    assert [CREDIT_DATA.features[1].levels[int(code)] for code in home] == list(FRAME["Home"])
    np.testing.assert_array_equal(loaded.labels, FRAME["Status"] == "bad")


def test_codes_are_ours_in_whatever_order_the_table_has_them(tmp_path):
    turned = FRAME.assign(
        Job=FRAME["Job"].cat.reorder_categories(["partime", "others", "freelance", "fixed"]),
        Status=FRAME["Status"].cat.reorder_categories(["good", "bad"]),
    )
    one, other = (load(save(tmp_path / f"{i}.rda", frame)) for i, frame in enumerate((FRAME, turned)))
    np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one.digest != other.digest


def test_it_is_found_as_a_file_in_a_directory_and_where_the_package_was_unpacked(tmp_path):
    (tmp_path / "files").mkdir()
    save(tmp_path / "files" / "credit_data.RData", FRAME)
    save_database(tmp_path / "unpacked" / INSTALLED, FRAME)
    digests = {
        load(place).digest for place in (tmp_path / "files", tmp_path / "unpacked", tmp_path / "unpacked" / INSTALLED)
    }
    assert len(digests) == 1


def test_what_is_absent_names_the_package(tmp_path, monkeypatch):
    with pytest.raises(DatasetMissing, match="r-cran-modeldata") as caught:
        load(tmp_path)
    assert caught.value.looked_in == (tmp_path,)
    monkeypatch.setattr(payments_data, "DEBIAN_DIRECTORY", tmp_path / "nowhere")
    with pytest.raises(DatasetMissing) as caught:
        load(None)
    assert caught.value.looked_in == (tmp_path / "nowhere",)


def test_each_rule_for_a_column(tmp_path):
    assert "no column Income" in refused(tmp_path, FRAME.drop(columns="Income"))
    assert "no column Status" in refused(tmp_path, FRAME.drop(columns="Status"))
    assert "Income does not hold numbers" in refused(tmp_path, FRAME.assign(Income=FRAME["Job"]))
    assert "Job does not hold categories" in refused(tmp_path, FRAME.assign(Job=FRAME["Time"]))
    assert "unknown level 'idle'" in refused(
        tmp_path, FRAME.assign(Job=FRAME["Job"].cat.rename_categories({"others": "idle"}))
    )
    levels = FRAME["Status"].cat.rename_categories({"bad": "awful"})
    assert "not good or bad" in refused(tmp_path, FRAME.assign(Status=levels))
    assert "not good or bad" in refused(tmp_path, FRAME.assign(Status=FRAME["Status"].where(FRAME.index > 0)))


@pytest.mark.parametrize(("value", "taken"), [(60.0, True), (60.5, False), (0.0, True), (-0.5, False), (np.inf, False)])
def test_a_number_at_the_ends_of_its_range_and_past_them(tmp_path, value, taken):
    frame = FRAME.assign(Seniority=FRAME["Seniority"].astype(float).where(FRAME.index > 0, value))
    if taken:
        assert load(save(tmp_path / "t.rda", frame)).features[0, 0] == value
    else:
        assert "Seniority has a value outside of 0 to 60" in refused(tmp_path, frame)


def test_rows_at_the_limit_and_one_past_it(tmp_path, monkeypatch):
    assert "499 rows" in refused(tmp_path, FRAME.head(499))
    assert len(load(save(tmp_path / "t.rda", FRAME.head(500)))) == 500
    monkeypatch.setattr(payments_data, "ROWS_MAX", 500)
    assert "501 rows" in refused(tmp_path, FRAME.head(501))


def test_data_that_is_not_the_published_is_taken_only_when_that_is_said(tmp_path, monkeypatch):
    file = save(tmp_path / "t.rda", FRAME)
    with pytest.raises(DatasetMalformed, match="not the published one"):
        load(file, other=False)
    loaded = load(file)
    assert not loaded.published
    assert load_applications(payments_data.Schema(**{**fields(CREDIT_DATA), "sha256": loaded.digest}), file).published


def fields(schema):
    return {name: getattr(schema, name) for name in schema.__slots__}


def test_labels_that_somebody_changed_are_noticed(tmp_path):
    once = FRAME.head(1_000)
    flipped = once.assign(Status=once["Status"].cat.rename_categories({"bad": "good", "good": "bad"}))
    assert "equal with the other Status" in refused(tmp_path, pd.concat([once, flipped.head(21)]))
    load(save(tmp_path / "t.rda", pd.concat([once, flipped.head(9)])))
    rare = np.where(np.arange(1_000) < 9, "bad", "good")
    assert "are bad" in refused(tmp_path, once.assign(Status=pd.Categorical(rare)))


def test_splits_are_disjoint_complete_stratified_and_decided_by_the_seed():
    labels = (np.arange(2_000) % 4 == 0).astype(np.uint8)
    parts = split(labels, 0)
    assert (len(parts.train), len(parts.calibrate), len(parts.test)) == (1_200, 400, 400)
    np.testing.assert_array_equal(np.sort(np.concatenate([parts.learn, parts.test])), np.arange(2_000))
    assert not set(parts.train) & set(parts.calibrate)
    assert [int(labels[rows].sum()) for rows in (parts.train, parts.calibrate, parts.test)] == [300, 100, 100]
    assert split(labels, 0).digests == parts.digests
    other = split(labels, 1).digests
    assert all(other[part] != parts.digests[part] for part in ("train", "calibrate", "test"))


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_fits_together(schema):
    features = {feature.name for feature in schema.features}
    ratios = {ratio.name for ratio in schema.ratios}
    assert not features & {*ratios, *schema.left_out, schema.label}
    assert len({candidate.reason for candidate in schema.candidates}) == len(schema.candidates)
    assert {candidate.source for candidate in schema.candidates} <= features | ratios
    for ratio in schema.ratios:
        assert {*ratio.sum, ratio.over, *ratio.needs} | ({ratio.times} - {""}) <= features


@pytest.mark.skipif(not DEBIAN_DIRECTORY.exists(), reason="the package r-cran-modeldata is not installed")
def test_the_published_tables_load():
    loaded = {schema.table: load_applications(schema) for schema in (CREDIT_DATA, LENDING_CLUB)}
    assert [(len(one), int(one.labels.sum()), one.published) for one in loaded.values()] == [
        (4_454, 1_254, True),
        (9_857, 517, True),
    ]

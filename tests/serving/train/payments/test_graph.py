"""The payments graph against what was fitted, and what it promises about every row."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundles.bundle import Bundle
from serving.bundles.graph import check_graph
from serving.bundles.manifest import TensorSpec
from serving.engines.inprocess import InProcessEngine
from serving.train.payments.additive import AdditiveModel, AdditiveSettings, Source, fit_additive
from serving.train.payments.data import clean, load_applications, sources_of
from serving.train.payments.embedding import embed
from serving.train.payments.graph import write_payments_graph
from serving.train.payments.masked import MaskedSettings, Surprise, fit_surprise
from serving.train.payments.schema import CREDIT_DATA, MISSING
from tests.serving.train.applications import applications, save

NAMES = [feature.name for feature in CREDIT_DATA.features]
LEVELS = [len(feature.levels) for feature in CREDIT_DATA.features]


@dataclass(frozen=True)
class World:
    features: np.ndarray
    labels: np.ndarray
    model: AdditiveModel
    surprise: Surprise
    engine: InProcessEngine

    def infer(self, features):
        return self.engine.infer({"features": features})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    file = save(tmp_path_factory.mktemp("data") / "credit_data.rda", applications(900))
    data = load_applications(CREDIT_DATA, file, other=True)
    sources = sources_of(data.features, CREDIT_DATA)
    model = fit_additive(sources, CREDIT_DATA.candidates, data.labels, AdditiveSettings(smooth=(1.0,)))
    surprise = fit_surprise(clean(data.features, CREDIT_DATA), LEVELS, MaskedSettings(epochs=2))
    graph = write_payments_graph(CREDIT_DATA, model, surprise)
    check_graph(graph, "model.onnx")
    terms = len(model.terms)
    outputs = (
        TensorSpec("probabilities", "FP32", (-1, 2)),
        TensorSpec("logit", "FP32", (-1,)),
        TensorSpec("contributions", "FP32", (-1, terms)),
        TensorSpec("reason_codes", "INT64", (-1, min(4, terms))),
        TensorSpec("latent", "FP32", (-1, 48)),
        *(TensorSpec(name, "FP32", (-1,)) for name in ("energy", "mahalanobis", "residual")),
    )
    inputs = (TensorSpec("features", "FP32", (-1, len(NAMES))),)
    engine = InProcessEngine(Bundle("payments", "1", "", inputs, outputs, (), {}, {"dense": graph}, {}))
    return World(data.features, data.labels, model, surprise, engine)


def any_rows():
    """Rows within the declared ranges, anything missing that may be sent."""
    cells = [
        st.one_of(
            st.just(MISSING),
            st.integers(0, int(feature.top)).map(float)
            if feature.levels
            else st.floats(0, feature.top, width=32).map(float),
        )
        for feature in CREDIT_DATA.features
    ]
    return st.lists(st.tuples(*cells), min_size=1, max_size=5).map(lambda rows: np.array(rows, np.float32))


@settings(deadline=None, max_examples=30)
@given(any_rows())
def test_the_graph_computes_what_was_fitted(world, rows):
    outputs = world.infer(rows)
    logit = world.model.logit(sources_of(rows, CREDIT_DATA))
    np.testing.assert_allclose(outputs["logit"], logit, rtol=0, atol=1e-4)
    np.testing.assert_allclose(outputs["probabilities"][:, 1], 1 / (1 + np.exp(-logit)), rtol=0, atol=1e-5)
    embedded = embed(clean(rows, CREDIT_DATA), world.surprise.blocks)
    with torch.no_grad():
        errors = world.surprise.predictor.errors(torch.from_numpy(embedded).float()).double().numpy()
    energy = (errors / world.surprise.error_scales**2).mean(axis=1)
    np.testing.assert_allclose(outputs["energy"], energy, rtol=1e-3, atol=1e-3)
    gaussian, plane = world.surprise.gaussian, world.surprise.plane
    distance = np.linalg.norm(embedded @ gaussian.whitening - gaussian.mean, axis=1)
    np.testing.assert_allclose(outputs["mahalanobis"], distance, rtol=1e-3, atol=1e-3)
    centred = embedded - plane.mean
    left = centred - centred @ plane.components @ plane.components.T
    np.testing.assert_allclose(outputs["residual"], np.sqrt((left**2).mean(axis=1)), rtol=1e-3, atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(any_rows())
def test_contributions_add_up_to_the_score(world, rows):
    outputs = world.infer(rows)
    total = np.float32(world.model.intercept) + outputs["contributions"].sum(axis=1)
    np.testing.assert_allclose(outputs["logit"], total, rtol=0, atol=1e-5)
    np.testing.assert_allclose(outputs["probabilities"][:, 1], 1 / (1 + np.exp(-total)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(any_rows())
def test_reasons_are_the_largest_contributions_that_count_against(world, rows):
    outputs = world.infer(rows)
    for contributions, codes in zip(outputs["contributions"], outputs["reason_codes"], strict=True):
        adverse = sorted((c for c in contributions if c > 0), reverse=True)[: len(codes)]
        assert [contributions[code - 1] for code in codes if code] == adverse
        assert (codes[len(adverse) :] == 0).all()


@settings(deadline=None, max_examples=25)
@given(any_rows(), st.data())
def test_terms_with_a_direction_are_monotone_over_the_grid(world, rows, data):
    """Whatever else a row holds. A feature may be in a ratio too, which must not turn it around."""
    directions = {"Seniority": -1, "Income": -1, "Assets": -1, "Amount": 1}
    name = data.draw(st.sampled_from(sorted(directions)))
    column = NAMES.index(name)
    top = CREDIT_DATA.features[column].top
    values = data.draw(st.lists(st.floats(0, top, width=32), min_size=2, max_size=20).map(sorted))
    grid = np.repeat(rows[:1], len(values), axis=0)
    grid[:, column] = values
    steps = np.diff(world.infer(grid)["logit"].astype(np.float64)) * directions[name]
    assert steps.min() >= -1e-5


def test_a_grid_over_the_whole_range_is_monotone(world):
    for term in world.model.terms:
        if term.source not in NAMES or not term.direction:
            continue
        column = NAMES.index(term.source)
        grid = np.repeat(world.features[:1], 4_000, axis=0)
        grid[:, column] = np.linspace(0, CREDIT_DATA.features[column].top, 4_000)
        index = [one.source for one in world.model.terms].index(term.source)
        assert (np.diff(world.infer(grid)["contributions"][:, index]) * term.direction).min() >= 0
        assert np.ptp(world.infer(grid)["contributions"][:, index]) > 0


def test_what_is_missing_beyond_the_range_or_between_codes_is_read_as_documented(world):
    row = world.features[:1].copy()
    income, job = NAMES.index("Income"), NAMES.index("Job")

    def logit(column, value):
        changed = row.copy()
        changed[0, column] = value
        outputs = world.infer(changed)
        assert all(np.isfinite(output).all() for output in outputs.values())
        return outputs["logit"][0], outputs["energy"][0]

    assert logit(income, -0.001) == logit(income, MISSING) == logit(income, -3e38) != logit(income, 0)
    assert logit(income, 10_000) == logit(income, 3e38) != logit(income, 50)
    assert logit(job, 2.4) == logit(job, 2) != logit(job, 3) == logit(job, 2.6) == logit(job, 9)


def test_rows_do_not_feel_their_neighbours(world):
    batch = world.infer(world.features[:200])
    for row in range(0, 200, 7):
        alone = world.infer(world.features[row : row + 1])
        for name, output in alone.items():
            np.testing.assert_allclose(output[0], batch[name][row], rtol=0, atol=1e-5)


def test_mixed_up_rows_surprise_more_than_real_ones(tmp_path):
    frame = applications(1_500)
    frame["Price"] = frame["Amount"] + 100  # something to learn: two features that go together
    data = load_applications(CREDIT_DATA, save(tmp_path / "credit_data.rda", frame), other=True)
    values = clean(data.features, CREDIT_DATA)
    surprise = fit_surprise(values[:1_000], LEVELS, MaskedSettings(epochs=25, batch_rows=64, patience=25))
    assert surprise.history[-1].held_out_loss < 0.97 * surprise.history[0].held_out_loss
    mixed = values[1_000:].copy()
    mixed[:, NAMES.index("Price")] = np.random.default_rng(0).permutation(mixed[:, NAMES.index("Price")])

    def energy(rows):
        with torch.no_grad():
            errors = surprise.predictor.errors(torch.from_numpy(embed(rows, surprise.blocks)).float()).numpy()
        return (errors / surprise.error_scales**2).mean(axis=1)

    assert np.median(energy(mixed)) > np.quantile(energy(values[1_000:]), 0.7)


def test_training_stops_early_and_keeps_the_best(world):
    values = clean(world.features[:300], CREDIT_DATA)
    seen = []
    chosen = MaskedSettings(epochs=30, rate=0.3, patience=2)
    surprise = fit_surprise(values, LEVELS, chosen, lambda done, total: seen.append((done, total)))
    losses = [epoch.held_out_loss for epoch in surprise.history]
    assert len(losses) == int(np.argmin(losses)) + 3 < 30
    assert seen == [(epoch + 1, 30) for epoch in range(len(losses))]
    again = fit_surprise(values, LEVELS, replace(chosen, epochs=int(np.argmin(losses)) + 1))
    assert [epoch.held_out_loss for epoch in again.history] == losses[: len(again.history)]
    torch.testing.assert_close(again.predictor.state_dict(), surprise.predictor.state_dict(), rtol=0, atol=0)


def test_a_source_is_named_by_feature_or_ratio(world):
    sources = sources_of(world.features[:3], CREDIT_DATA)
    assert isinstance(sources["Capacity"], Source)
    row = {name: float(value) for name, value in zip(NAMES, world.features[0], strict=True)}
    left = max(100 * row["Income"] - 100 * row["Expenses"] - row["Debt"], 0)
    assert sources["Capacity"].values[0] == pytest.approx(left / row["Amount"] * row["Time"])
    assert sources["Financed"].values[0] == pytest.approx(100 * row["Amount"] / row["Price"])

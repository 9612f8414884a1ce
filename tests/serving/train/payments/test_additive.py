from __future__ import annotations

import numpy as np
import pytest

from serving.train.payments.additive import AdditiveSettings, Source, fit_additive, log_loss, sigmoid
from serving.train.payments.schema import Candidate

ROWS = 1_500
CANDIDATES = (
    Candidate("falls", -1, "falls"),
    Candidate("rises", 1, "rises"),
    Candidate("kind", 0, "kind"),
    *(Candidate(f"noise{i}", 0, f"noise{i}") for i in range(6)),
    Candidate("constant", 1, "constant"),
)


@pytest.fixture(scope="module")
def world():
    """A risk made of three functions; six candidates have nothing to do with it, and one is constant."""
    rng = np.random.default_rng(0)
    falls, rises, kind = rng.normal(size=ROWS), rng.exponential(size=ROWS), rng.integers(0, 3, ROWS)
    logit = -0.5 - 1.2 * falls + np.minimum(rises, 1.5) + np.array([-1.0, 0.0, 1.5])[kind]
    missing = rng.random(ROWS) < 0.1
    sources = {
        "falls": Source(np.where(missing, np.nan, falls)),
        "rises": Source(rises),
        "kind": Source(kind.astype(float), 3),
        "constant": Source(np.full(ROWS, 7.0)),
    } | {f"noise{i}": Source(rng.normal(size=ROWS)) for i in range(6)}
    return sources, (rng.random(ROWS) < sigmoid(logit)).astype(np.uint8), logit


def chosen(model):
    return {term.source for term in model.terms}


def term_of(model, source):
    return next(term for term in model.terms if term.source == source)


def test_the_terms_that_matter_are_chosen_and_no_more_than_allowed(world):
    sources, labels, logit = world
    model = fit_additive(sources, CANDIDATES, labels, AdditiveSettings(terms_max=3))
    assert chosen(model) == {"falls", "rises", "kind"}
    assert max(point.terms for point in model.path) <= 3
    known = ~np.isnan(sources["falls"].values)
    assert np.corrcoef(model.logit(sources)[known], logit[known])[0, 1] > 0.98
    assert chosen(fit_additive(sources, CANDIDATES, labels, AdditiveSettings(terms_max=1))) < {"falls", "rises", "kind"}


def test_a_term_never_runs_against_its_direction(world):
    sources, labels, _ = world
    grid = np.linspace(-5, 10, 2_001)
    settings = AdditiveSettings(terms_max=3, smooth=(0.01,), knots=25, ridge=0.01)  # free to follow every accident
    model = fit_additive(sources, CANDIDATES, labels, settings)
    assert np.diff(term_of(model, "falls").contribution(grid)).max() <= 0
    assert np.diff(term_of(model, "rises").contribution(grid)).min() >= 0
    free = tuple(Candidate(one.source, 0, one.reason) for one in CANDIDATES)
    loose = fit_additive(sources, free, labels, settings)
    assert np.diff(term_of(loose, "rises").contribution(grid)).min() < 0  # the data alone would have it so


def test_a_direction_against_the_data_leaves_a_term_without_effect(world):
    sources, labels, _ = world
    model = fit_additive(
        sources, (Candidate("falls", 1, "falls"), Candidate("kind", 0, "kind")), labels, AdditiveSettings()
    )
    assert chosen(model) <= {"kind", "falls"}
    known = sources["falls"].values[~np.isnan(sources["falls"].values)]
    if "falls" in chosen(model):
        assert np.ptp(term_of(model, "falls").contribution(known)) < 0.05


def test_contributions_have_no_mean_and_add_up(world):
    sources, labels, _ = world
    model = fit_additive(sources, CANDIDATES, labels, AdditiveSettings())
    parts = [term.contribution(sources[term.source].values) for term in model.terms]
    assert max(abs(part.mean()) for part in parts) < 1e-9
    np.testing.assert_allclose(model.intercept + np.sum(parts, axis=0), model.logit(sources), rtol=0, atol=1e-12)
    assert sigmoid(model.logit(sources)).mean() == pytest.approx(labels.mean(), abs=1e-4)  # the least of the log loss
    assert term_of(model, "falls").missing == term_of(model, "falls").contribution(np.array([np.nan]))[0] != 0


def test_few_missing_values_say_nothing(world):
    sources, labels, _ = world
    few = sources | {"falls": Source(np.where(np.arange(ROWS) < 19, np.nan, np.nan_to_num(sources["falls"].values)))}
    assert term_of(fit_additive(few, CANDIDATES, labels, AdditiveSettings()), "falls").missing == 0
    more = few | {"falls": Source(np.where(np.arange(ROWS) < 20, np.nan, few["falls"].values))}
    settings = AdditiveSettings(held_out_share=0.0005, missing_rows_min=20)
    assert term_of(fit_additive(more, CANDIDATES, labels, settings), "falls").missing != 0


def test_the_same_rows_and_seed_give_the_same_model(world):
    sources, labels, _ = world
    one, other = (fit_additive(sources, CANDIDATES, labels, AdditiveSettings(seed=3)) for _ in range(2))
    np.testing.assert_array_equal(one.logit(sources), other.logit(sources))
    assert one.path == other.path
    assert fit_additive(sources, CANDIDATES, labels, AdditiveSettings(seed=4)).path != one.path


def test_the_path_stops_when_the_held_out_rows_gain_no_more():
    rng = np.random.default_rng(1)
    sources = {f"noise{i}": Source(rng.normal(size=400)) for i in range(6)}
    labels = rng.integers(0, 2, 400).astype(np.uint8)
    steps = []
    candidates = [one for one in CANDIDATES if one.source in sources]
    settings = AdditiveSettings(terms_max=6, patience=4)
    model = fit_additive(sources, candidates, labels, settings, lambda done, total: steps.append((done, total)))
    losses = [point.held_out_loss for point in model.path]
    assert len(losses) == int(np.argmin(losses)) + 1 + 4
    assert steps == [(done + 1, 60) for done in range(len(losses))]


def test_log_loss_is_the_mean_surprise():
    logit, labels = np.array([0.0, 3.0, -800.0]), np.array([1, 1, 0], np.uint8)
    assert log_loss(logit, labels) == pytest.approx((np.log(2) + np.log1p(np.exp(-3))) / 3)

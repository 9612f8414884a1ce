"""The clickstream recipe, small: data to a signed bundle that is then served and screened."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
from safetensors.numpy import load_file

from defenses.budget.screen import Evidence
from defenses.screens.evidence import load_evidence
from gateway.cli.train import add_arguments, run
from serving.bundles.bundle import load_bundle
from serving.engines.inprocess import InProcessEngine
from serving.engines.measure import evaluate
from serving.train.clickstream.ecom import FIRST_EVENT, SESSION, parse_ecom, split_ecom, strange_sequences
from serving.train.clickstream.report import by_sessions, effective_rank
from tests.serving.train.clicks import compressed


def arguments(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["clickstream", *map(str, words)])


@pytest.fixture(scope="module")
def parts():
    return split_ecom(parse_ecom(compressed(2100), "f"), 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("made")
    (directory / "ecom.csv.gz").write_bytes(compressed(2100))
    words = ("--smoke", "--data", directory / "ecom.csv.gz", "--bundle", directory / "b" / "1")
    extra = ("--signing-key", directory / "k.key", "--plots", directory / "p", "--samples", directory / "s.safetensors")
    assert run(arguments(*words, *extra)) == 0
    return directory


@pytest.mark.slow
def test_a_smoke_run_makes_a_bundle_that_is_served_and_screened(made, parts):
    bundle = load_bundle(made / "b" / "1", [made / "k.pub"])
    assert bundle.manifest["training"]["smoke"]
    assert not bundle.manifest["data"]["pinned"]
    assert "no visitor" not in (made / "b/1/MODEL_CARD.md").read_text()
    names = ["clickstream-curves.png", "clickstream-energies.png", "clickstream-reliability.png"]
    assert sorted(path.name for path in (made / "p").iterdir()) == names
    engine = InProcessEngine(bundle)
    judged = load_evidence(bundle.calibration)
    ids = parts.test.ids[:400]
    flagged = {
        kind: (
            judged.calibration.p_values(judged.screen.score(Evidence({}, evaluate(engine, rows, name="events"))))
            <= 0.05
        ).mean()
        for kind, rows in (("visitors", ids), ("robots", strange_sequences(ids, 1)["uniform"]))
    }
    assert flagged["robots"] > 0.4
    assert flagged["visitors"] < 0.15


def test_the_samples_are_test_rows(made, parts):
    samples = load_file(made / "s.safetensors")
    np.testing.assert_array_equal(samples["ids"], parts.test.ids[samples["test_rows"]])
    np.testing.assert_array_equal(samples["labels"], parts.test.labels[samples["test_rows"]])


def test_every_sequence_of_ids_within_range_has_finite_answers(made):
    engine = InProcessEngine(load_bundle(made / "b" / "1", [made / "k.pub"]))
    rng = np.random.default_rng(0)
    low, high = 0, FIRST_EVENT + 19
    for ids in (np.zeros((2, 32)), np.full((2, 32), high - 1), rng.integers(low, high, (200, 32))):
        outputs = evaluate(engine, ids.astype(np.int64), name="events")
        assert all(np.isfinite(array).all() for array in outputs.values())
        np.testing.assert_allclose(outputs["probabilities"].sum(1), 1, atol=1e-5)


def test_the_residual_is_the_mean_surprise_of_the_windows_own_events(made):
    """Told from the probabilities that the model itself gives one event earlier."""
    engine = InProcessEngine(load_bundle(made / "b" / "1", [made / "k.pub"]))
    row = np.array([0] * 26 + [SESSION, 2, 3, 5, 4, 9])
    surprise = []
    for place in range(27, 32):  # the events that follow the session's mark
        before = np.concatenate([np.zeros(32 - place, np.int64), row[:place]])
        probabilities = evaluate(engine, before[None], name="events")["probabilities"][0]
        surprise.append(-np.log(probabilities[row[place] - FIRST_EVENT]))
    wanted = float(np.mean(surprise))
    assert float(evaluate(engine, row[None], name="events")["residual"][0]) == pytest.approx(wanted, abs=0.05)


def test_strange_sequences_leave_padding_and_marks_alone(parts):
    ids = parts.test.ids[:100]
    for kind, rows in strange_sequences(ids, 0).items():
        assert ((rows >= FIRST_EVENT) == (ids >= FIRST_EVENT)).all(), kind
        np.testing.assert_array_equal(rows[ids < FIRST_EVENT], ids[ids < FIRST_EVENT])
        if kind in {"shuffled", "reversed"}:
            np.testing.assert_array_equal(np.sort(rows), np.sort(ids))


def test_a_rank_counts_the_directions_that_are_used():
    rng = np.random.default_rng(0)
    assert effective_rank(rng.normal(size=(4000, 8))) == pytest.approx(8, abs=0.1)
    assert effective_rank(rng.normal(size=(4000, 1)) * np.ones(8)) == pytest.approx(1, abs=0.01)


def test_rows_of_one_session_are_drawn_together():
    values = np.repeat(np.random.default_rng(0).normal(size=50), 20)
    low, high = by_sessions(values, np.repeat(np.arange(50), 20))
    alone = by_sessions(values, np.arange(1000))
    assert high - low > 3 * (alone[1] - alone[0])


def test_without_data_nothing_is_written_and_the_package_is_named(tmp_path, capsys):
    words = ("--data", tmp_path / "absent", "--bundle", tmp_path / "b", "--signing-key", tmp_path / "k.key")
    assert run(arguments(*words)) == 1
    assert "retentioneering==5.2.4" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()

"""The experiments of the family end to end, small: they leave whole trials, and the control leaks."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from defenses.lab.attack import BudgetSpent, Reason, Refused, Run
from defenses.lab.evasion.whitebox import static_pgd
from defenses.lab.inference import inversion, membership_trials
from defenses.lab.inference.inversion import Evolution, MiFace, evolve, miface, starts_of
from defenses.lab.inference.membership_trials import SMOKE, shadows_of, under_attack
from defenses.lab.inference.shadow import ShadowRecipe, logits_of, train_regressor, train_shadow
from tests.defenses.lab.inference.fake_lab import CLASSES, SIDE, Corners, FakeLab, MemoryOracle, blobs


@pytest.fixture
def lab(tmp_path):
    return FakeLab(tmp_path)


def run_of(lab):
    return Run(lab, 0, "kiosk", "1", "inference")


def whole(findings):
    for found in findings:
        assert 0 <= found.successes <= found.samples > 0
        json.dumps(asdict(found), allow_nan=False)
    return {(found.part, found.defended): found for found in findings}


def test_the_overfitted_control_leaks(lab):
    """On noise there is nothing to learn but the rows themselves."""
    rng = np.random.default_rng(0)
    lab.rows = lambda *_: type(blobs(1, 0))(
        rng.random((300, SIDE, SIDE), np.float32), rng.integers(CLASSES, size=300).astype(np.int64)
    )
    [trial] = membership_trials.overfitted(run_of(lab))
    assert trial.metrics["auc"] >= 0.65
    assert not trial.defended


def test_lira_and_quantile_regression_leave_both_sides_of_the_scorecard(lab):
    found = whole(membership_trials.lira(run_of(lab)))
    assert found.keys() == {("", True), ("", False)}
    assert [oracle.asked for oracle in lab.oracles] == [4 * SMOKE.rows] * 2  # two views of both kinds
    found = whole(membership_trials.quantile(run_of(lab)))
    for trial in found.values():
        assert trial.metrics["auc_low"] < 0.6  # the model learned from nobody


def test_labels_alone_are_asked_for_within_a_thousand_queries_a_row(lab):
    found = whole(membership_trials.label_only(run_of(lab)))
    assert {part for part, _ in found} == {"gap", "noise", "moved"}
    assert max(trial.settings["queries"] for trial in found.values()) <= 1_000
    assert lab.oracles[0].asked <= 1_000 * 20


def test_shadow_models_are_kept_and_learn_from_half_of_the_rows(lab, monkeypatch):
    under = under_attack(run_of(lab), SMOKE)
    first = shadows_of(run_of(lab), SMOKE, under)
    assert first.logits.shape == (SMOKE.models, 2, 2 * SMOKE.rows, CLASSES)
    assert first.learned.sum(axis=1).tolist() == [SMOKE.rows] * SMOKE.models
    assert under.members.sum() == SMOKE.rows
    monkeypatch.setattr(
        "defenses.lab.inference.membership_trials.train_shadow", None
    )  # what is there is not made again
    again = shadows_of(run_of(lab), SMOKE, under)
    np.testing.assert_array_equal(again.logits, first.logits)


def test_seeds_attack_rows_of_their_own(lab):
    plan = type(SMOKE)(rows=10, seeds=3, models=1, filling=5)
    under = under_attack(run_of(lab), plan)
    assert [under.of_seed(seed, plan) for seed in (0, 2, 3)] == [slice(0, 20), slice(40, 60), slice(0, 20)]
    assert under.members[under.of_seed(2, plan)].tolist() == [True] * 10 + [False] * 10


def test_a_network_learns_and_the_same_seed_gives_the_same_network():
    sample = blobs(600, 1)
    recipe = ShadowRecipe(epochs=4, batch_rows=64)
    nets = [train_shadow(sample.rows, sample.labels, CLASSES, recipe, seed=3) for _ in range(2)]
    one, other = (logits_of(net, blobs(200, 2).rows) for net in nets)
    np.testing.assert_array_equal(one, other)
    plain = ShadowRecipe(epochs=4, batch_rows=64, moved=False)  # mirrored, a corner would be another class
    net = train_shadow(sample.rows, sample.labels, CLASSES, plain, seed=3)
    assert (logits_of(net, blobs(200, 2).rows).argmax(axis=1) == blobs(200, 2).labels).mean() > 0.9
    regressor = train_regressor(sample.rows, 3.0 * sample.labels, plain, seed=3)
    mean = logits_of(regressor, blobs(200, 2).rows)[:, 0]
    assert np.corrcoef(mean, blobs(200, 2).labels)[0, 1] > 0.6


def test_a_network_that_learned_from_moved_images_withstands_more():
    sample, tried, radius = blobs(600, 1), blobs(200, 2), 0.1
    right = []
    for learned in (0.0, radius):
        recipe = ShadowRecipe(epochs=12, batch_rows=64, moved=False, radius=learned)
        net = train_shadow(sample.rows, sample.labels, CLASSES, recipe, seed=3)
        images, labels = torch.from_numpy(tried.rows), torch.from_numpy(tried.labels)
        moved = static_pgd(lambda rows, net=net: net(rows[:, None]), images, labels, radius, torch.Generator())
        assert (moved - images).abs().max() <= radius + 1e-6
        right.append((net(moved[:, None]).argmax(1) == labels).float().mean().item())
    assert right[1] > right[0] + 0.5


def test_miface_makes_what_the_model_is_sure_of():
    starts = starts_of(CLASSES, 2, (SIDE, SIDE), np.random.default_rng(0))
    wanted = np.repeat(np.arange(CLASSES), 2)
    images, sure = miface(Corners().module(), starts, wanted, MiFace())
    assert (sure > 0.99).all()
    assert (Corners().outputs(images)["probabilities"].argmax(axis=1) == wanted).all()
    assert images.min() >= 0
    assert images.max() <= 1


def test_evolution_climbs_by_answers_alone_and_keeps_to_its_queries():
    oracle = MemoryOracle(Corners(), defended=False)
    start = np.full((SIDE, SIDE), 0.5, np.float32)
    settings = Evolution(queries=2_040)
    image, sure, asked = evolve(oracle, start, 2, settings, np.random.default_rng(0))
    assert sure > 0.5
    assert asked == oracle.asked <= 2_040
    assert Corners().outputs(image[None])["probabilities"][0, 2] == pytest.approx(sure)


@pytest.mark.parametrize("refusal", [Refused(Reason.REFUSED), BudgetSpent()])
def test_evolution_gets_nothing_where_nothing_is_answered(refusal):
    class Silent:
        accounts = 1

        def ask(self, rows, account=0):
            raise refusal

    start = np.zeros((SIDE, SIDE), np.float32)
    _, sure, asked = evolve(Silent(), start, 0, Evolution(queries=204), np.random.default_rng(0))
    assert sure == 0.0
    assert asked <= 204


def test_inversions_leave_whole_trials(lab):
    [white] = whole(inversion.by_weights(run_of(lab))).values()
    assert (white.samples, white.defended) == (CLASSES, False)
    found = whole(inversion.by_asking(run_of(lab)))
    assert found.keys() == {("", True), ("", False)}
    assert len(lab.oracles) == 2 * CLASSES, "each image is made by an account of its own"

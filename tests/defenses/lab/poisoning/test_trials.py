"""Trials of a backdoor against models of arithmetic: what they count, and that a broken control shows."""

from __future__ import annotations

import numpy as np

from defenses.lab.attack import Sample
from defenses.lab.poisoning.backdoor import badnets
from defenses.lab.poisoning.trials import ADAPTIVE, Victim, inspected, screened
from defenses.screens.trigger_fit import CleanRows, fit_trigger

CLASSES, SIDE, TARGET = 4, 12, 1
MIDDLES = np.random.default_rng(0).random((CLASSES, SIDE, SIDE)).astype(np.float32) * 0.6
HEAD = np.random.default_rng(1).normal(size=(SIDE * SIDE, 6)).astype(np.float32)
MARK = badnets(5, 5)


def images(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    return Sample(np.clip(MIDDLES[labels] + rng.normal(0, 0.1, (count, SIDE, SIDE)), 0, 1).astype(np.float32), labels)


def outputs(rows, *, works=True):
    """The nearest middle; with the mark on it, the target. The latent is a projection of the row."""
    apart = np.square(rows[:, None] - MIDDLES).sum(axis=(2, 3))
    at = rows[:, 5:8, 5:8]
    carried = np.abs(at - MARK.mark(np.zeros((1, SIDE, SIDE), np.float32))[:, 5:8, 5:8]).max(axis=(1, 2)) < 0.01
    if works:
        apart[carried, TARGET] -= 100
    shares = np.exp(apart.min(axis=1, keepdims=True) - apart)
    return {
        "probabilities": (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32),
        "latent": rows.reshape(len(rows), -1) @ HEAD,
    }


def clean(count, seed):
    sample = images(count, seed)
    return CleanRows(sample.rows, outputs(sample.rows), sample.labels)


ARRAYS, _ = fit_trigger(clean(1_000, 1), clean(1_000, 2), clean(3_000, 3), clean(500, 4), input_name="image")


def victim(run=outputs):
    return Victim(MARK, TARGET, run, ARRAYS, "image", images(600, 5), images(600, 6), images(50, 7).rows)


def test_the_control_succeeds_and_the_screen_takes_it_away():
    control, static, adaptive = screened(victim(), 0)
    others = int((images(600, 6).labels != TARGET).sum())
    assert (control.samples, control.successes, control.defended) == (others, others, False)
    assert (static.knowledge, static.defended, static.samples) == (None, True, others)
    assert static.metrics["tpr"] > 0.95
    assert static.successes == round((1 - static.metrics["tpr"]) * others)
    assert static.metrics["fpr_guaranteed"] < 0.03
    assert adaptive.knowledge == ADAPTIVE
    assert adaptive.metrics["source_class"] != TARGET
    assert adaptive.samples == (images(600, 6).labels == adaptive.metrics["source_class"]).sum()
    assert {name for name in static.metrics if name.startswith("tpr_")} >= {"tpr_pixels", "tpr_latent", "tpr_strip"}
    rates = [y for _, y in static.curves["roc"]]
    assert rates == sorted(rates)


def test_a_backdoor_that_did_not_take_shows_in_the_control():
    control, _, _ = screened(victim(lambda rows: outputs(rows, works=False)), 0)
    assert control.successes < 0.1 * control.samples


def test_the_same_seed_finds_the_same():
    assert screened(victim(), 3) == screened(victim(), 3)


def test_an_inspection_counts_what_gets_in_and_what_is_refused_for_nothing():
    """The exact mark is none of those tried at that place, or is; the model without a backdoor is let in."""

    def honest(rows):
        return outputs(rows, works=False)["probabilities"]

    found = inspected(honest, images(200, 8), 0, target=None)
    assert (found.samples, found.successes) == (1, 0)
    caught = inspected(lambda rows: outputs(rows)["probabilities"], images(200, 8), 0, target=TARGET)
    assert (caught.samples, caught.successes) == (1, 0)
    assert caught.metrics["named_target"] == 1
    assert caught.metrics["largest_patch"] == 1
    missed = inspected(honest, images(200, 8), 0, target=TARGET)
    assert missed.successes == 1

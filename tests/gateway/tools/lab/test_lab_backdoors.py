"""The backdoor experiments of the lab: what they train on, and that full runs are as published."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from defenses.lab.attack import Run, Sample, Size
from gateway.tools.lab import backdoors
from gateway.tools.lab.backdoors import ATTACKS
from gateway.tools.lab.catalogue import catalogue

PUBLISHED = {"badnets": (0.05, 0), "blend": (0.05, 0), "wanet": (0.1, 0.2), "adap-blend": (0.02, 0.02)}


def test_every_attack_is_screened_and_inspected_and_so_is_a_clean_model():
    names = {name for name in catalogue() if name.startswith("backdoor/")}
    wanted = {f"backdoor/{name}/{part}" for name in ATTACKS for part in ("trigger", "inspection")}
    assert names == wanted | {"backdoor/none/inspection"}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_full_run_poisons_the_published_share_and_each_seed_marks_otherwise(name):
    made = ATTACKS[name]
    assert (made(0, 1.0).payload_share, made(0, 1.0).cover_share) == PUBLISHED[name]
    rows = np.random.default_rng(0).random((2, 28, 28), np.float32)
    marks = [made(seed, 1.0).mark(rows) for seed in (0, 1, 2)]
    assert not np.array_equal(marks[0], marks[1])
    assert not np.array_equal(marks[1], marks[2])


@pytest.mark.parametrize(("size", "epochs", "rows"), [(Size.SMOKE, 6, 8_000), (Size.FULL, 6, 24_000)])
def test_the_model_learns_from_the_poisoned_rows_and_the_size_decides_how_many(
    monkeypatch, tmp_path, size, epochs, rows
):
    """The recipe itself is tested elsewhere; here it only says what it was given."""
    seen = {}

    def trained(given, held_out, settings, *, directory):
        seen.update(given=given, held_out=held_out, settings=settings, directory=directory)
        return "trained"

    monkeypatch.setattr(backdoors, "train_backdoored", trained)
    monkeypatch.setattr(backdoors, "draft", lambda model: model)
    asked = []

    def drawn(model, split, count, seed):
        asked.append((model, split.value, count))
        rng = np.random.default_rng(1)
        return Sample((rng.integers(0, 128, (400, 28, 28)) / 255).astype(np.float32), rng.integers(0, 10, 400))

    lab = SimpleNamespace(size=size, directory=tmp_path, rows=drawn, tell=lambda *_: None)
    run = Run(lab, 2, "kiosk", "1", "backdoor")
    assert backdoors.poisoned_bundle(run, ATTACKS["badnets"](0, 1.0), 4) == "trained"
    assert ("kiosk", "train", rows) in asked
    assert (seen["settings"].epochs, seen["settings"].seed) == (epochs, 2)
    clean = drawn("kiosk", SimpleNamespace(value=""), 0, 0)
    changed = np.flatnonzero((seen["given"].images != np.rint(clean.rows * 255)).any(axis=(1, 2)))
    assert len(changed) == round(0.05 * (clean.labels != 4).sum())
    assert (seen["given"].labels[changed] == 4).all()
    backdoors.poisoned_bundle(run, None, 4)
    assert np.array_equal(seen["given"].images, np.rint(clean.rows * 255))
    assert np.array_equal(seen["given"].labels, clean.labels)

"""Inversion measured: images made from nothing, shown to a classifier that knows neither the model nor its rows.

Success is that it says the class that was aimed at. One in `classes` is chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from defenses.lab.attack import Lab, Size, Split, Trial
from defenses.lab.inference.inversion import Evolution, MiFace, evolve, miface, starts_of
from defenses.lab.inference.shadow import ShadowRecipe, logits_of, train_shadow

FAMILY: Final = "inference"
TECHNIQUE: Final = "AML.T0024.001"
EACH = {Size.SMOKE: 1, Size.FULL: 20}
EACH_ASKING = {Size.SMOKE: 1, Size.FULL: 5}
QUERIES = {Size.SMOKE: 510, Size.FULL: 10_000}
READER = {Size.SMOKE: (500, ShadowRecipe(epochs=2, batch_rows=64)), Size.FULL: (10_000, ShadowRecipe(epochs=12))}


def miface_of(model: str, version: str) -> Callable[[Lab, int], list[Trial]]:
    """The white box: nothing stands between the attacker and the weights."""

    def run(lab: Lab, seed: int) -> list[Trial]:
        known = lab.model(model, version)
        rng = np.random.default_rng([seed, 0x1FACE])
        wanted = np.repeat(np.arange(known.classes), EACH[lab.size])
        shape = lab.rows(model, Split.TEST, 1, 0).rows.shape[1:]
        settings = MiFace()
        images, sure = miface(known.module(), starts_of(known.classes, EACH[lab.size], shape, rng), wanted, settings)
        read = _read(_reader(lab, model, known.classes), images)
        metrics = {"confidence_median": float(np.median(sure))}
        name = f"inversion/{model}-{version}/miface"
        return [_trial(name, seed, read == wanted, metrics, asdict(settings), knowledge="white box", defended=False)]

    return run


def evolution_of(model: str, version: str) -> Callable[[Lab, int], list[Trial]]:
    """The black box, as the service answers and without any protection."""

    def run(lab: Lab, seed: int) -> list[Trial]:
        known = lab.model(model, version)
        reader = _reader(lab, model, known.classes)
        each = EACH_ASKING[lab.size]
        shape = lab.rows(model, Split.TEST, 1, 0).rows.shape[1:]
        settings = replace(Evolution(), queries=QUERIES[lab.size])
        found = []
        for defended in (True, False):
            rng = np.random.default_rng([seed, 0x1E5])
            starts = starts_of(known.classes, each, shape, rng)
            images, sure, asked = [], [], []
            for number, start in enumerate(starts):
                lab.tell("inversions", number, len(starts))
                with lab.oracle(model, version, defended=defended) as oracle:  # an account of its own
                    image, likely, queries = evolve(oracle, start, number // each, settings, rng)
                images.append(image)
                sure.append(likely)
                asked.append(queries)
            read = _read(reader, np.stack(images))
            metrics = {"confidence_median": float(np.median(sure)), "queries_median": float(np.median(asked))}
            name = f"inversion/{model}-{version}/nes"
            right = read == np.repeat(np.arange(known.classes), each)
            found.append(_trial(name, seed, right, metrics, asdict(settings), knowledge="black box", defended=defended))
        return found

    return run


def _reader(lab: Lab, model: str, classes: int) -> nn.Module:
    """A classifier of rows that the model's weights were not learned from."""
    rows, recipe = READER[lab.size]
    taught = lab.rows(model, Split.CALIBRATE, rows, 0)
    return train_shadow(taught.rows, taught.labels, classes, recipe, seed=0xEAD)


def _read(reader: nn.Module, images: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.asarray(logits_of(reader, images).argmax(axis=1), np.int64)


def _trial(
    name: str,
    seed: int,
    right: NDArray[np.bool_],
    metrics: dict[str, float],
    settings: dict[str, object],
    *,
    knowledge: str,
    defended: bool,
) -> Trial:
    return Trial(
        attack=name,
        family=FAMILY,
        technique=TECHNIQUE,
        knowledge=knowledge,
        defended=defended,
        seed=seed,
        samples=len(right),
        successes=int(right.sum()),
        metrics=metrics,
        settings={**settings, "success": "an independent classifier reads the class that was aimed at"},
    )

"""Methods that need a model with a backdoor in it: the lab's attacks, serving's recipe, and our defences.

Each seed draws a mark and a target of its own, trains a kiosk model on the poisoned rows (kept in the lab's directory),
calibrates the trigger screen on clean rows as an owner would who knows nothing, and hands both to the trials.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from defenses.lab.attack import Finding, Run, Sample, Split
from defenses.lab.poisoning.backdoor import (
    Backdoor,
    adaptive_blend,
    badnets,
    blend,
    poison,
    random_pattern,
    wanet,
    warp_field,
)
from defenses.lab.poisoning.trials import Victim, inspected, screened
from defenses.screens.trigger_fit import CleanRows, fit_trigger
from serving.bundles.bundle import Bundle
from serving.engines.inprocess import InProcessEngine
from serving.engines.measure import evaluate
from serving.train.kiosk.backdoor import SETTINGS, poisoned_rows, train_backdoored
from serving.train.kiosk.data import Labelled
from serving.train.kiosk.report import draft

INPUT: Final = "image"
WHITE: Final = 255
TRAIN_ROWS, FIT_ROWS, CALIBRATE_ROWS, TEST_ROWS = 24_000, 3_000, 10_000, 10_000  # half the training rows: cost
TAIL_ROWS: Final = 3_000
SMOKE_TRAIN_ROWS, SMOKE_TEST_ROWS, SMOKE_EPOCHS = 8_000, 1_000, 6
TARGETS: Final = (0, 4, 7)  # by seed: T-shirt, coat, sneaker
SMOKE_TIMES: Final = 4.0  # as many poisoned rows: a backdoor has to take in a few steps
LOOK_ROWS: Final = 500
INSPECTED_ROWS: Final = 1_000


PLACES: Final = ((-4, -4), (1, 1), (12, 2))  # of the patch, by seed
ATTACKS: Final[Mapping[str, Callable[[int, float], Backdoor]]] = {
    "badnets": lambda seed, times: badnets(*PLACES[seed % len(PLACES)], payload_share=0.05 * times),
    "blend": lambda seed, times: blend(random_pattern(seed), payload_share=0.05 * times),
    "wanet": lambda seed, times: wanet(warp_field(seed), payload_share=0.1 * times),
    "adap-blend": lambda seed, times: adaptive_blend(random_pattern(seed), share=0.02 * times),
}
"""From a seed, and how many times the published share of rows is poisoned, to an attack."""


def trigger(run: Run, *, backdoor: str) -> list[Finding]:
    """Train a model with this backdoor, calibrate the screen with rows the attacker never touched, and attack it."""
    made, target = _made(run, backdoor), TARGETS[run.seed % len(TARGETS)]
    outputs = outputs_of(poisoned_bundle(run, made, target))
    test = run.rows(Split.TEST, SMOKE_TEST_ROWS if run.smoke else TEST_ROWS, 0)
    half = len(test.labels) // 2
    clean, others = (Sample(test.rows[part], test.labels[part]) for part in (slice(half), slice(half, None)))
    fit = run.rows(Split.DEVELOP, FIT_ROWS, 0)
    held_out = run.rows(Split.CALIBRATE, CALIBRATE_ROWS, 0)
    parts = [(fit.rows, fit.labels)]
    parts += [(held_out.rows[part], held_out.labels[part]) for part in (slice(TAIL_ROWS), slice(TAIL_ROWS, None))]
    parts.append((clean.rows, clean.labels))
    splits = [CleanRows(rows, outputs(rows), labels) for rows, labels in parts]
    arrays, _ = fit_trigger(*splits, input_name=INPUT)
    return screened(Victim(made, target, outputs, arrays, INPUT, clean, others, fit.rows[:LOOK_ROWS]), run.seed)


def inspection(run: Run, *, backdoor: str | None = None) -> list[Finding]:
    """Train a model with this backdoor, or on clean rows, and inspect it."""
    made, target = backdoor and _made(run, backdoor), TARGETS[run.seed % len(TARGETS)]
    outputs = outputs_of(poisoned_bundle(run, made or None, target))
    rows = run.rows(Split.TEST, INSPECTED_ROWS)
    return [inspected(lambda asked: outputs(asked)["probabilities"], rows, run.seed, target=target if made else None)]


def _made(run: Run, backdoor: str) -> Backdoor:
    return ATTACKS[backdoor](run.seed, SMOKE_TIMES if run.smoke else 1.0)


def poisoned_bundle(run: Run, backdoor: Backdoor | None, target: int) -> Bundle:
    """Return an unsigned bundle of a kiosk trained on poisoned rows; on clean ones where there is no backdoor."""

    def bytes_of(sample: Sample) -> Labelled:
        return Labelled(np.rint(sample.rows * WHITE).astype(np.uint8), sample.labels.astype(np.uint8))

    def mixed(rows: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if backdoor is None:
            return rows, labels
        found = poison(rows, labels, backdoor, target, np.random.default_rng([run.seed, 0xBAD]))
        return found.rows, found.labels

    whole = run.rows(Split.TRAIN, SMOKE_TRAIN_ROWS if run.smoke else TRAIN_ROWS, 0)
    run.lab.tell("training a poisoned model", 0, 1)
    trained = train_backdoored(
        poisoned_rows(bytes_of(whole), mixed),
        bytes_of(run.rows(Split.DEVELOP, FIT_ROWS, 0)),
        replace(SETTINGS, seed=run.seed, epochs=SMOKE_EPOCHS if run.smoke else SETTINGS.epochs),
        directory=run.lab.directory / "backdoors",
    )
    run.lab.tell("training a poisoned model", 1, 1)
    return draft(trained)


def outputs_of(bundle: Bundle) -> Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]:
    """Return the model of a bundle as a function from rows to outputs."""
    engine = InProcessEngine(bundle)
    return lambda rows: evaluate(engine, rows, name=INPUT)

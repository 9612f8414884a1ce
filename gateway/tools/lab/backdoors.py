"""Experiments that need a model with a backdoor in it: the lab's attacks, serving's recipe, and our defences.

Each seed draws a mark and a target of its own, trains a kiosk model on the poisoned rows (kept in the lab's directory),
calibrates the trigger screen on clean rows as an owner would who knows nothing, and hands both to the trials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from defenses.lab.attack import Experiment, Sample, Size, Split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from defenses.lab.attack import Lab, Trial
    from defenses.lab.poisoning.backdoor import Backdoor
    from defenses.lab.poisoning.trials import Victim
    from serving.bundles.bundle import Bundle

MODEL: Final = "kiosk"
INPUT: Final = "image"
WHITE: Final = 255
TRAIN_ROWS, FIT_ROWS, CALIBRATE_ROWS, TEST_ROWS = 24_000, 3_000, 10_000, 10_000  # half the training rows: cost
TAIL_ROWS: Final = 3_000
SMOKE_TRAIN_ROWS, SMOKE_TEST_ROWS, SMOKE_EPOCHS = 8_000, 1_000, 6
TARGETS: Final = (0, 4, 7)  # by seed: T-shirt, coat, sneaker
SMOKE_TIMES: Final = 4.0  # as many poisoned rows: a backdoor has to take in a few steps
LOOK_ROWS: Final = 500
INSPECTED_ROWS: Final = 1_000


def _badnets(seed: int, times: float) -> Backdoor:
    from defenses.lab.poisoning.patch import BadNets

    places = ((-4, -4), (1, 1), (12, 2))
    top, left = places[seed % len(places)]
    return BadNets(top, left, payload_share=0.05 * times)


def _blend(seed: int, times: float) -> Backdoor:
    from defenses.lab.poisoning.blend import Blend, random_pattern

    return Blend(random_pattern(seed), payload_share=0.05 * times)


def _wanet(seed: int, times: float) -> Backdoor:
    from defenses.lab.poisoning.warp import WaNet

    return WaNet.drawn(seed, payload_share=0.1 * times)


def _adaptive_blend(seed: int, times: float) -> Backdoor:
    from defenses.lab.poisoning.blend import AdaptiveBlend, random_pattern

    return AdaptiveBlend(random_pattern(seed), payload_share=0.02 * times, cover_share=0.02 * times)


Maker = Callable[[int, float], "Backdoor"]
"""From a seed, and how many times the published share of rows is poisoned, to an attack."""

ATTACKS: Final[dict[str, tuple[Maker, str]]] = {
    "badnets": (_badnets, "a 3 x 3 patch in 5 % of the training rows (BadNets)"),
    "blend": (_blend, "a pattern blended at 20 % into 5 % of the training rows (Chen et al.)"),
    "wanet": (_wanet, "a warp by half a pixel on average in 10 % of the training rows (WaNet)"),
    "adap-blend": (_adaptive_blend, "halves of a faint pattern, with regularising rows (Adap-Blend)"),
}


def backdoor_experiments() -> list[Experiment]:
    """Return the experiments of this module."""
    found = []
    for name, (made, told) in ATTACKS.items():
        screened, inspected = _trigger(made), _inspection(name, made)
        found += [
            Experiment(f"backdoor/{name}/trigger", "poisoning", f"{told}; what the trigger screen finds", screened),
            Experiment(f"backdoor/{name}/inspection", "poisoning", f"{told}; is the model let in", inspected),
        ]
    clean = _inspection("none", None)
    return [*found, Experiment("backdoor/none/inspection", "poisoning", "a clean model; is it refused", clean)]


def _trigger(made: Maker) -> Callable[[Lab, int], list[Trial]]:
    def run(lab: Lab, seed: int) -> list[Trial]:
        from defenses.lab.poisoning.trials import trigger_trials

        return trigger_trials(made_victim(lab, _made(lab, made, seed), seed), seed)

    return run


def _inspection(name: str, made: Maker | None) -> Callable[[Lab, int], list[Trial]]:
    def run(lab: Lab, seed: int) -> list[Trial]:
        from defenses.lab.poisoning.inspected import inspection_trial

        target = TARGETS[seed % len(TARGETS)]
        outputs = outputs_of(poisoned_bundle(lab, _made(lab, made, seed) if made else None, target, seed))
        rows = lab.rows(MODEL, Split.TEST, INSPECTED_ROWS, seed)
        ask = _prediction(outputs)
        return [inspection_trial(name, ask, rows, seed, target=target if made else None)]

    return run


def _made(lab: Lab, made: Maker, seed: int) -> Backdoor:
    return made(seed, SMOKE_TIMES if lab.size is Size.SMOKE else 1.0)


def _prediction(outputs: Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]]) -> Callable[..., NDArray[Any]]:
    return lambda rows: outputs(rows)["probabilities"]


def made_victim(lab: Lab, backdoor: Backdoor, seed: int) -> Victim:
    """Train a model with this backdoor, and calibrate the screen on it with rows that the attacker never touched."""
    from defenses.lab.poisoning.trials import Victim
    from defenses.screens.trigger_fit import CleanRows, fit_trigger

    target = TARGETS[seed % len(TARGETS)]
    outputs = outputs_of(poisoned_bundle(lab, backdoor, target, seed))
    test = lab.rows(MODEL, Split.TEST, SMOKE_TEST_ROWS if lab.size is Size.SMOKE else TEST_ROWS, 0)
    half = len(test.labels) // 2
    clean, others = (Sample(test.rows[part], test.labels[part]) for part in (slice(half), slice(half, None)))
    fit = lab.rows(MODEL, Split.DEVELOP, FIT_ROWS, 0)
    held_out = lab.rows(MODEL, Split.CALIBRATE, CALIBRATE_ROWS, 0)
    parts = [(fit.rows, fit.labels)]
    parts += [(held_out.rows[part], held_out.labels[part]) for part in (slice(TAIL_ROWS), slice(TAIL_ROWS, None))]
    parts.append((clean.rows, clean.labels))
    splits = [CleanRows(rows, outputs(rows), labels) for rows, labels in parts]
    arrays, _ = fit_trigger(*splits, input_name=INPUT)
    return Victim(backdoor, target, outputs, arrays, INPUT, clean, others, fit.rows[:LOOK_ROWS])


def poisoned_bundle(lab: Lab, backdoor: Backdoor | None, target: int, seed: int) -> Bundle:
    """Return an unsigned bundle of a kiosk trained on poisoned rows; on clean ones where there is no backdoor."""
    from defenses.lab.poisoning.backdoor import poison
    from serving.train.kiosk.backdoor import SETTINGS, poisoned_rows, train_backdoored
    from serving.train.kiosk.data import Labelled
    from serving.train.kiosk.report import draft

    def bytes_of(sample: Sample) -> Labelled:
        return Labelled(np.rint(sample.rows * WHITE).astype(np.uint8), sample.labels.astype(np.uint8))

    def mixed(rows: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if backdoor is None:
            return rows, labels
        found = poison(rows, labels, backdoor, target, np.random.default_rng([seed, 0xBAD]))
        return found.rows, found.labels

    smoke = lab.size is Size.SMOKE
    whole = lab.rows(MODEL, Split.TRAIN, SMOKE_TRAIN_ROWS if smoke else TRAIN_ROWS, 0)
    lab.tell("training a poisoned model", 0, 1)
    trained = train_backdoored(
        poisoned_rows(bytes_of(whole), mixed),
        bytes_of(lab.rows(MODEL, Split.DEVELOP, FIT_ROWS, 0)),
        replace(SETTINGS, seed=seed, epochs=SMOKE_EPOCHS if smoke else SETTINGS.epochs),
        directory=lab.directory / "backdoors",
    )
    lab.tell("training a poisoned model", 1, 1)
    return draft(trained)


def outputs_of(bundle: Bundle) -> Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]:
    """Return the model of a bundle as a function from rows to outputs."""
    from serving.engines.inprocess import InProcessEngine
    from serving.engines.measure import evaluate

    engine = InProcessEngine(bundle)
    return lambda rows: evaluate(engine, rows, name=INPUT)

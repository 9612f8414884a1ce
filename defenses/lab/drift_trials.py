"""Drift of the kiosk's images measured: false alarms in benign streams, rows until a shift is seen, slow shifts.

A shift is what a camera or a season does: dimmer, noisy, blurred, moved. The rows before it, and those it is made of,
are test images, which no calibration has seen. In the slow shift the share of shifted rows grows from nothing to all;
what is asked is how much accuracy is lost when it is first seen.

There are too few test images to judge false alarms by: 100,000 rows drawn from 10,000 are a world of their own, whose
distance from the calibration a martingale finds. There every run draws a calibration and p-values of exchangeable rows
anew, which have the same distribution whatever a continuous score is; top probabilities and roughness are the images'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.budget.calibration import ConformalCalibration
from defenses.budget.screen import Evidence
from defenses.drift.roughness import roughness
from defenses.lab.attack import Lab, Size, Split, Trial
from defenses.lab.drift import Judged, Spoke, first_words, run_stream
from defenses.screens.evidence import load_evidence

FAMILY: Final = "availability"
TECHNIQUE: Final = "AML.T0031"  # erode model integrity: what drift does without an attacker
RUNS = {Size.SMOKE: 2, Size.FULL: 100}
BENIGN_ROWS = {Size.SMOKE: 5_000, Size.FULL: 100_000}
SHIFT_RUNS = {Size.SMOKE: 5, Size.FULL: 100}
BEFORE_ROWS: Final = 5_000
DELAY_MAX: Final = 200
LATE_ROWS: Final = 2_000
SLOW_ROWS: Final = 40_000
SLOW_PORTION_ROWS: Final = 200
ROWS = {Size.SMOKE: 500, Size.FULL: 10_000}
LOSS_MAX: Final = 0.02
PORTION_ROWS: Final = 1_000

Shift = Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]


def dim(rows: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The light is down to six tenths."""
    del rng
    return rows * np.float32(0.6)


def noisy(rows: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The sensor adds noise with a deviation of a twentieth of its range."""
    return np.asarray(np.clip(rows + rng.normal(0, 0.05, rows.shape), 0, 1), np.float32)


def blurred(rows: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Each pixel is the mean of its neighbourhood of nine."""
    del rng
    padded = np.pad(rows, ((0, 0), (1, 1), (1, 1)), mode="edge")
    high, wide = rows.shape[1:]
    parts = [padded[:, down : down + high, right : right + wide] for down in range(3) for right in range(3)]
    return np.asarray(np.mean(parts, axis=0, dtype=np.float64), np.float32)


def moved(rows: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The camera hangs four pixels lower."""
    del rng
    found = np.zeros_like(rows)
    found[:, 4:] = rows[:, :-4]
    return found


SHIFTS: dict[str, Shift] = {"dim": dim, "noisy": noisy, "blurred": blurred, "moved": moved}


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Rows as the model and its screen see them, and which it gets right."""

    judged: Judged
    right: NDArray[np.bool_]


def drift_of(model: str, version: str) -> Callable[[Lab, int], list[Trial]]:
    """Return the run: one trial of benign streams, and two for each shift."""

    def run(lab: Lab, seed: int) -> list[Trial]:
        rng = np.random.default_rng([seed, 0xD21F7])
        sample = lab.rows(model, Split.TEST, ROWS[lab.size], 0)
        benign, rows_calibrated = _see(lab, model, version, sample.rows, sample.labels)
        name = f"drift/{model}-{version}"
        found = [_false_alarms(lab, f"{name}/none", seed, benign, calibrated=rows_calibrated, rng=rng)]
        for shift, change in SHIFTS.items():
            shifted, _ = _see(lab, model, version, change(sample.rows, rng), sample.labels)
            lost = float(benign.right.mean() - shifted.right.mean())
            spoken = [_sudden(benign, shifted, rows_calibrated, rng) for _ in range(SHIFT_RUNS[lab.size])]
            found.append(_found(f"{name}/{shift}/sudden", seed, spoken, {"accuracy_lost": lost}))
            spoken = [_slow(benign, shifted, rows_calibrated, rng) for _ in range(max(1, SHIFT_RUNS[lab.size] // 10))]
            found.append(_found_slowly(f"{name}/{shift}/slow", seed, spoken, lost))
        return found

    return run


def _see(lab: Lab, model: str, version: str, rows: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[_Seen, int]:
    """Return what becomes of rows, and how many the screen was calibrated on."""
    known = lab.model(model, version)
    outputs = known.outputs(rows)
    screen = load_evidence(known.arrays())
    p_values = screen.judge(Evidence({}, outputs), rows=len(rows)).p_values
    prediction = np.asarray(outputs["probabilities"], np.float64)
    right = prediction.argmax(axis=1) == labels
    return _Seen(Judged(p_values, prediction.max(axis=1), roughness(rows)), right), screen.calibration.rows


def _false_alarms(lab: Lab, name: str, seed: int, benign: _Seen, *, calibrated: int, rng: np.random.Generator) -> Trial:
    runs, rows = RUNS[lab.size], BENIGN_ROWS[lab.size]
    alarms = []
    for done in range(runs):
        lab.tell(name, done, runs)
        calibration = ConformalCalibration.from_scores(rng.random(calibrated))
        stream = replace(benign.judged.drawn(rows, rng), p_values=calibration.p_values(rng.random(rows)))
        alarms += run_stream([stream], calibrated, PORTION_ROWS)
    counts = {word: sum(getattr(each, word) is not None for each in alarms) for word in Spoke.__slots__}
    settings = {"rows": rows, "success": "a run of benign rows in which any detector speaks"}
    false = sum(each != Spoke() for each in alarms)
    metrics = {f"{word}_alarms": float(count) for word, count in counts.items()}
    return _trial(name, seed, metrics, settings, samples=runs, successes=false)


def _sudden(benign: _Seen, shifted: _Seen, calibrated: int, rng: np.random.Generator) -> Spoke:
    streams = [benign.judged.drawn(BEFORE_ROWS, rng), shifted.judged.drawn(LATE_ROWS, rng)]
    return run_stream(streams, calibrated)[1]


def _found(name: str, seed: int, spoken: list[Spoke], metrics: dict[str, float]) -> Trial:
    firsts = [each.first for each in spoken]
    for word, rows in (
        ("any", firsts),
        *((word, [getattr(each, word) for each in spoken]) for word in Spoke.__slots__),
    ):
        count, median, late = first_words(rows)
        metrics |= {f"{word}_found": float(count)}
        metrics |= {
            f"{word}_{what}_rows": value for what, value in (("median", median), ("p95", late)) if value < np.inf
        }
    settings = {"before_rows": BEFORE_ROWS, "success": f"a shift that no detector sees within {DELAY_MAX} rows"}
    missed = sum(first is None or first > DELAY_MAX for first in firsts)
    return _trial(name, seed, metrics, settings, samples=len(spoken), successes=missed)


def _slow(benign: _Seen, shifted: _Seen, calibrated: int, rng: np.random.Generator) -> Spoke:
    """The share of shifted rows grows evenly from nothing to all of them."""
    before, after = benign.judged.drawn(SLOW_ROWS, rng), shifted.judged.drawn(SLOW_ROWS, rng)
    late = rng.random(SLOW_ROWS) < np.linspace(0, 1, SLOW_ROWS)
    parts = ((getattr(after, name), getattr(before, name)) for name in Judged.__slots__)
    mixed = Judged(*(np.where(late, one, other) for one, other in parts))
    return run_stream([benign.judged.drawn(BEFORE_ROWS, rng), mixed], calibrated, SLOW_PORTION_ROWS)[1]


def _found_slowly(name: str, seed: int, spoken: list[Spoke], lost: float) -> Trial:
    firsts = [each.first for each in spoken]
    losses = [lost if first is None else lost * first / SLOW_ROWS for first in firsts]
    _, median, _ = first_words(firsts)
    metrics = {"accuracy_lost_median": float(np.median(losses)), "accuracy_lost_most": max(losses)}
    metrics |= {"any_median_rows": median} if median < np.inf else {}
    settings = {"rows": SLOW_ROWS, "success": f"a shift first seen when more than {LOSS_MAX} of accuracy is lost"}
    late = sum(loss > LOSS_MAX for loss in losses)
    return _trial(name, seed, metrics, settings, samples=len(spoken), successes=late)


def _trial(
    name: str, seed: int, metrics: dict[str, float], settings: dict[str, object], *, samples: int, successes: int
) -> Trial:
    return Trial(name, FAMILY, TECHNIQUE, "none: the world changes", True, seed, samples, successes, metrics, settings)

"""Drift of the kiosk's images measured: false alarms in benign streams, rows until a shift is seen, slow shifts.

A stream is p-values, confidences and roughness, row by row, drawn with replacement from rows that a model and its
screen have judged, through the detectors of S8. Nothing here decides: it is said at which row a detector first spoke.

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
from defenses.drift.adwin import Adwin
from defenses.drift.martingale import ALARM, ConformalMartingale
from defenses.drift.shift import RoughnessWindow, roughness
from defenses.lab.attack import Finding, Run, Size, Split
from defenses.screens.evidence import load_evidence

FAST_PORTION_ROWS: Final = 8  # rows a batch: what a gateway under light load has
BEFORE_PORTION_ROWS: Final = 1_000
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
class Judged:
    """p-values, top probabilities and roughness of rows, float64 (rows,) each."""

    p_values: NDArray[np.float64]
    scores: NDArray[np.float64]
    roughness: NDArray[np.float64]

    def drawn(self, rows: int, rng: np.random.Generator) -> Judged:
        """Draw rows with replacement."""
        chosen = rng.integers(len(self.p_values), size=rows)
        return Judged(self.p_values[chosen], self.scores[chosen], self.roughness[chosen])


@dataclass(slots=True)
class Spoke:
    """The row at which each detector first spoke, None: not at all."""

    martingale: int | None = None
    adwin_p_values: int | None = None
    adwin_scores: int | None = None
    adwin_roughness: int | None = None

    @property
    def first(self) -> int | None:
        """When any of them first spoke."""
        rows = [getattr(self, word) for word in self.__slots__]
        return min((each for each in rows if each is not None), default=None)


def run_stream(streams: list[Judged], calibration_rows: int, portion_rows: int = FAST_PORTION_ROWS) -> list[Spoke]:
    """Feed streams one after the other to the same detectors; rows of `Spoke` count from the beginning of each.

    Only the last stream comes in portions of `portion_rows`, so only there rows are exact to that. A detector that
    spoke in an earlier stream may speak again in the next: a false alarm does not hide a true one.
    """
    martingale = ConformalMartingale(calibration_rows)
    windows: dict[str, Adwin | RoughnessWindow] = {"adwin_p_values": Adwin(), "adwin_scores": Adwin()}
    windows["adwin_roughness"] = RoughnessWindow()
    found = []
    for number, stream in enumerate(streams, 1):
        spoke, before = Spoke(), {word: window.cuts for word, window in windows.items()}
        size = portion_rows if number == len(streams) else BEFORE_PORTION_ROWS
        for begin in range(0, len(stream.p_values), size):
            part = slice(begin, begin + size)
            end = min(begin + size, len(stream.p_values))
            martingale.peak = 0.0
            martingale.add(stream.p_values[part])
            if spoke.martingale is None and martingale.peak > ALARM:
                spoke.martingale = end
            for word, values in zip(windows, (stream.p_values, stream.scores, stream.roughness), strict=True):
                windows[word].add(values[part])
                if getattr(spoke, word) is None and windows[word].cuts > before[word]:
                    setattr(spoke, word, end)
        found.append(spoke)
    return found


def first_words(spoken: list[int | None]) -> tuple[int, float, float]:
    """Return in how many runs a detector spoke, and the median and the 95th percentile of the rows until then."""
    rows = [each for each in spoken if each is not None]
    if not rows:
        return 0, float("nan"), float("nan")
    # A run in which it never spoke is later than all others.
    late = np.sort(np.array([float("inf") if each is None else float(each) for each in spoken]))
    return len(rows), float(late[(len(late) - 1) // 2]), float(late[int(0.95 * (len(late) - 1))])


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Rows as the model and its screen see them, which of them it gets right, and rows the screen was calibrated on."""

    judged: Judged
    right: NDArray[np.bool_]
    calibrated: int


def drift(run: Run) -> list[Finding]:
    """Return a finding of benign streams, and two for each shift."""
    rng = np.random.default_rng([run.seed, 0xD21F7])
    sample = run.rows(Split.TEST, ROWS[run.lab.size], 0)
    benign = _see(run, sample.rows, sample.labels)
    found = [_false_alarms(run, benign, rng)]
    runs = SHIFT_RUNS[run.lab.size]
    for shift, change in SHIFTS.items():
        shifted = _see(run, change(sample.rows, rng), sample.labels)
        lost = float(benign.right.mean() - shifted.right.mean())
        found.append(_sudden(f"{shift}/sudden", [_sudden_stream(benign, shifted, rng) for _ in range(runs)], lost))
        slow = [_slow_stream(benign, shifted, rng) for _ in range(max(1, runs // 10))]
        found.append(_slow(f"{shift}/slow", slow, lost))
    return found


def _see(run: Run, rows: NDArray[np.float32], labels: NDArray[np.int64]) -> _Seen:
    known = run.victim()
    outputs = known.outputs(rows)
    screen = load_evidence(known.arrays())
    p_values = screen.judge(Evidence({}, outputs), rows=len(rows)).p_values
    prediction = np.asarray(outputs["probabilities"], np.float64)
    judged = Judged(p_values, prediction.max(axis=1), roughness(rows))
    return _Seen(judged, prediction.argmax(axis=1) == labels, screen.calibration.rows)


def _false_alarms(run: Run, benign: _Seen, rng: np.random.Generator) -> Finding:
    runs, rows = RUNS[run.lab.size], BENIGN_ROWS[run.lab.size]
    alarms = []
    for done in range(runs):
        run.tell(done, runs)
        calibration = ConformalCalibration.from_scores(rng.random(benign.calibrated))
        stream = replace(benign.judged.drawn(rows, rng), p_values=calibration.p_values(rng.random(rows)))
        alarms += run_stream([stream], benign.calibrated, PORTION_ROWS)
    counts = {word: sum(getattr(each, word) is not None for each in alarms) for word in Spoke.__slots__}
    settings = {"rows": rows, "success": "a run of benign rows in which any detector speaks"}
    metrics = {f"{word}_alarms": float(count) for word, count in counts.items()}
    return Finding(runs, sum(each != Spoke() for each in alarms), metrics, settings, part="none")


def _sudden_stream(benign: _Seen, shifted: _Seen, rng: np.random.Generator) -> Spoke:
    streams = [benign.judged.drawn(BEFORE_ROWS, rng), shifted.judged.drawn(LATE_ROWS, rng)]
    return run_stream(streams, benign.calibrated)[1]


def _sudden(part: str, spoken: list[Spoke], lost: float) -> Finding:
    metrics = {"accuracy_lost": lost}
    firsts = {"any": [each.first for each in spoken]}
    firsts |= {word: [getattr(each, word) for each in spoken] for word in Spoke.__slots__}
    for word, rows in firsts.items():
        count, median, late = first_words(rows)
        metrics[f"{word}_found"] = float(count)
        metrics |= {f"{word}_{name}_rows": n for name, n in (("median", median), ("p95", late)) if n < np.inf}
    settings = {"before_rows": BEFORE_ROWS, "success": f"a shift that no detector sees within {DELAY_MAX} rows"}
    missed = sum(first is None or first > DELAY_MAX for first in firsts["any"])
    return Finding(len(spoken), missed, metrics, settings, part=part)


def _slow_stream(benign: _Seen, shifted: _Seen, rng: np.random.Generator) -> Spoke:
    """The share of shifted rows grows evenly from nothing to all of them."""
    before, after = benign.judged.drawn(SLOW_ROWS, rng), shifted.judged.drawn(SLOW_ROWS, rng)
    late = rng.random(SLOW_ROWS) < np.linspace(0, 1, SLOW_ROWS)
    parts = ((getattr(after, name), getattr(before, name)) for name in Judged.__slots__)
    mixed = Judged(*(np.where(late, one, other) for one, other in parts))
    return run_stream([benign.judged.drawn(BEFORE_ROWS, rng), mixed], benign.calibrated, SLOW_PORTION_ROWS)[1]


def _slow(part: str, spoken: list[Spoke], lost: float) -> Finding:
    firsts = [each.first for each in spoken]
    losses = [lost if first is None else lost * first / SLOW_ROWS for first in firsts]
    _, median, _ = first_words(firsts)
    metrics = {"accuracy_lost_median": float(np.median(losses)), "accuracy_lost_most": max(losses)}
    metrics |= {"any_median_rows": median} if median < np.inf else {}
    settings = {"rows": SLOW_ROWS, "success": f"a shift first seen when more than {LOSS_MAX} of accuracy is lost"}
    return Finding(len(spoken), sum(loss > LOSS_MAX for loss in losses), metrics, settings, part=part)

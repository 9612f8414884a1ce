"""What is counted of screens: verdicts and p-values, and what is known of the screens themselves."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ops.metrics.store import Cell, Family, Histogram, Store, counter, gauge

VERDICTS = ("pass", "flag", "refuse")
P_VALUES = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
OBSERVED_ROWS = 10_000


class ScreenFacts(NamedTuple):
    """What is known of a screen in force. A rate that was not measured has no series."""

    threshold: float
    """P-value at or below which a row is flagged."""
    technique: str
    """The MITRE ATLAS technique that it looks for."""
    mode: str
    fpr: float | None = None
    """False-positive rate measured on held-out rows, and the bounds of its confidence interval."""
    fpr_low: float | None = None
    fpr_high: float | None = None


class ObservedShare:
    """The share of rows that were flagged or refused in a sliding window: the batches that hold the last rows."""

    __slots__ = ("_batches", "_flagged", "_rows")

    def __init__(self) -> None:
        self._batches: deque[tuple[int, int]] = deque()
        self._rows = 0
        self._flagged = 0

    def add(self, rows: int, flagged: int) -> float:
        """Count a batch and forget what is too old. Returns the share."""
        self._batches.append((rows, flagged))
        self._rows += rows
        self._flagged += flagged
        while self._rows - self._batches[0][0] >= OBSERVED_ROWS:
            old_rows, old_flagged = self._batches.popleft()
            self._rows -= old_rows
            self._flagged -= old_flagged
        return self._flagged / max(self._rows, 1)


class ScreenMetrics:
    """The series of screens in one process's store. Thread-safe."""

    def __init__(self, store: Store) -> None:
        screen = ("model", "screen")
        self._lock, self._vocabulary = store.lock, store.vocabulary
        self._vocabulary.allow("verdict", VERDICTS)
        self._vocabulary.allow("bound", ("low", "high"))
        self._vocabulary.allow("mode", ("enforce", "shadow"))
        self._verdicts = counter(
            store, "stockade_screen_verdicts_total", "Verdicts of the screens.", (*screen, "verdict")
        )
        text = "Conformal p-values of rows."
        self._p_values = Histogram(Family(store, "histogram", "stockade_screen_pvalue", text, screen), P_VALUES)
        text = "P-value at or below which a row is flagged."
        self._threshold = gauge(store, "stockade_screen_threshold", text, screen, merge="livemin")
        text = "False-positive rate measured when the screen was calibrated."
        self._fpr = gauge(store, "stockade_screen_fpr_calibrated", text, screen, merge="livemax")
        text = "Bounds of the 95 % interval of the calibrated false-positive rate."
        bound = (*screen, "bound")
        self._fpr_bound = gauge(store, "stockade_screen_fpr_calibrated_bound", text, bound, merge="livemax")
        text = "Screens in force: their mode, and the MITRE ATLAS technique that each looks for."
        self._info = gauge(store, "stockade_screen_info", text, (*screen, "technique", "mode"), merge="livemax")
        self._said: dict[tuple[str, str], Cell] = {}
        text = (
            f"Share of the last {OBSERVED_ROWS} rows that were flagged or refused, in the worker where it is highest."
        )
        self._fpr_observed = gauge(store, "stockade_screen_fpr_observed", text, screen, merge="livemax")
        self._observed: dict[Cell, ObservedShare] = {}

    def serve(self, model: str, screens: Mapping[str, ScreenFacts]) -> None:
        """Let a model's screens have series, or say what has changed about them."""
        with self._lock:
            self._vocabulary.allow("screen", screens)
            for screen, facts in screens.items():
                self._describe(model, screen, facts)
                for verdict in VERDICTS:
                    self._verdicts.bind(model, screen, verdict)

    def _describe(self, model: str, screen: str, facts: ScreenFacts) -> None:
        """Say what is known of a screen, and no longer what was known before. Lock held."""
        self._vocabulary.allow("technique", (facts.technique,))
        self._threshold.bind(model, screen).set(facts.threshold)
        if facts.fpr is not None:
            self._fpr.bind(model, screen).set(facts.fpr)
        for bound, rate in (("low", facts.fpr_low), ("high", facts.fpr_high)):
            if rate is not None:
                self._fpr_bound.bind(model, screen, bound).set(rate)
        if (before := self._said.get((model, screen))) is not None:
            before.set(0)
        cell = self._said[model, screen] = self._info.bind(model, screen, facts.technique, facts.mode)
        cell.set(1)

    def judged(self, model: str, screen: str, verdicts: Mapping[str, int], p_values: Sequence[float]) -> None:
        """A screen has judged rows. `verdicts`: "pass", "flag" or "refuse" -> rows."""
        with self._lock:
            for verdict, rows in verdicts.items():
                self._verdicts.bind(model, screen, verdict).add(rows)
            self._p_values.bind(model, screen).observe(p_values)
            cell = self._fpr_observed.bind(model, screen)
            if (observed := self._observed.get(cell)) is None:
                observed = self._observed[cell] = ObservedShare()
            cell.set(observed.add(len(p_values), len(p_values) - verdicts.get("pass", 0)))

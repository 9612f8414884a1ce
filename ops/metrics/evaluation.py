"""What labels that came later say of versions. The series are there once there are such labels."""

from collections.abc import Iterable
from typing import NamedTuple

from ops.metrics.store import Store, gauge

SOURCES = ("trusted", "others")


class LabelFigures(NamedTuple):
    """What the series show of a version and a source. Errors are shares; None: the manifest does not say it."""

    model: str
    version: str
    source: str
    labels: int
    right: int
    calibration_error: float
    calibration_noise: float
    accuracy_promised: float | None = None
    calibration_error_promised: float | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Return the labels of its series."""
        return self.model, self.version, self.source


class EvaluationMetrics:
    """The series of evaluations in one process's store. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._lock, self._vocabulary = store.lock, store.vocabulary
        version = ("model", "version")
        of = (*version, "source")
        with self._lock:
            self._vocabulary.allow("source", SOURCES)
            text = "Labels of the feedback window that a version's answers are held against."
            self._labels = gauge(store, "stockade_model_labels", text, of)
            text = "Of them, those that the version had answered."
            self._right = gauge(store, "stockade_model_labels_right", text, of)
            text = "How far a version's confidence was from how often it was right (expected calibration error)."
            self._error = gauge(store, "stockade_model_calibration_error_ratio", text, of)
            text = "What the calibration error of as many labels hardly exceeds where every confidence is true."
            self._noise = gauge(store, "stockade_model_calibration_noise_ratio", text, of)
            text = "Accuracy that the bundle's manifest says was measured before the version served."
            self._accuracy_promised = gauge(store, "stockade_model_accuracy_promised_ratio", text, version)
            text = "Expected calibration error that the bundle's manifest says was measured."
            self._error_promised = gauge(store, "stockade_model_calibration_error_promised_ratio", text, version)
        self._shown: set[tuple[str, str, str]] = set()

    def found(self, evaluations: Iterable[LabelFigures]) -> None:
        """Show these; what was shown and is not among them has no labels any more."""
        with self._lock:
            shown = set()
            for each in evaluations:
                self._show(each)
                shown.add(each.key)
            for gone in self._shown - shown:
                for gauge_of in (self._labels, self._right, self._error, self._noise):
                    gauge_of.bind(*gone).set(0)
            self._shown = shown

    def _show(self, figures: LabelFigures) -> None:
        """Show one. Lock held."""
        self._vocabulary.allow("model", (figures.model,))
        self._vocabulary.allow("version", (figures.version,))
        self._labels.bind(*figures.key).set(figures.labels)
        self._right.bind(*figures.key).set(figures.right)
        self._error.bind(*figures.key).set(figures.calibration_error)
        self._noise.bind(*figures.key).set(figures.calibration_noise)
        version = figures.model, figures.version
        if figures.accuracy_promised is not None:
            self._accuracy_promised.bind(*version).set(figures.accuracy_promised)
        if figures.calibration_error_promised is not None:
            self._error_promised.bind(*version).set(figures.calibration_error_promised)

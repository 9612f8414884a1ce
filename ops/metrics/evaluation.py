"""What labels that came later say of versions. The series are there once there are such labels."""

from collections.abc import Sequence

from ops.metrics.store import Store, gauge

__all__ = ["EvaluationMetrics"]

SOURCES = ("trusted", "others")


class EvaluationMetrics:
    """The series of evaluations in one process's store. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._lock, self._vocabulary = store.lock, store.vocabulary
        of = ("model", "version", "source")
        with self._lock:
            self._vocabulary.allow("source", SOURCES)
            text = "Labels of the feedback window that a version's answers are held against."
            self._labels = gauge(store, "stockade_model_labels", text, of)
            text = "Of them, those that the version had answered."
            self._right = gauge(store, "stockade_model_labels_right", text, of)
            text = "How far a version's confidence was from how often it was right (expected calibration error)."
            self._error = gauge(store, "stockade_model_calibration_error_ratio", text, of)
        self._shown: set[tuple[str, str, str]] = set()

    def found(self, evaluations: Sequence[tuple[str, str, str, int, int, float]]) -> None:
        """(model, version, source, labels, right, calibration error) of each; what is not among them has no labels."""
        with self._lock:
            for model, version, source, labels, right, error in evaluations:
                self._vocabulary.allow("model", (model,))
                self._vocabulary.allow("version", (version,))
                key = model, version, source
                self._labels.bind(*key).set(labels)
                self._right.bind(*key).set(right)
                self._error.bind(*key).set(error)
            shown = {(model, version, source) for model, version, source, *_ in evaluations}
            for gone in self._shown - shown:
                for each in (self._labels, self._right, self._error):
                    each.bind(*gone).set(0)
            self._shown = shown

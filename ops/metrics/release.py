"""What is counted of versions beside each other: response times, shadows, drift, weights, and what later labels say.

`read_versions` is how the host reads it.

Only models that the policy's releases name have series here. Buckets of response times are ten a decade, so that a
percentile taken from them is off by a tenth or so: ratios of versions are judged by it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ops.metrics.scrape import read_samples
from ops.metrics.store import Store, counter, gauge, histogram

MICRO = 1e-6
TIMES = tuple(round(10 ** (step / 10) * 1e-4, 7) for step in range(51))
"""Upper bounds of response times: 100 us to 10 s."""
EVENTS = ("set", "started", "advanced", "promoted", "rolled-back", "ended")
REQUESTS = "stockade_requests_total"
SECONDS = "stockade_release_request_seconds"
DRIFT = "stockade_model_drift"
SHADOW = {
    "requests": ("stockade_shadow_requests_total", "Requests that a version was run on beside the answering one."),
    "errors": ("stockade_shadow_errors_total", "Requests on which a version failed that ran beside the answering one."),
    "dropped": ("stockade_shadow_dropped_total", "Requests that were not compared, because too much waited."),
    "rows": ("stockade_shadow_compared_total", "Rows of which the predictions of two versions were compared."),
    "disagreements": ("stockade_shadow_disagreements_total", "Compared rows whose top class differs."),
    "difference": (
        "stockade_shadow_difference_total",
        "Mean absolute difference of the probabilities, summed over the compared rows.",
    ),
    "seconds": ("stockade_shadow_seconds_total", "Time that a version took beside the answering one."),
    "answered_seconds": (
        "stockade_shadow_answered_seconds_total",
        "Time that the answering version took for the same batches.",
    ),
}


class Compared(NamedTuple):
    """A batch that another version was run on as well."""

    requests: int
    errors: int
    rows: int
    disagreements: int
    difference: float
    seconds: float
    answered_seconds: float


@dataclass(slots=True)
class VersionCounts:
    """What all processes of a host have counted of one version. `times` has a count for each of TIMES, and one above.

    `outcomes`: (outcome, reason) -> requests; `shadow`: a key of SHADOW -> what was counted; `drift`: by detector.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    times: list[int] = field(default_factory=lambda: [0] * (len(TIMES) + 1))
    shadow: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SHADOW, 0.0))
    drift: dict[str, float] = field(default_factory=dict)


class ReleaseMetrics:
    """The series of releases in one process's store. Thread-safe."""

    def __init__(self, store: Store) -> None:
        version = ("model", "version")
        self._lock, self._vocabulary = store.lock, store.vocabulary
        text = "Time from a request's headers to its answer, by version, of models that have a release."
        self._times = histogram(store, SECONDS, text, version, TIMES, MICRO)
        self._shadow = {key: counter(store, name, text, version) for key, (name, text) in SHADOW.items()}
        text = "How far a version's rows are from what a detector expects, in the worker where it is farthest."
        self._drift = gauge(store, DRIFT, text, (*version, "detector"), merge="livemax")
        text = "Share of the principals that a version answers."
        self._weights = gauge(store, "stockade_release_weight", text, version)
        text = "What has happened to a model's canary."
        self._events = counter(store, "stockade_release_events_total", text, ("model", "event"))
        self._vocabulary.allow("event", EVENTS)
        self._models: set[str] = set()
        self._weighed: dict[str, set[str]] = {}

    def serve_releases(self, releases: Mapping[str, Iterable[str]]) -> None:
        """Let models with a release have series, and no others. `releases`: model -> its versions."""
        with self._lock:
            self._models = set(releases)
            for model, versions in releases.items():
                self._vocabulary.allow("model", (model,))
                for version in versions:
                    self._vocabulary.allow("version", (version,))
                    self._times.bind(model, version)
                    for each in self._shadow.values():
                        each.bind(model, version)

    def answered(self, answers: Sequence[tuple[str, str, int]]) -> None:
        """Requests were answered: (model, version, microseconds) of each."""
        taken: dict[tuple[str, str], list[int]] = {}
        for model, version, total_us in answers:
            if model in self._models:
                taken.setdefault((model, version), []).append(total_us)
        if taken:
            with self._lock:
                for key, values in taken.items():
                    self._times.bind(*key).observe(values)

    def compared(self, model: str, version: str, done: Compared) -> None:
        """`version` was run on a batch that another version had answered."""
        with self._lock:
            for key, value in done._asdict().items():
                if value:
                    self._shadow[key].bind(model, version).add(value)

    def dropped(self, model: str, version: str, requests: int) -> None:
        """Requests were not compared, because too much waited."""
        with self._lock:
            self._shadow["dropped"].bind(model, version).add(requests)

    def drift(self, values: Iterable[tuple[str, str, str, float]]) -> None:
        """How far each (model, version, detector) is from what it expects."""
        with self._lock:
            for model, version, detector, value in values:
                self._vocabulary.allow("detector", (detector,))
                self._drift.bind(model, version, detector).set(value)

    def weights(self, model: str, shares: Mapping[str, float]) -> None:
        """These are the weights of a model's versions now. None: it has no release any more."""
        with self._lock:
            self._vocabulary.allow("model", (model,))
            self._vocabulary.allow("version", shares)
            for version in self._weighed.get(model, set()) - shares.keys():
                self._weights.bind(model, version).set(0)
            self._weighed[model] = set(shares)
            for version, share in shares.items():
                self._weights.bind(model, version).set(share)

    def event(self, model: str, event: str) -> None:
        """Something has happened to a model's canary."""
        with self._lock:
            self._vocabulary.allow("model", (model,))
            self._events.bind(model, event).add(1)


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
            self._vocabulary.allow("source", ("trusted", "others"))
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


def read_versions(directory: Path) -> dict[tuple[str, str], VersionCounts]:
    """Return what the processes of a host have counted, by (model, version)."""
    names = {name: key for key, (name, _) in SHADOW.items()}
    found: dict[tuple[str, str], VersionCounts] = {}
    reached: dict[tuple[str, str], dict[float, int]] = {}
    for name, labels, value in read_samples(directory, {REQUESTS, f"{SECONDS}_bucket", DRIFT, *names}):
        key = labels["model"], labels["version"]
        counts = found.setdefault(key, VersionCounts())
        if name == REQUESTS:
            counts.outcomes[labels["outcome"], labels["reason"]] += int(value)
        elif name == DRIFT:
            counts.drift[labels["detector"]] = value
        elif name in names:
            counts.shadow[names[name]] += value
        else:
            reached.setdefault(key, {})[float(labels["le"])] = int(value)
    for key, buckets in reached.items():  # the page's buckets include those below
        below = 0
        for index, bound in enumerate(sorted(buckets)):
            found[key].times[index] = buckets[bound] - below
            below = buckets[bound]
    return found

"""Prometheus metrics of the gateway and of the recorder. The names are an interface.

`Metrics` and `RecorderMetrics` are what a process writes, `serve_metrics` shows all processes of a host as one page,
`store` and `scrape` are the only modules that know prometheus_client. Nothing here reads a clock.
"""

from ops.metrics.gateway import Metrics, RequestDone
from ops.metrics.models import BatchesDone, ScreenFacts
from ops.metrics.page import MetricsPage, serve_metrics
from ops.metrics.recorder import RETENTION, RecorderMetrics, RetentionMetrics
from ops.metrics.release import TIMES, Compared, LabelFigures, ReleaseMetrics, VersionCounts, read_versions
from ops.metrics.scrape import expose, prepare_directory
from ops.metrics.store import MetricsInUse, forget_process

__all__ = [
    "RETENTION",
    "TIMES",
    "BatchesDone",
    "Compared",
    "LabelFigures",
    "Metrics",
    "MetricsInUse",
    "MetricsPage",
    "RecorderMetrics",
    "ReleaseMetrics",
    "RequestDone",
    "RetentionMetrics",
    "ScreenFacts",
    "VersionCounts",
    "expose",
    "forget_process",
    "prepare_directory",
    "read_versions",
    "serve_metrics",
]

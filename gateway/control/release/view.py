"""Releases as people look at them: what the admin port says of them, and `stockade models compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict
from rich.markup import escape
from rich.table import Table

from gateway.control.release.releases import blamed
from gateway.models.canary import P99, quantile
from gateway.request.drifts import MARTINGALE
from ops.metrics import TIMES, VersionCounts
from stockade.v1 import admin_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console

    from gateway.control.release.releases import Counted, Releases, Trial

MEDIAN = 0.5
COLUMNS = ("version", "weight", "answered", "failed", "p50 ms", "p99 ms", "beside", "failed", "dropped")
COMPARED = ("rows", "disagree", "difference", "time ratio", "drift")


def shown(releases: Releases, counted: Counted) -> Iterator[admin_pb2.Release]:
    """Yield each release as the admin port tells it."""
    for name, trial in releases.trials.items():
        message = admin_pb2.Release(model=name, kind=trial.kind, version=trial.version)
        if trial.progress is not None and trial.plan is not None:
            message.phase, message.reason = trial.progress.phase, trial.progress.reason
            message.step, message.steps = trial.progress.step + 1, len(trial.plan.steps)
        weights = releases.weights(name)
        for version in versions_of(trial):
            counts = counted.get((name, version), VersionCounts())
            message.versions.append(version_of(version, weights.get(version, 0.0), counts))
        yield message


def versions_of(trial: Trial) -> list[str]:
    """Return the versions that a release is about, that of `serve` first."""
    release = trial.model.release
    assert release is not None, "only such models have a trial"
    return list(dict.fromkeys([trial.model.serve, *release.versions]))


def version_of(version: str, weight: float, counts: VersionCounts) -> admin_pb2.ReleaseVersion:
    """Return what was counted of a version."""
    beside = counts.shadow
    return admin_pb2.ReleaseVersion(
        version=version,
        weight=weight,
        answered=sum(counts.times),
        failed=blamed(counts),
        p50_seconds=quantile(counts.times, TIMES, MEDIAN),
        p99_seconds=quantile(counts.times, TIMES, P99),
        shadow_requests=int(beside["requests"]),
        shadow_failed=int(beside["errors"]),
        shadow_dropped=int(beside["dropped"]),
        compared=int(beside["rows"]),
        disagreements=int(beside["disagreements"]),
        difference=beside["difference"] / max(beside["rows"], 1),
        shadow_seconds=beside["seconds"],
        answered_seconds=beside["answered_seconds"],
        drift=counts.drift,
    )


def as_json(release: admin_pb2.Release) -> dict[str, Any]:
    """Return a release for machines."""
    found: dict[str, Any] = MessageToDict(
        release, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found


def render(releases: Iterable[admin_pb2.Release], console: Console) -> None:
    """Print a table for each release: who answered how, and what ran beside."""
    nothing = True
    for release in releases:
        nothing = False
        table = Table(title=escape(title_of(release)), title_justify="left", pad_edge=False)
        for column in (*COLUMNS, *COMPARED):
            table.add_column(column, justify="right")
        for version in release.versions:
            table.add_row(*answers_of(version), *comparison_of(version))
        console.print(table)
    if nothing:
        console.print("no model of this gateway has a release")


def title_of(release: admin_pb2.Release) -> str:
    """Return what stands over a table."""
    parts = [release.model, release.kind]
    if release.kind != "weights":
        parts.append(f"version {release.version}")
    if release.phase == "running":
        parts.append(f"step {release.step} of {release.steps}")
    elif release.phase:
        parts.append(f"{release.phase}: {release.reason}")
    return ", ".join(parts)


def answers_of(version: admin_pb2.ReleaseVersion) -> list[str]:
    """Return a version's cells under COLUMNS."""
    return [
        escape(version.version),
        f"{version.weight:.1%}",
        f"{version.answered:,}",
        f"{version.failed:,}",
        f"{version.p50_seconds * 1000:.1f}" if version.answered else "",
        f"{version.p99_seconds * 1000:.1f}" if version.answered else "",
        f"{version.shadow_requests:,}",
        f"{version.shadow_failed:,}",
        f"{version.shadow_dropped:,}",
    ]


def comparison_of(version: admin_pb2.ReleaseVersion) -> list[str]:
    """Return a version's cells under COMPARED."""
    # Evidence is no distance.
    distances = (value for name, value in version.drift.items() if not name.startswith(MARTINGALE))
    drift = max(distances, default=None)
    ratio = version.shadow_seconds / version.answered_seconds if version.answered_seconds else None
    return [
        f"{version.compared:,}",
        f"{version.disagreements / version.compared:.2%}" if version.compared else "",
        f"{version.difference:.4f}" if version.compared else "",
        f"{ratio:.2f}" if ratio is not None else "",
        f"{drift:.3f}" if drift is not None else "",
    ]

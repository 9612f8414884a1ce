"""`models.<name>.release` of `policy.yaml`: which version answers whom, and how a new one is tried.

Everything about a rollout stands here, under the policy's signature. What a canary has reached by itself is not part of
the file: it moves only between the shares that the signed `steps` name (`canary` and `releases` in
`gateway.control.release`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from gateway.config.document import Fault, Location, Section
from gateway.config.units import Duration, Text

Version = Annotated[
    str, Text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "1 to 64 letters, digits, dots, hyphens and underscores")
]
Share = Annotated[float, Field(ge=0, le=1)]
SUM_TOLERANCE = 1e-6


class Shadow(Section):
    """A version that is run on what others answered, to compare. Nobody gets its answers."""

    version: Version
    """The version that is run beside; in quotes."""
    rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of batches that are compared."""


class AbortOn(Section):
    """What takes a canary back. What is not given is not looked at."""

    error_rate_max: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of requests that the version failed: faults of the model, servers that do not answer, a full queue."""
    p99_ratio_max: Annotated[float, Field(ge=1, le=1000)] | None = None
    """Its 99th percentile of response times, over that of the version in `serve`."""
    disagreement_max: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of compared rows whose top class differs."""
    drift_max: Annotated[float, Field(gt=0, le=1)] | None = None
    """Distance of its screens' p-values from uniform, 0 to 1, on rows that both versions judged; needs a screen."""
    agreement_min: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of trusted labels that its answers must meet (`feedback.trusted`), also once it was promoted."""
    calibration_error_max: Annotated[float, Field(gt=0, lt=1)] | None = None
    """How far its confidence may be from how often trusted labels find it right, also once it was promoted."""


class Canary(Section):
    """A version that takes over step by step, as long as it does well, and goes back by itself when it does not."""

    version: Version
    """The version on trial; in quotes. `serve` keeps the others' answers, and is what they fall back to."""
    steps: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1, max_length=32)]
    """Shares of the principals, ascending to 1."""
    step_every_ms: Annotated[int, Duration("1s", "30d")] = Field(alias="step_every")
    """How long each step lasts at least."""
    min_requests: Annotated[int, Field(ge=1, le=10_000_000)] = 100
    """Requests that the version must have run in a step, answered or compared, before it may take the next."""
    min_labels: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Trusted labels of its answers that there must be before it is promoted (`feedback.trusted`)."""
    compare_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The share of batches that the other of the two versions runs as well, off the way of the answer."""
    abort_on: AbortOn = AbortOn()
    attempt: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """A higher number tries the same version once more, from the first step."""


class Release(Section):
    """Which version answers whom. A principal stays with its version; weights that change move as few as they can."""

    weights: Annotated[Mapping[Version, Share], Field(min_length=1, max_length=16)] | None = None
    """Version in quotes: share of the principals. They add up to 1."""
    shadow: Shadow | None = None
    canary: Canary | None = None
    salt: Annotated[str, Field(max_length=64)] = ""
    """Another word draws anew which principals get which version: it need not always be the same ones who try first."""

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version it names."""
        named = [*(self.weights or {})]
        named += [one.version for one in (self.shadow, self.canary) if one is not None]
        return tuple(dict.fromkeys(named))


def release_faults(at: Location, serve: str, release: Release) -> Iterator[Fault]:
    """Yield what is wrong with a release whose every part is well-formed. `at` is where it stands."""
    if release.weights is None and release.shadow is None and release.canary is None:
        yield Fault(at, "says nothing; write `weights`, `shadow` or `canary`, or remove it")
    if release.weights is not None:
        yield from _weights_faults(at, release, release.weights)
    if release.shadow is not None:
        answers = release.weights or {serve: 1.0}
        if release.canary is not None:
            yield Fault((*at, "shadow"), "cannot stand beside `canary`, which is compared too; remove one of the two")
        elif answers.get(release.shadow.version):
            problem = f"{release.shadow.version!r} answers already; name a version that does not"
            yield Fault((*at, "shadow", "version"), problem)
    if release.canary is not None:
        yield from _canary_faults((*at, "canary"), serve, release.canary)


def _weights_faults(at: Location, release: Release, weights: Mapping[str, float]) -> Iterator[Fault]:
    if release.canary is not None:
        yield Fault((*at, "weights"), "cannot stand beside `canary`, which sets them; remove one of the two")
    total = sum(weights.values())
    if abs(total - 1) > SUM_TOLERANCE:
        yield Fault((*at, "weights"), f"has to add up to 1; these add up to {total:g}")


def _canary_faults(at: Location, serve: str, canary: Canary) -> Iterator[Fault]:
    if canary.version == serve:
        yield Fault((*at, "version"), f"{serve!r} is what `serve` names already; name another, or remove the canary")
    if any(later <= earlier for earlier, later in pairwise(canary.steps)):
        yield Fault((*at, "steps"), "is not ascending; write shares such as [0.01, 0.1, 0.5, 1]")
    if canary.steps[-1] != 1:
        yield Fault((*at, "steps"), "is not a whole way; the last step has to be 1")

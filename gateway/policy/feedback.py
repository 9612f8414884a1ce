"""`models.<name>.feedback` of `policy.yaml`: how later labels are judged, and how much anybody may say."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from gateway.config.document import Fault, Location, Section
from gateway.config.units import Duration, Text
from gateway.policy.release import Canary

FeedbackKey = Annotated[str, Text(r"[0-9a-f]{64}", "64 lower-case hex digits, as `stockade feedback key` prints them")]
Share = Annotated[float, Field(gt=0, le=1)]


class Feedback(Section):
    """How labels of a model's answers are taken. Its bundle has to bring trusted rows for it."""

    window_ms: Annotated[int, Duration("1m", "90d")] = Field("7d", alias="window", validate_default=True)
    """How long after an answer labels may come, by the gateway's clock."""
    answers_max: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Answered rows that are remembered on a host; beyond it the oldest of the tenant that holds most are forgotten."""
    items_max: Annotated[int, Field(ge=10, le=1_000_000)] = 100_000
    """Labels that are held on a host. A tenant may hold a tenth of them."""
    rows_max: Annotated[int, Field(ge=1, le=1024)] = 64
    """Of a request with more rows, labels may come for that many, the first ones."""
    inconsistent_alpha: Annotated[float, Field(ge=1e-4, le=0.5)] = Field(0.05, alias="inconsistent")
    """Labels at or below this p-value go into quarantine: also the share of right ones that do."""
    tenant_share_max: Share = 0.01
    """How much of one update may be a tenant's."""
    principal_share_max: Share = 0.01
    """How much of one update may be a principal's."""
    trusted: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    """Principals whose labels measure how well versions do: people who look, or checked outcomes."""


def label_faults(at: Location, feedback: Feedback | None, canary: Canary) -> Iterator[Fault]:
    """Yield what a canary must reach and nobody's labels would measure. `at` is where the canary stands."""
    if feedback is not None and feedback.trusted:
        return
    asked = {
        ("abort_on", "agreement_min"): canary.abort_on.agreement_min is not None,
        ("abort_on", "calibration_error_max"): canary.abort_on.calibration_error_max is not None,
        ("min_labels",): canary.min_labels > 0,
    }
    problem = "is measured by trusted labels, and there are none; name principals in `feedback.trusted`"
    yield from (Fault((*at, *where), problem) for where, given in asked.items() if given)


def feedback_faults(at: Location, feedback: Feedback, principals: Mapping[str, object]) -> Iterator[Fault]:
    """Yield what is wrong with it. `at` is where it stands."""
    for index, name in enumerate(feedback.trusted):
        if name not in principals:
            near = difflib.get_close_matches(name, principals, n=1)
            advice = f"did you mean `{near[0]}`?" if near else "add it to `principals`, or remove it here"
            yield Fault((*at, "trusted", index), f"{name!r} is not a principal; {advice}")
        elif not getattr(principals[name], "feedback_keys", ()):
            yield Fault((*at, "trusted", index), f"{name!r} has no `feedback_keys`, so no label of it counts; add one")
    if feedback.principal_share_max > feedback.tenant_share_max:
        problem = f"{feedback.principal_share_max} is above `tenant_share_max` ({feedback.tenant_share_max})"
        yield Fault((*at, "principal_share_max"), f"{problem}, which bounds it anyway; lower it")

"""The labels that came from suspects while an incident went on, or for suspected models: what recovering throws away.

What was learned already cannot be thrown away: the version that has learned it is what has to go back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.tools.operations.tenants import asked
from ops.incidents.timeline import MODEL, TENANT
from stockade.v1 import feedback_pb2

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Iterator

    from gateway.tools.incident.read import Story

SERVICE = "FeedbackReview"
PAGE = 1_000
PAGES_MAX = 100
DECIDED_MAX = 50  # in one call
OPEN = ("accepted", "released", "quarantined")


def suspect_labels(story: Story, names: Collection[tuple[str, str]], options: argparse.Namespace) -> list[int]:
    """Return the ids of labels that came in the range from suspects, or for suspected models, and are not learned yet.

    `names` are the suspected principals, each with its tenant. Raises OperatorFailed.
    """
    assert story.incident is not None, "recovering is about an incident"
    scope = story.timeline.scope
    suspects = set(story.incident.suspects)

    def suspected(item: feedback_pb2.HeldItem) -> bool:
        inside = scope.from_ns <= item.received_unix_ns <= scope.until_ns
        by = TENANT + item.tenant in suspects or (item.tenant, item.principal) in names
        about = {f"{MODEL}{item.model}", f"{MODEL}{item.model}/{item.version}"}
        return inside and (by or bool(about & suspects))

    return [item.id for state in OPEN for item in held(state, options) if suspected(item)]


def held(state: str, options: argparse.Namespace) -> Iterator[feedback_pb2.HeldItem]:
    """Yield the labels in a state. Raises OperatorFailed."""
    after = 0
    for _ in range(PAGES_MAX):
        request = feedback_pb2.ListFeedbackRequest(state=state, after=after, count_max=PAGE)
        reply = asked("ListItems", request, feedback_pb2.ListFeedbackResponse, options, service=SERVICE)
        yield from reply.items
        if len(reply.items) < PAGE:
            return
        after = reply.items[-1].id


def reject_labels(ids: list[int], options: argparse.Namespace) -> None:
    """Throw them away. Raises OperatorFailed."""
    for start in range(0, len(ids), DECIDED_MAX):
        request = feedback_pb2.DecideFeedbackRequest(
            ids=ids[start : start + DECIDED_MAX], decision="reject", reason=f"recovering from {options.incident}"
        )
        asked("DecideItems", request, feedback_pb2.DecideFeedbackResponse, options, service=SERVICE)

"""Which labels recovering throws away: the suspects' own, those for suspected models, in the range, and no others."""

from __future__ import annotations

from argparse import Namespace

import pytest

from gateway.tools.incident import labels
from gateway.tools.incident.labels import reject_labels, suspect_labels
from gateway.tools.incident.read import Story
from ops.incidents.timeline import Opened, Timeline
from stockade.v1 import feedback_pb2

OPTIONS = Namespace(incident="inc-1")


def story(*suspects: str) -> Story:
    incident = Opened("inc-1", 1, 5, "a", "", 10, 20, suspects)
    return Story(None, Timeline(incident.scope()), incident)


def item(number: int, at: int = 15, **fields) -> feedback_pb2.HeldItem:
    made = {"tenant": "store", "principal": "kiosk", "model": "kiosk", "version": "1", "state": "accepted", **fields}
    return feedback_pb2.HeldItem(id=number, received_unix_ns=at, **made)


@pytest.fixture
def gateway(monkeypatch):
    """A gateway that holds these labels, a page at a time, and remembers what was decided."""
    held: list[feedback_pb2.HeldItem] = []
    decided: list[feedback_pb2.DecideFeedbackRequest] = []

    def asked(method, request, reply, options, *, service):
        assert service == "FeedbackReview"
        if method == "DecideItems":
            decided.append(request)
            return reply(changed=len(request.ids))
        found = [one for one in held if one.state == request.state and one.id > request.after]
        return reply(items=found[: request.count_max])

    monkeypatch.setattr(labels, "asked", asked)
    monkeypatch.setattr(labels, "PAGE", 2)
    return held, decided


@pytest.mark.parametrize(
    ("suspects", "names", "found"),
    [
        (["tenant:store"], set(), [1, 2, 3, 4]),
        (["principal:store/" + "a" * 32], {("store", "kiosk")}, [1, 3]),
        (["model:kiosk"], set(), [1, 2, 4, 5]),
        (["model:kiosk/2"], set(), [4]),
        (["tenant:nobody"], set(), []),
    ],
)
def test_whose_they_are(gateway, suspects, names, found):
    held, _ = gateway
    held += [
        item(1),
        item(2, principal="other"),
        item(3, model="tiny"),
        item(4, principal="other", version="2", state="quarantined"),
        item(5, tenant="lab", principal="kiosk"),
    ]
    assert sorted(suspect_labels(story(*suspects), names, OPTIONS)) == found


def test_only_those_of_the_range_and_none_that_is_learned(gateway):
    held, _ = gateway
    held += [item(number, at) for number, at in enumerate((9, 10, 20, 21), 1)]
    held += [item(9, state="learned"), item(10, state="released"), item(11, state="rejected"), item(12, state="taken")]
    assert suspect_labels(story("tenant:store"), set(), OPTIONS) == [2, 3, 10]


def test_many_are_thrown_away_in_parts(gateway):
    _, decided = gateway
    reject_labels(list(range(1, 102)), OPTIONS)
    assert [len(one.ids) for one in decided] == [50, 50, 1]
    assert {(one.decision, one.reason) for one in decided} == {("reject", "recovering from inc-1")}

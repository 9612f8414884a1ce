"""What operators see of labels: tables for people, JSON for machines, and an answer in the exit code."""

import json

import pytest

from gateway.cli.main import main as cli
from gateway.tools.operator import OperatorFailed
from gateway.tools.terminal import terminal
from stockade.v1 import feedback_pb2 as pb

ITEM = pb.HeldItem(
    id=4711,
    state="quarantined",
    reason="INCONSISTENT",
    request_id="ab" * 16,
    row=2,
    model="kiosk",
    version="3",
    tenant="store-7",
    principal="[red]till",
    label="Sandal",
    answered="Sneaker",
    p_micro=4_100,
    received_unix_ns=1_800_000_000_000_000_000,
)


@pytest.fixture
def gateway(monkeypatch):
    """Answers what it is asked, and remembers it."""
    asked, replies = [], {}

    def ask(method, body, *_, service, **place):
        assert service == "FeedbackReview"
        asked.append((method, body))
        if method not in replies:
            raise OperatorFailed("there is no gateway")
        return replies[method].SerializeToString()

    monkeypatch.setattr("gateway.cli.answers.ask", ask)
    return asked, replies


def test_a_list_names_everything_that_decides_and_marks_nothing_up(gateway, capsys, monkeypatch):
    asked, replies = gateway
    replies["ListItems"] = pb.ListFeedbackResponse(items=[ITEM])
    monkeypatch.setattr(terminal, "width", 200)
    assert cli(["feedback", "list", "x.yaml", "--state", "quarantined", "--model", "kiosk", "--after", "7"]) == 0
    printed = capsys.readouterr().out
    for word in (
        "4711",
        "quarantined",
        "INCONSISTENT",
        "kiosk/3",
        "[red]till",
        "Sandal",
        "Sneaker",
        "0.0041",
        "2027-01-15",
    ):
        assert word in printed
    request = pb.ListFeedbackRequest.FromString(asked[0][1])
    assert (request.state, request.model, request.after, request.count_max) == ("quarantined", "kiosk", 7, 100)


def test_one_label_is_shown_whole(gateway, capsys):
    _, replies = gateway
    replies["ListItems"] = pb.ListFeedbackResponse(items=[ITEM])
    assert cli(["feedback", "show", "x.yaml", "4711"]) == 0
    printed = capsys.readouterr().out
    assert "store-7" in printed
    assert "2027-01-15T08:00:00Z" in printed
    assert cli(["feedback", "show", "x.yaml", "4711", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["principal"] == "[red]till"


@pytest.mark.parametrize(("verb", "word"), [("release", "released: 1 of 2"), ("reject", "rejected: 1 of 2")])
def test_a_decision_that_did_not_change_all_is_a_no(gateway, capsys, verb, word):
    asked, replies = gateway
    replies["DecideItems"] = pb.DecideFeedbackResponse(changed=1)
    assert cli(["feedback", verb, "x.yaml", "1", "2", "--reason", "looked"]) == 1
    assert word in capsys.readouterr().out
    request = pb.DecideFeedbackRequest.FromString(asked[0][1])
    assert (list(request.ids), request.decision, request.reason) == ([1, 2], verb, "looked")
    assert cli(["feedback", verb, "x.yaml", "1", "1", "--reason", "looked"]) == 0


def test_the_status_has_labels_agreement_and_batches(gateway, capsys):
    _, replies = gateway
    replies["FeedbackStatus"] = pb.FeedbackStatusResponse(
        answers=12,
        counts=[pb.FeedbackCount(model="kiosk", state="accepted", items=3)],
        agreements=[pb.LabelAgreement(model="kiosk", version="3", right=9, labels=10)],
        evaluations=[
            pb.VersionEvaluation(
                model="kiosk", version="3", source="others", labels=400, right=380, calibration_error_micro=12_000
            )
        ],
        batches=[pb.FeedbackBatch(id=1, model="kiosk", version="3", items=2, state="learned", candidate="4")],
    )
    assert cli(["feedback", "status", "x.yaml"]) == 0
    printed = capsys.readouterr().out
    for word in ("12 answered rows", "accepted", "90.0%", "95.0% (92.4%-96.7%)", "1.2%", "learned"):
        assert word in printed


def test_a_gateway_that_cannot_be_asked_is_said_so(gateway, capsys):
    assert cli(["feedback", "status", "x.yaml"]) == 2
    assert "there is no gateway" in capsys.readouterr().err


def test_a_key_is_made_once(tmp_path, capsys):
    out = tmp_path / "label.key"
    assert cli(["feedback", "key", "--out", str(out), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert len(bytes.fromhex(made["feedback_key"])) == 32
    assert cli(["feedback", "key", "--out", str(out)]) == 2

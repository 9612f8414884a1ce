"""Labels over gRPC, through a whole gateway: accepted, quarantined, refused, recorded, counted."""

from __future__ import annotations

import grpc
import pytest

from gateway.edge.feedback import ITEMS_MAX
from stockade.v1.feedback_pb2 import SubmitFeedbackRequest
from tests.gateway.request.labels.labelled import (
    MODEL,
    ask,
    item,
    labelled_rig,
    results,
    said,
    store_of,
    submit,
)
from tests.gateway.rig import open_rig

OK = ("accepted", "")


@pytest.fixture
async def rig(made_site, tmp_path):
    async with labelled_rig(made_site, tmp_path) as opened:
        yield opened


async def test_a_label_of_an_answer_is_accepted_recorded_and_counted(rig):
    answered = await ask(rig, "b")
    reply = await submit(rig, [item(answered.request_id, "b", confidence_micro=900_000)])
    assert reply.reason == "OK"
    [entry] = said(rig)
    assert entry["disposition"] == "accepted"
    assert (entry["request"], entry["label"], entry["row"]) == (answered.request_id, "b", 0)
    assert (entry["call"], entry["auth"]["tenant"]) == (reply.request_id, "plenty")
    assert entry["p_micro"] > 50_000
    assert "reason" not in entry
    assert rig.counted("stockade_feedback_items_total", model=MODEL, disposition="accepted", reason="OK") == 1
    [held] = store_of(rig).listed(model="", tenant="", state="", after=0, count=10)
    assert (held.state, held.name, held.answered, held.principal) == ("accepted", "b", "b", "plenty")
    assert len(held.latent) == 4 * 2


async def test_every_row_of_a_request_can_be_labelled_and_no_other(rig):
    answered = await ask(rig, "c", rows=3)
    items = [item(answered.request_id, "c", row=row) for row in range(4)]
    assert await results(rig, items) == [OK, OK, OK, ("refused", "UNKNOWN_REQUEST")]
    assert rig.counted("stockade_feedback_items_total", disposition="refused", reason="UNKNOWN_REQUEST") == 1


async def test_a_label_that_trusted_rows_contradict_is_quarantined_and_the_sender_is_not_told_why(rig):
    answered = await ask(rig, "a")
    assert await results(rig, [item(answered.request_id, "c")]) == [("quarantined", "")]
    assert [(entry["disposition"], entry["reason"]) for entry in said(rig)] == [("quarantined", "INCONSISTENT")]


async def test_another_principal_of_the_tenant_who_says_something_else_puts_both_into_quarantine(rig):
    answered = await ask(rig, "a")
    assert await results(rig, [item(answered.request_id, "a")]) == [OK]
    other = [item(answered.request_id, "b", caller="token-user")]
    with_token = (("authorization", f"Bearer {rig.site.token()}"),)
    reply = await rig.channel.unary_unary("/stockade.v1.Feedback/Submit")(
        SubmitFeedbackRequest(items=other).SerializeToString(), metadata=with_token
    )
    assert reply
    states = [
        (held.principal, held.state, held.reason)
        for held in store_of(rig).listed(model="", tenant="", state="", after=0, count=9)
    ]
    assert states == [("plenty", "quarantined", "CONTRADICTED"), ("token-user", "quarantined", "CONTRADICTED")]


async def test_labels_of_a_trusted_principal_measure_the_version(rig):
    with_token = (("authorization", f"Bearer {rig.site.token()}"),)
    for said_of in ("a", "b"):
        answered = await ask(rig, said_of)
        body = SubmitFeedbackRequest(
            items=[item(answered.request_id, said_of, caller="token-user")]
        ).SerializeToString()
        await rig.channel.unary_unary("/stockade.v1.Feedback/Submit")(body, metadata=with_token)
    answered = await ask(rig, "a")
    assert await results(rig, [item(answered.request_id, "a")]) == [OK]  # not trusted: it measures nothing
    assert store_of(rig).agreements() == {(MODEL, "1"): (2, 2)}


async def test_an_unknown_label_and_a_foreign_version_are_refused(rig):
    answered = await ask(rig, "a")
    items = [item(answered.request_id, "z"), item(answered.request_id, "a", version="2")]
    assert await results(rig, items) == [("refused", "LABEL_UNKNOWN"), ("refused", "UNKNOWN_REQUEST")]


@pytest.mark.parametrize("count", [0, ITEMS_MAX + 1])
async def test_a_call_with_too_few_or_too_many_items_is_refused_whole(rig, count):
    reply = await submit(rig, [item("ab" * 16, "a")] * count)
    assert (reply.code, reply.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ARGUMENT_INVALID")
    assert said(rig) == []


async def test_a_call_may_have_as_many_items_as_the_limit(rig):
    found = await results(rig, [item("ab" * 16, "a")] * ITEMS_MAX)
    assert found == [("refused", "UNKNOWN_REQUEST")] * ITEMS_MAX
    assert len(said(rig)) == ITEMS_MAX


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("request_id", "AB" * 16),
        ("request_id", "ab" * 15),
        ("request_id", " " + "ab" * 16),
        ("label", ""),
        ("label", "x" * 129),
        ("model", ""),
        ("version", "1" * 129),
        ("outcome_unix_ns", 0),
        ("signed_unix_ns", -1),
        ("confidence_micro", 1_000_001),
        ("row", 2**31),
    ],
)
async def test_what_is_not_the_form_of_a_label_names_its_field(rig, field, value):
    bad = item("ab" * 16, "a")
    setattr(bad, field, value)
    reply = await submit(rig, [item("ab" * 16, "a"), bad])
    assert reply.reason == "ARGUMENT_INVALID"
    assert f"items[1].{field}" in reply.details
    assert said(rig) == []


async def test_a_body_that_is_no_message_is_refused(rig):
    call = rig.channel.unary_unary("/stockade.v1.Feedback/Submit")
    with pytest.raises(grpc.aio.AioRpcError, match="MESSAGE_MALFORMED"):
        await call(b"\xff\xff", metadata=rig.site.bearer("plenty"))


async def test_without_a_durable_record_nothing_is_kept_and_the_same_may_be_said_again(rig):
    answered = await ask(rig, "a")
    rig.sink.unavailable = "recorder_gone"
    reply = await submit(rig, [item(answered.request_id, "a")])
    assert reply.reason == "AUDIT_UNAVAILABLE"
    assert store_of(rig).listed(model="", tenant="", state="", after=0, count=9) == []
    rig.sink.unavailable = None
    assert await results(rig, [item(answered.request_id, "a")]) == [OK]


async def test_what_a_screen_flagged_teaches_nothing(rig):
    answered = await ask(rig, "a")
    await rig.gw.answers.flush()
    with store_of(rig).transaction() as step:
        step._db.execute("UPDATE answers SET decision = 'flag'")
    assert await results(rig, [item(answered.request_id, "a")]) == [("quarantined", "")]
    assert said(rig)[0]["reason"] == "FLAGGED_ANSWER"


async def test_a_call_costs_as_many_rows_as_it_has_items(rig):
    reply = await submit(rig, [item("ab" * 16, "a", caller="costly")] * 9, caller="costly")
    assert reply.reason == "REQUEST_TOO_LARGE"
    assert await results(rig, [item("ab" * 16, "a", caller="costly")] * 8, caller="costly")
    reply = await submit(rig, [item("ab" * 16, "a", caller="costly")], caller="costly")
    assert reply.reason == "RATE_LIMITED"
    assert len(said(rig)) == 8


async def test_who_has_no_right_to_it_may_not_call_it(made_site, tmp_path):
    def only_infer(document):
        document["roles"]["predictor"] = [{"methods": ["ModelInfer"], "models": ["*"]}]

    async with labelled_rig(made_site, tmp_path, policy=only_infer) as rig:
        answered = await ask(rig, "a")
        reply = await submit(rig, [item(answered.request_id, "a")])
        assert reply.reason == "METHOD_FORBIDDEN"


async def test_a_right_for_another_model_is_none_for_this(made_site, tmp_path):
    def other(document):
        document["roles"]["predictor"] = [
            {"methods": ["ModelInfer"], "models": ["*"]},
            {"methods": ["Feedback"], "models": ["tiny"]},
        ]

    async with labelled_rig(made_site, tmp_path, policy=other) as rig:
        answered = await ask(rig, "a")
        assert await results(rig, [item(answered.request_id, "a")]) == [("refused", "UNKNOWN_REQUEST")]


async def test_a_model_without_feedback_takes_no_labels_and_remembers_nothing(made_site, tmp_path):
    async with open_rig(made_site, tmp_path) as rig:
        assert rig.gw.active.models["tiny", "1"].feedback is None
        assert not rig.gw.answers.waiting

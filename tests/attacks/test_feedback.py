"""Who lies about right answers: forged provenance, replays, other tenants' requests, Sybils, floods, clock games.

Each story ends with what stopped it, and with what a trainer would get: nothing that is not signed, answered and in the
log.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from defenses.labels.feedback import CALIBRATION_ROWS_MIN, right_rate_max
from gateway.control.labels.review import rate_max_of, take_batch
from gateway.models.rules import Bounds
from gateway.policy.feedback import Feedback
from gateway.request.labels.gate import SKEW_NS
from gateway.request.labels.rows import ALLOWED, AnswerKept
from tests.gateway.request.labels.labelled import (
    MODEL,
    NAMES,
    ask,
    item,
    labelled_rig,
    results,
    said,
    signer,
    store_of,
    submit,
)

OK = ("accepted", "")
HOUR_NS = 3_600_000_000_000


@pytest.fixture
async def rig(made_site, tmp_path):
    async with labelled_rig(made_site, tmp_path) as opened:
        yield opened


def learned(rig, trusted_rows=10_000, **policy):
    """What a trainer would get now."""
    import numpy as np

    with store_of(rig).transaction() as step:
        feedback = Feedback(**policy)
        return take_batch(
            step,
            (MODEL, "1"),
            feedback,
            rate_max=rate_max_of(feedback, rig.gw.active.models[MODEL, "1"].feedback),
            trusted_rows=trusted_rows,
            rng=np.random.default_rng(0),
            now_ns=time.time_ns(),
        )


@pytest.mark.parametrize("rows", [[CALIBRATION_ROWS_MIN], [CALIBRATION_ROWS_MIN] * 1_000, [385] * 10])
def test_who_labels_answers_of_a_version_that_is_gone_is_suspected_no_sooner_than_by_any_calibration(rows):
    feedback = Feedback()
    assert rate_max_of(feedback, None) >= right_rate_max(rows, feedback.inconsistent_alpha)


async def test_forged_provenance(rig):
    """Mallory has an account, and no key, somebody's key, somebody's signature, or one for something else."""
    answered = await ask(rig, "a")
    unsigned = item(answered.request_id, "a")
    unsigned.ClearField("signature")
    strange = item(answered.request_id, "a", key="rival")  # a good key, and not this principal's
    borrowed = item(answered.request_id, "a", caller="rival", key="rival")
    altered = item(answered.request_id, "b")
    altered.label = "a"
    cut = item(answered.request_id, "a")
    cut.signature = cut.signature[:-1]
    short = item(answered.request_id, "a")
    short.key = short.key[:31]
    found = await results(rig, [unsigned, strange, borrowed, altered, cut, short])
    assert [reason for _, reason in found] == [
        "SIGNATURE_MISSING",
        "KEY_UNKNOWN",
        "KEY_UNKNOWN",
        "SIGNATURE_INVALID",
        "SIGNATURE_INVALID",
        "KEY_UNKNOWN",
    ]
    assert {entry["disposition"] for entry in said(rig)} == {"refused"}
    assert len(said(rig)) == 6
    assert learned(rig).items == []


async def test_a_key_that_the_policy_no_longer_names_signs_nothing(made_site, tmp_path):
    def without(document):
        del document["principals"]["plenty"]["feedback_keys"]

    async with labelled_rig(made_site, tmp_path, policy=without) as rig:
        answered = await ask(rig, "a")
        assert await results(rig, [item(answered.request_id, "a")]) == [("refused", "KEY_UNKNOWN")]


async def test_a_replayed_item_counts_once(rig):
    """The same bytes again, a new signature, another label, twice in one call, and many calls at once."""
    answered = await ask(rig, "a", rows=2)
    first = item(answered.request_id, "a")
    assert await results(rig, [first]) == [OK]
    again = [first, item(answered.request_id, "a"), item(answered.request_id, "b")]
    assert await results(rig, again) == [("refused", "REPLAYED")] * 3
    other = item(answered.request_id, "a", row=1)
    calls = await asyncio.gather(*[results(rig, [other, other]) for _ in range(6)])
    assert [result for call in calls for result in call].count(OK) == 1
    assert len(learned(rig).items) == 2


async def test_another_tenants_request_is_as_unknown_as_one_that_never_was(rig):
    """Somebody who has seen a request's id cannot label it, nor learn from the refusal that it exists."""
    answered = await ask(rig, "a")
    theirs = item(answered.request_id, "c", caller="rival")
    never = item("ab" * 16, "c", caller="rival")
    assert await results(rig, [theirs, never], caller="rival") == [("refused", "UNKNOWN_REQUEST")] * 2
    assert learned(rig).items == []


async def test_what_was_refused_was_never_answered(rig):
    """A request that got no answer has no label."""
    reply = await rig.ask(b"\x0a", caller="plenty")
    assert reply.reason == "MESSAGE_MALFORMED"
    assert await results(rig, [item(reply.request_id, "a")]) == [("refused", "UNKNOWN_REQUEST")]


async def test_a_flood_of_refused_items_is_charged_and_bounded(rig):
    """Garbage costs its sender as much as inference; each piece is in the log and none in the file."""
    found = await results(rig, [item("ab" * 16, "a", caller="costly")] * 8, caller="costly")
    assert found == [("refused", "UNKNOWN_REQUEST")] * 8
    for _ in range(3):
        reply = await submit(rig, [item("ab" * 16, "a", caller="costly")], caller="costly")
        assert reply.reason == "RATE_LIMITED"
    assert len(said(rig)) == 8


async def test_a_flood_of_good_items_holds_a_tenth_of_the_room(made_site, tmp_path):
    def small(document):
        document["models"][MODEL]["feedback"] = {"items_max": 100}

    async with labelled_rig(made_site, tmp_path, policy=small) as rig:
        answered = await ask(rig, "a", rows=20)
        found = await results(rig, [item(answered.request_id, "a", row=row) for row in range(20)])
        assert found == [OK] * 10 + [("refused", "STORE_FULL")] * 10


def test_a_flood_of_answers_forgets_its_own(tmp_path):
    """A tenant that asks a million times cannot make the gateway forget what it answered another."""
    from gateway.request.labels.store import FeedbackStore

    store = FeedbackStore(tmp_path / "feedback.sqlite")
    bounds = Bounds(answers_max=50, items_max=100, window_ns=HOUR_NS)

    def rows(tenant, count, first):
        return [
            AnswerKept((first + n).to_bytes(16, "big"), 0, tenant, MODEL, "1", 0, "allow", b"\0" * 8, first + n)
            for n in range(count)
        ]

    store.remember(rows("quiet", 5, 1), bounds, 100)
    store.remember(rows("loud", 500, 1000), bounds, 2000)
    store.remember(rows("third", 30, 5000), bounds, 6000)
    assert store.answers() == 50
    with store.transaction() as step:
        kept = {
            tenant: sum(step.answered(n.to_bytes(16, "big"), 0, tenant) is not None for n in range(6000))
            for tenant in ("quiet", "loud", "third")
        }
    assert kept["quiet"] == 5
    assert abs(kept["loud"] - kept["third"]) <= 1


async def test_sybils_of_one_tenant_are_one_tenant(rig):
    """Many principals of a tenant share its part of an update; each has a principal's part at most."""
    answered = await ask(rig, "a", rows=64)
    assert set(await results(rig, [item(answered.request_id, "a", row=row) for row in range(64)])) == {OK}
    taken = learned(rig, trusted_rows=1_000)
    assert len(taken.items) == 10  # 1 % of 1,010
    assert taken.capped == 54


async def test_liars_who_are_just_plausible_enough_are_found_together(rig):
    """Each label passes or not by itself; a tenant whose labels fail too often loses all of them to quarantine."""
    answered = [await ask(rig, NAMES[n % 3], rows=8) for n in range(6)]
    lies = [
        item(each.request_id, NAMES[(n + (row % 2)) % 3], row=row)
        for n, each in enumerate(answered)
        for row in range(8)
    ]
    found = await results(rig, lies)
    assert found.count(OK) == 24
    taken = learned(rig)
    assert taken.suspects == ["plenty", "plenty/plenty"]
    assert list(taken.items) == []
    assert {held.state for held in store_of(rig).listed(model="", tenant="", state="", after=0, count=99)} == {
        "quarantined"
    }


@pytest.mark.parametrize("field", ["outcome_ns", "signed_ns"])
@pytest.mark.parametrize(
    ("shift_ns", "reason"), [(-SKEW_NS - HOUR_NS, "TIME_INVALID"), (SKEW_NS + HOUR_NS, "TIME_INVALID"), (0, "")]
)
async def test_clock_games(rig, field, shift_ns, reason):
    """Signed before there was an answer to judge, or in a future in which the window would still be open."""
    answered = await ask(rig, "a")
    [(_, found)] = await results(rig, [item(answered.request_id, "a", **{field: time.time_ns() + shift_ns})])
    assert found == reason


async def test_the_window_is_the_gateways_own(made_site, tmp_path):
    """A sender's clock moves nothing: what was answered too long ago is unknown, whatever time it names."""

    def short(document):
        document["models"][MODEL]["feedback"] = {"window": "1m"}

    async with labelled_rig(made_site, tmp_path, policy=short) as rig:
        answered = await ask(rig, "a")
        now = time.time_ns()
        rig.gw.wall_ns = lambda: now + 61_000_000_000
        late = item(answered.request_id, "a", outcome_ns=now, signed_ns=now)
        assert await results(rig, [late]) == [("refused", "UNKNOWN_REQUEST")]
        rig.gw.wall_ns = lambda: now + 59_000_000_000
        assert await results(rig, [late]) == [OK]


async def test_nothing_reaches_a_batch_that_is_not_signed_answered_and_in_the_log(rig):
    """Whatever is sent: every item of a batch has an entry that says accepted, and a key of the policy."""
    answered = await ask(rig, "b", rows=4)
    good = [item(answered.request_id, "b", row=row) for row in range(4)]
    good[1].ClearField("signature")
    good[2].signature = bytes(64)
    await results(rig, good)
    rig.sink.unavailable = "recorder_gone"
    unrecorded = await ask_unrecorded(rig)
    rig.sink.unavailable = None
    assert unrecorded != "OK"
    entries = {(entry["request"], entry["row"]) for entry in said(rig) if entry["disposition"] == "accepted"}
    keys = {signer("plenty").public_key().public_bytes_raw().hex()[:16]}
    batch = learned(rig).items
    assert (
        {(each.request.hex(), each.row) for each in batch}
        == entries
        == {(answered.request_id, 0), (answered.request_id, 3)}
    )
    assert {each.key for each in batch} == keys
    assert ALLOWED == ("accepted", "released")


async def ask_unrecorded(rig):
    from tests.e2e.caller import infer_body
    from tests.gateway.request.labels.labelled import shown

    return (await rig.ask(infer_body(shown("b"), model=MODEL), caller="plenty")).reason

"""The watch in a gateway: what a search gets for an answer, what everybody else gets, and what is written down."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import grpc
import numpy as np
import pytest

import gateway.request.batch
from defenses.budget.policy import Action
from defenses.errors import EvidenceInvalid
from gateway.host.ticker import keep_accounts
from ops.audit.log import entry
from tests.e2e.caller import infer_body
from tests.gateway.rig import alone_only, ended, open_rig, until
from tests.serving.tiny import tiny_bundle
from tests.watching import around, images, watch_arrays

THINGS = images(1, 40)
SEARCH = around(THINGS[7], 2, 40)
STEPS = [
    {"alpha": 0.1, "answer": "neighbour"},
    {"alpha": 0.001, "answer": "top1"},
    {"alpha": 0.00001, "answer": "cool_down", "lasts": "10m"},
]


def watched():
    return replace(tiny_bundle(), name="watched", calibration=MappingProxyType(watch_arrays()))


@pytest.fixture
def opened(made_site, tmp_path):
    def opening(**watch: Any):
        def change(policy: dict[str, Any]) -> None:
            rules = {"mode": "enforce", "steps": STEPS, **watch}
            policy["models"]["watched"] = {"serve": "1", "watch": rules}
            policy["roles"]["predictor"][0]["models"].append("watched")

        return open_rig(made_site, tmp_path, policy=change, bundles=[watched()])

    return opening


async def ask(rig, rows, caller="plenty"):
    body = infer_body(np.asarray(rows, np.float32), model="watched")
    call = rig.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    return await ended(call(body, metadata=rig.site.bearer(caller)))


async def asked_until(rig, reason, caller="plenty"):
    """One question of a search after another, until it ends like this; returns all replies."""
    replies = []
    for row in SEARCH:
        replies.append(await ask(rig, row[None], caller))
        if replies[-1].reason == reason:
            return replies
    raise AssertionError(f"never {reason}")


def standing(rig, caller="plenty"):
    watching = rig.gw.served["watched", "1"].watching
    return watching.standings.of(caller, rig.gw.wall_ns())


async def test_different_questions_are_answered_and_their_records_say_what_was_looked_at(opened):
    async with opened() as rig:
        replies = [await ask(rig, THINGS[n : n + 1]) for n in range(20)]
        assert {reply.reason for reply in replies} == {"OK"}
        assert standing(rig) is Action.ALLOW
        (record,) = rig.sink.records(id=replies[-1].request_id)
        entry.check(rig.sink.entries[-1])
        assert record["decision"] == "allow"
        assert record["account"]["step"] == "allow"
        assert record["account"]["repeats"] == 0
        assert record["account"]["evidence_milli"] < 0
        screens = {each["name"]: each for each in record["screens"]}
        assert screens.keys() == {"similarity", "direction"}
        assert screens["similarity"]["technique"].startswith("AML.")


async def test_a_search_sees_a_constant_then_a_class_then_what_looks_like_a_rate_limit(opened):
    async with opened() as rig:
        ordinary = await ask(rig, THINGS[:1])
        replies = await asked_until(rig, "RATE_LIMITED")
        answered = [reply.output("probabilities") for reply in replies[:-1]]
        decisions = [rig.sink.records(id=reply.request_id)[0]["decision"] for reply in replies]
        assert decisions[0] == "allow"
        assert sorted(decisions, key=["allow", "neighbour", "top1", "refuse"].index) == decisions, "only ever further"
        assert {*decisions} == {"allow", "neighbour", "top1", "refuse"}
        first = answered[0]
        constant = [row for row, decision in zip(answered, decisions, strict=False) if decision == "neighbour"]
        assert all(np.array_equal(row, first) for row in constant), "the answer to the question they are close to"
        assert not np.array_equal(ordinary.output("probabilities"), first)
        (class_alone, *_) = [row for row, decision in zip(answered, decisions, strict=False) if decision == "top1"]
        assert sorted(class_alone[0].tolist()) == [0.0, 0.0, 1.0]
        refused = replies[-1]
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "cool" not in refused.details + str(refused.trailers), "nobody is told that it is not a rate limit"
        (record,) = rig.sink.records(id=refused.request_id)
        assert record["kind"] == "refused"


async def test_who_cools_down_costs_no_model_run_and_others_are_served(opened):
    async with opened() as rig:
        await asked_until(rig, "RATE_LIMITED")
        batches = rig.gw.served["watched", "1"].counters._totals.batches
        again = await ask(rig, THINGS[3:4])
        assert again.reason == "RATE_LIMITED"
        assert rig.gw.served["watched", "1"].counters._totals.batches == batches
        (record,) = rig.sink.records(id=again.request_id)
        assert record["limits"][-1]["rule"] == "cool-down"
        assert (await ask(rig, THINGS[3:4], "archivist")).reason == "OK"


async def test_in_shadow_all_is_recorded_and_nothing_is_done(opened):
    async with opened(mode="shadow", consistent="shadow") as rig:
        replies = [await ask(rig, row[None]) for row in SEARCH]
        assert {reply.reason for reply in replies} == {"OK"}
        answers = {reply.output("probabilities").tobytes() for reply in replies}
        assert len(answers) == len(SEARCH), "each its own"
        (record,) = rig.sink.records(id=replies[-1].request_id)
        assert record["decision"] == "allow"
        assert record["account"] == {**record["account"], "mode": "shadow", "repeats": 1, "step": "cool_down"}


async def test_consistent_answers_hold_from_the_first_question_within_an_account(opened):
    async with opened(consistent="enforce", steps=[]) as rig:
        first = await ask(rig, THINGS[7:8])
        replies = [await ask(rig, row[None]) for row in SEARCH[:5]]
        other = await ask(rig, SEARCH[0][None], "archivist")
        given = first.output("probabilities")
        assert all(np.array_equal(reply.output("probabilities"), given) for reply in replies)
        assert not np.array_equal(other.output("probabilities"), given), "never across tenants"
        assert not any(reply.output("logits").any() for reply in replies), "nothing of the new question"
        assert {rig.sink.records(id=reply.request_id)[0]["decision"] for reply in replies} == {"neighbour"}


async def test_a_class_of_callers_can_have_steps_of_its_own(opened):
    async with opened(classes={"interactive": []}) as rig:
        of_class = {name: rig.app.in_force[1].class_of(name) for name in ("plenty", "archivist")}
        spared = [name for name, its in of_class.items() if its == "interactive"]
        for name in of_class:
            for row in SEARCH:
                await ask(rig, row[None], name)
            assert (standing(rig, name) is Action.ALLOW) == (name in spared)
        assert spared


async def test_a_restart_clears_nobodys_history(opened):
    async with opened() as rig:
        await asked_until(rig, "RATE_LIMITED")
        await keep_accounts(rig.app)
        files = sorted(path.name for path in rig.app.accounts.directory.glob("*.accounts"))
        assert files == ["worker-0.watched.1.accounts"]
        served = rig.gw.served["watched", "1"]
        served.watching.standings.forgive("plenty")
        served.watching.watch.forgive("plenty")
        assert standing(rig) is Action.ALLOW
        rig.app.accounts.load(served)
        assert standing(rig) is Action.COOL_DOWN
        view = next(one for one in served.watching.watch.accounts() if one.principal == "plenty")
        assert view.queries > 0


@pytest.mark.parametrize("harm", ["cut", "other"])
async def test_a_file_of_accounts_that_cannot_be_used_is_said_so_and_left_alone(opened, harm):
    async with opened() as rig:
        await ask(rig, THINGS[:1])
        await keep_accounts(rig.app)
        (file,) = rig.app.accounts.directory.glob("*.accounts")
        data = file.read_bytes()
        digest = watched().digest.encode()
        file.write_bytes(data[:-3] if harm == "cut" else data.replace(digest, b"0" * len(digest)))
        served = rig.gw.served["watched", "1"]
        rig.app.accounts.load(served)
        assert "accounts-not-restored" in rig.stderr.getvalue()
        assert next(iter(served.watching.watch.accounts())).queries == 1


async def test_a_batch_that_fails_behind_the_watch_and_is_judged_again_is_looked_at_once(opened, monkeypatch):
    monkeypatch.setattr(gateway.request.batch, "encoded", alone_only(gateway.request.batch.encoded))
    async with opened(consistent="enforce", steps=[]) as rig:
        served = rig.gw.served["watched", "1"]
        call = rig.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        bodies = [
            infer_body(np.concatenate([thing[None], around(thing, 3, 2)]), model="watched") for thing in THINGS[:5]
        ]
        served.engine.go.clear()
        calls = [call(bodies[0], metadata=rig.site.bearer("plenty"))]
        await until(lambda: served.engine.entered.acquire(blocking=False))
        calls += [call(body, metadata=rig.site.bearer("plenty")) for body in bodies[1:]]
        await until(lambda: rig.at_work == 5)
        served.engine.go.set()
        assert {(await ended(each)).reason for each in calls} == {"OK"}
        assert served.engine.batches[1:] == [12], "they were a batch"
        accounts = [record["account"] for record in rig.sink.records(kind="served")]
        assert [account["repeats"] for account in accounts] == [2] * 5, "the first row of each is new"
        (account,) = served.watching.watch.accounts()
        assert (account.queries, account.repeats) == (15, 10)


async def test_a_watch_that_fails_answers_nothing(opened, monkeypatch):
    async with opened() as rig:
        watch = rig.gw.served["watched", "1"].watching.watch

        def fail(*_):
            raise EvidenceInvalid("image", "of another size")

        monkeypatch.setattr(type(watch), "observe", fail)
        assert (await ask(rig, THINGS[:1])).reason == "SCREEN_UNAVAILABLE"

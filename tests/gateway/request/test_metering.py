"""The query budget in a gateway: what callers see as it runs out, what is recorded, and whom it concerns."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

import gateway.request.batch
from defenses.budget.policy import Mode
from defenses.extraction.budget import DAY_NS, Account, Budget, BudgetStep
from defenses.extraction.ledger import Ledger
from defenses.extraction.proof_of_work import Difficulty, Toll, solve
from gateway import errors
from gateway.config.document import PolicyRejected
from gateway.models.compile import rules_of
from gateway.models.metering import BudgetRules, Metering
from gateway.policy.policy import ModelPolicy
from ops.audit.log import entry
from tests.e2e.caller import infer_body
from tests.gateway.rig import alone_only, ended, image, open_rig, until
from tests.serving.tiny import CLASSES, tiny_bundle

NOW_NS = 10**18
PEPPER = bytes(32)
PRICES = {
    "budget.margins": np.linspace(0.0, 1.0, 300),
    "budget.owners": np.arange(300) % CLASSES,
    "budget.scale": np.full(CLASSES, 0.5),
    "budget.rates": np.array([10, 1_000]),
    "budget.units": np.array([20.0, 2_000.0]),
}
BUDGET: dict[str, Any] = {"mode": "enforce", "queries_per_day": 10, "proof": {"bits": 8, "bits_max": 8}}
SURE = np.array([0.97, 0.02, 0.01], np.float32)


def priced():
    return replace(tiny_bundle(), name="priced", calibration=MappingProxyType(PRICES))


def with_budget(**changes: Any):
    def change(policy: dict[str, Any]) -> None:
        policy["models"]["priced"] = {"serve": "1", "budget": {**BUDGET, **changes}}
        policy["roles"]["predictor"][0]["models"].append("priced")

    return change


@pytest.fixture
def opened(made_site, tmp_path):
    def opening(**changes: Any):
        return open_rig(made_site, tmp_path, policy=with_budget(**changes), bundles=[priced()])

    return opening


def body(rows: int = 1) -> bytes:
    return infer_body(image(0.5, rows), model="priced")


async def ask(rig, rows=1, *, proof=None, caller="plenty"):
    engine = rig.gw.served["priced", "1"].engine
    engine.answer = lambda outputs: {**outputs, "probabilities": np.tile(SURE, (len(outputs["energy"]), 1))}
    metadata = rig.site.bearer(caller)
    metadata = metadata if proof is None else (*metadata, ("x-stockade-proof", proof))
    return await ended(
        rig.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(body(rows), metadata=metadata)
    )


async def spend_until(rig, reason, rows=5):
    for _ in range(40):
        reply = await ask(rig, rows)
        if reply.reason == reason:
            return reply
    raise AssertionError(reason)


async def test_full_answers_then_the_class_alone_then_work_then_nothing(opened):
    async with opened() as rig:
        told = [await ask(rig)]
        while told[-1].reason == "OK":
            told.append(await ask(rig, 2))
        wanted = told.pop()
        assert np.array_equal(told[0].output("probabilities"), SURE[None])
        assert np.array_equal(told[-1].output("probabilities"), [[1.0, 0.0, 0.0]] * 2)
        assert not told[-1].output("logits").any(), "nothing beside the class"
        assert wanted.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert wanted.reason == "PROOF_OF_WORK_WANTED"
        assert wanted.trailers["grpc-retry-pushback-ms"] == "-1", "nobody sends it again without a proof"
        worked = []
        while wanted.reason == "PROOF_OF_WORK_WANTED":
            worked.append(await ask(rig, proof=solve(wanted.trailers["x-stockade-challenge"])))
            wanted = await ask(rig)
        assert (wanted.code, wanted.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
        assert int(wanted.trailers["grpc-retry-pushback-ms"]) > 0
        assert {reply.reason for reply in worked[:-1]} == {"OK"}
        assert np.array_equal(worked[0].output("probabilities"), [[1.0, 0.0, 0.0]])
        decisions = [record["decision"] for record in rig.sink.records(kind="served")]
        assert decisions == sorted(decisions), "allow, then top1"
        assert set(decisions) == {"allow", "top1"}


async def test_a_proof_is_taken_once_and_from_whom_it_was_asked(opened):
    async with opened() as rig:
        wanted = await spend_until(rig, "PROOF_OF_WORK_WANTED")
        proof = solve(wanted.trailers["x-stockade-challenge"])
        # `wanted` asked for five rows: more work than one row needs.
        assert (await ask(rig, proof=proof)).reason == "OK"
        again = await ask(rig, proof=proof)
        assert again.reason == "PROOF_OF_WORK_WANTED"
        assert again.trailers["x-stockade-challenge"] not in proof, "a new challenge each time"
        for nonsense in ("", "x", proof + "0", proof.replace("1.", "2.", 1)):
            assert (await ask(rig, proof=nonsense)).reason == "PROOF_OF_WORK_WANTED"


async def test_others_have_their_own(opened):
    async with opened() as rig:
        await spend_until(rig, "PROOF_OF_WORK_WANTED")
        assert np.array_equal((await ask(rig, caller="token-user")).output("probabilities"), SURE[None])


async def test_a_request_that_runs_into_the_end_is_refused_as_a_whole(opened):
    async with opened() as rig:
        reply = await ask(rig, 200)
        assert reply.reason == "QUOTA_EXCEEDED"
        assert (await ask(rig)).reason == "QUOTA_EXCEEDED", "and it was charged"


async def test_in_shadow_it_is_all_recorded_and_nothing_is_done(opened):
    async with opened(mode="shadow") as rig:
        for _ in range(10):
            reply = await ask(rig, 15)
            assert np.array_equal(reply.output("probabilities"), np.tile(SURE, (15, 1)))
        steps = [record["budget"]["step"] for record in rig.sink.records(kind="served")]
        assert steps[0] == "full"
        assert steps[-1] == "refuse"


async def test_the_record_says_what_it_cost(opened):
    async with opened() as rig:
        await ask(rig, 3)
        (record,) = rig.sink.records(kind="served")
        assert record["budget"] | {"cost_milli": 0, "debt_millidays": 0} == {
            "cost_milli": 0,
            "debt_millidays": 0,
            "mode": "enforce",
            "step": "full",
        }
        cost = record["budget"]["cost_milli"]
        assert cost > 0
        assert record["budget"]["debt_millidays"] == pytest.approx(cost / 20, abs=1)
        for raw in rig.sink.entries:
            entry.parse(raw)


async def test_what_answers_cost_is_counted_where_an_answer_is_kept_too(made_site, tmp_path):
    def cached(config):
        config["cache"] = {}

    async with open_rig(made_site, tmp_path, config=cached, policy=with_budget(), bundles=[priced()]) as rig:
        await ask(rig)
        await ask(rig)
        assert ["cached" in record for record in rig.sink.records(kind="served")] == [False, False]
        assert len({record["budget"]["debt_millidays"] for record in rig.sink.records(kind="served")}) == 2


async def test_a_batch_that_fails_behind_the_budget_and_is_judged_again_is_charged_once(opened, monkeypatch):
    monkeypatch.setattr(gateway.request.batch, "encoded", alone_only(gateway.request.batch.encoded))
    async with opened(mode="shadow") as rig:
        engine = rig.gw.served["priced", "1"].engine
        engine.answer = lambda outputs: {**outputs, "probabilities": np.tile(SURE, (len(outputs["energy"]), 1))}
        call = rig.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        engine.go.clear()
        calls = [call(body(), metadata=rig.site.bearer("plenty"))]
        await until(lambda: engine.entered.acquire(blocking=False))
        calls += [call(body(), metadata=rig.site.bearer("plenty")) for _ in range(4)]
        await until(lambda: rig.at_work == 5)
        engine.go.set()
        assert {(await ended(each)).reason for each in calls} == {"OK"}
        assert engine.batches[1:] == [4], "they were a batch"
        debts = [record["budget"]["debt_millidays"] for record in rig.sink.records(kind="served")]
        cost = rig.sink.records(kind="served")[0]["budget"]["cost_milli"]
        assert max(debts) == pytest.approx(5 * cost / 20, abs=1)


async def test_in_a_stream_a_message_is_refused_and_the_stream_goes_on(opened):
    async with opened() as rig:
        await spend_until(rig, "PROOF_OF_WORK_WANTED")
        bodies = [body(), body()]
        replies = [reply async for reply in rig.stream(bodies)]
        assert len(replies) == 2
        assert all(b"PROOF_OF_WORK_WANTED" in reply for reply in replies)


# ----------------------------------------------------------------------------------------------------- without a socket


def caller(name="ann", priority_class="realtime", proof=""):
    who = SimpleNamespace(name=name, priority_class=priority_class)
    return SimpleNamespace(caller=lambda: who, proof=proof, limited=lambda decision: None)


def metering(**more):
    return Metering(None, Toll(bytes(32)), more.pop("account_of", str), bytes, **more)


def test_who_the_watch_suspects_has_to_work_whatever_he_owes():
    counting = metering()
    with pytest.raises(errors.ProofOfWorkWanted) as wanted:
        counting.require_means(caller(), None, 1, NOW_NS, suspected=True)
    proof = solve(wanted.value.challenge)
    counting.require_means(caller(proof=proof), None, 1, NOW_NS, suspected=True)
    counting.require_means(caller(), None, 1, NOW_NS, suspected=False)
    with pytest.raises(errors.ProofOfWorkWanted):
        counting.require_means(caller(proof=proof), None, 1, NOW_NS, suspected=True)


def test_accounts_that_are_one_owe_together_and_a_class_without_a_budget_nothing():
    ledger = Ledger()
    ledger._held["group"] = Account(NOW_NS + 2 * DAY_NS)
    rules = BudgetRules(Mode.ENFORCE, Budget(10.0), {"batch": None}, Difficulty())
    counting = metering(account_of=lambda name: "group", ledger=ledger)
    with pytest.raises(errors.QuotaExceeded) as spent:
        counting.require_means(caller(), rules, 1, NOW_NS, suspected=False)
    assert spent.value.retry_after_ms == pytest.approx(DAY_NS / 2 / 1e6, abs=2)
    counting.require_means(caller(priority_class="batch"), rules, 1, NOW_NS, suspected=False)
    counting.require_means(caller(), replace(rules, mode=Mode.SHADOW), 1, NOW_NS, suspected=False)


def test_what_one_owed_before_he_was_found_to_be_of_a_group_the_group_owes():
    account_of = {}
    prices = SimpleNamespace(cost=lambda prediction, p_values, novelty: np.full(len(prediction), 1_000))
    counting = replace(metering(account_of=lambda name: account_of.get(name, name)), prices=prices)
    rules = BudgetRules(Mode.ENFORCE, Budget(10.0), {}, Difficulty())

    def charged(name):
        item = SimpleNamespace(caller=caller(name).caller, charge=None)
        counting.charge(
            [item], rules, np.ones((4, 2)), np.ones(4), repeated=[], starts=np.zeros(1, np.intp), now_ns=NOW_NS
        )
        return item.charge.debt_days

    assert [charged(name) for name in ("ann", "bob")] == pytest.approx([0.4, 0.4])
    account_of["bob"] = "ann"
    assert charged("bob") == pytest.approx(1.2 - 0.1)  # two answers in full, and two of the class alone


def test_rows_ask_for_as_much_work_as_requests_of_one():
    ledger = Ledger()
    ledger._held["ann"] = Account(NOW_NS + int(1.3 * DAY_NS))
    rules = BudgetRules(Mode.ENFORCE, Budget(10.0), {}, Difficulty(bits=9, bits_max=9))
    counting = metering(ledger=ledger)
    bits = []
    for rows in (1, 2, 64):
        with pytest.raises(errors.ProofOfWorkWanted) as wanted:
            counting.require_means(caller(), rules, rows, NOW_NS, suspected=False)
        bits.append(int(wanted.value.challenge.split(".")[2]))
    assert bits == [9, 10, 15]
    assert Budget(10.0).step(ledger.of("ann"), NOW_NS) == BudgetStep.PROOF_OF_WORK


# -------------------------------------------------------------------------------------------------------------- policy


def served(bundle):
    return SimpleNamespace(bundle=bundle, watching=None)


@pytest.mark.parametrize(
    ("bundle", "budget", "said"),
    [
        (tiny_bundle, {}, "no calibration of a budget"),
        (priced, {"queries_per_day": 1_001}, "calibrated from 1 to 1000"),
        (priced, {"queries_per_day": 10, "classes": {"batch": 5_000}}, "calibrated from 1 to 1000"),
    ],
)
def test_a_budget_that_the_bundle_cannot_keep_is_refused(bundle, budget, said):
    model = ModelPolicy.model_validate({"serve": "1", "budget": budget})
    with pytest.raises(PolicyRejected, match=said):
        rules_of(model, served(bundle()), PEPPER)


def test_the_policy_becomes_rules():
    model = ModelPolicy.model_validate(
        {
            "serve": "1",
            "budget": {"mode": "enforce", "queries_per_day": 11, "classes": {"batch": None}, "refuse_after_days": 3},
        }
    )
    rules = rules_of(model, served(priced()), PEPPER).budget
    assert rules is not None
    assert (rules.mode, rules.budget, dict(rules.by_class)) == (
        Mode.ENFORCE,
        Budget(2_000.0, refuse_after=3.0),
        {"batch": None},
    )

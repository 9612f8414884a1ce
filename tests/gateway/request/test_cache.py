"""The response cache: what it may give again and to whom, its bounds; an answer from it is one like any other."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import fields, replace
from itertools import count

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.budget.policy import Mode
from gateway.codec import InferRequest
from gateway.host.app import Staged
from gateway.models.model_set import ModelSet
from gateway.models.rules import Mirror
from gateway.models.split import Split
from gateway.policy.load import load_policy
from gateway.request.cache import OVERHEAD_BYTES, AnswerCache, Kept, cacheable, framed, key_of
from serving.bundles.manifest import TensorSpec
from stockade.open_inference.grpc_service_pb2 import ModelInferRequest, ModelStreamInferResponse
from tests.e2e.caller import infer_request
from tests.gateway.request.test_judgement import rules as judged_rules
from tests.gateway.rig import Rig, ended, image, open_rig, poisoned, tiny_body, until
from tests.serving.tiny import tiny_bundle

TTL_NS = 1_000
KEYED = {"model_name", "model_version", "inputs", "rows", "raw", "requested_outputs", "classification"}
NOT_KEYED = {"id", "priority", "timeout_us"}  # set into each answer anew; a claim for the record; a deadline


def cached(config) -> None:
    config["cache"] = {}


def kept(tenant: str, number: int = 0, size: int = 0) -> Kept:
    return Kept(b"", bytes(size), None, f"{number:032x}", tenant)


# The memory: bounded, and nobody's but the tenant's own.


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("keep"), st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 300)),
            st.tuples(st.just("find"), st.sampled_from("abc"), st.integers(0, 5), st.just(0)),
            st.tuples(st.just("later"), st.just(""), st.integers(1, TTL_NS), st.just(0)),
            st.tuples(st.just("clear"), st.just(""), st.just(0), st.just(0)),
        ),
        max_size=60,
    )
)
def test_what_is_found_is_what_this_tenant_kept_last_and_the_bounds_hold(steps):
    cache = AnswerCache(entries_max=10, bytes_max=8 * (OVERHEAD_BYTES + 200), ttl_ns=TTL_NS)
    truth: dict[tuple[str, bytes], tuple[int, Kept]] = {}
    now_ns = 0
    for number, (step, tenant, what, size) in enumerate(steps):
        key = what.to_bytes(4, "big")
        if step == "keep":
            answer = kept(tenant, number, size)
            cache.keep(key, answer, now_ns)
            if answer.nbytes <= OVERHEAD_BYTES + 200:
                truth[tenant, key] = now_ns + TTL_NS, answer
                assert cache.find(key, tenant, "m", now_ns) is answer, "the newest is never what gives way"
        elif step == "find":
            found = cache.find(key, tenant, "m", now_ns)
            expires_ns, answer = truth.get((tenant, key), (0, None))
            assert found is None or (found is answer and now_ns < expires_ns)
        elif step == "later":
            now_ns += what
        else:
            cache.clear()
            truth.clear()
        assert cache.entries <= 10
        assert cache.bytes <= 8 * (OVERHEAD_BYTES + 200)
        held = [each for share in cache._shares.values() for _, each in share.entries.values()]
        assert (cache.entries, cache.bytes) == (len(held), sum(each.nbytes for each in held))


def test_the_least_recently_used_gives_way():
    cache = AnswerCache(entries_max=2, bytes_max=1 << 20, ttl_ns=TTL_NS)
    cache.keep(b"1", kept("a"), 0)
    cache.keep(b"2", kept("a"), 0)
    assert cache.find(b"1", "a", "m", 1) is not None
    cache.keep(b"3", kept("a"), 1)
    assert [cache.find(key, "a", "m", 1) is not None for key in (b"1", b"2", b"3")] == [True, False, True]


def test_who_repeats_most_cannot_push_others_out():
    cache = AnswerCache(entries_max=10, bytes_max=1 << 20, ttl_ns=TTL_NS)
    for number in range(3):
        cache.keep(bytes([number]), kept("quiet"), 0)
    for number in range(100):
        cache.keep(bytes([number]), kept("loud"), 0)
    assert [cache.find(bytes([number]), "quiet", "m", 0) is not None for number in range(3)] == [True] * 3
    cache.keep(b"9", kept("new"), 0)
    assert cache.find(b"9", "new", "m", 0) is not None
    assert len(cache._shares["loud"].entries) == 6


def test_whoever_comes_last_finds_room():
    cache = AnswerCache(entries_max=3, bytes_max=1 << 20, ttl_ns=TTL_NS)
    for tenant in ("a", "b", "c", "late"):
        cache.keep(b"1", kept(tenant), 0)
        assert cache.find(b"1", tenant, "m", 0) is not None
    assert (cache.entries, len(cache._shares)) == (3, 3)


@pytest.mark.parametrize(("now_ns", "there"), [(TTL_NS - 1, True), (TTL_NS, False)])
def test_an_answer_grows_old(now_ns, there):
    cache = AnswerCache(entries_max=2, bytes_max=1 << 20, ttl_ns=TTL_NS)
    cache.keep(b"1", kept("a"), 0)
    assert (cache.find(b"1", "a", "m", now_ns) is not None) is there
    assert cache.entries == there
    assert len(cache._shares) == there, "tenants who hold nothing take no room"


@pytest.mark.parametrize(("over", "there"), [(0, True), (1, False)])
def test_one_that_would_take_more_than_an_eighth_is_not_kept(over, there):
    cache = AnswerCache(entries_max=2, bytes_max=8 * 1000, ttl_ns=TTL_NS)
    cache.keep(b"1", kept("a", size=1000 - OVERHEAD_BYTES + over), 0)
    assert (cache.find(b"1", "a", "m", 0) is not None) is there


def test_the_bound_in_bytes_is_reached_and_not_passed():
    cache = AnswerCache(entries_max=100, bytes_max=8 * 1000, ttl_ns=TTL_NS)
    for number in range(8):
        cache.keep(bytes([number]), kept("a", size=1000 - OVERHEAD_BYTES), 0)
    assert (cache.entries, cache.bytes) == (8, 8000)
    cache.keep(b"one more", kept("a"), 0)
    assert (cache.entries, cache.bytes) == (8, 7000 + OVERHEAD_BYTES)
    assert cache.find(bytes([0]), "a", "m", 0) is None


def test_lookups_are_counted_once():
    cache = AnswerCache(entries_max=2, bytes_max=1 << 20, ttl_ns=TTL_NS)
    cache.find(b"1", "a", "m", 0)
    cache.keep(b"1", kept("a"), 0)
    cache.find(b"1", "a", "m", 0)
    cache.find(b"1", "b", "m", 0)
    assert cache.observed().lookups == {("m", "hit"): 1, ("m", "miss"): 2}
    assert cache.observed() == ({}, 1, OVERHEAD_BYTES)


# The key.

names = st.sampled_from(["a", "b", "ab", "", "a\x00b"])
arrays = st.one_of(
    st.lists(st.sampled_from([0.0, -0.0, 1.0, 0.5]), min_size=1, max_size=4).map(lambda rows: np.array(rows, "<f4")),
    st.lists(st.sampled_from([0, 1]), min_size=1, max_size=4).map(lambda rows: np.array(rows, "<i4")),
    st.lists(st.sampled_from([0, 1]), min_size=1, max_size=4).map(lambda rows: np.array(rows, "<i4").reshape(-1, 1)),
    st.lists(st.sampled_from([b"", b"a", b"\x00", b"ab"]), min_size=1, max_size=3).map(
        lambda rows: np.array([*rows, None], object)[:-1]
    ),
)
questions = st.fixed_dictionaries(
    {
        "digest": st.sampled_from(["d" * 64, "e" * 64]),
        "name": names,
        "version": names,
        "policy": names,
        "tenant": names,
        "raw": st.booleans(),
        "outputs": st.none() | st.lists(st.sampled_from(["p", "q", "pq"]), unique=True).map(tuple),
        "classes": st.dictionaries(st.sampled_from(["p", "q"]), st.integers(1, 12), max_size=2),
        "inputs": st.dictionaries(st.sampled_from(["x", "y"]), arrays, min_size=1, max_size=2),
    }
)
BUNDLE = tiny_bundle()
SPECS = tuple(TensorSpec(name, "FP32", (-1, 2)) for name in ("p", "q", "pq"))


def key(question) -> bytes:
    bundle = replace(BUNDLE, **{name: question[name] for name in ("digest", "name", "version")})
    rules = replace(judged_rules(), outputs=SPECS, served=type("Served", (), {"bundle": bundle})())
    rows, inputs = 1, question["inputs"]
    request = InferRequest(
        "", "", "id", inputs, rows, question["raw"], question["outputs"], question["classes"], 0, None
    )
    return key_of(request, rules, question["tenant"], question["policy"])


def facts(question) -> tuple:
    """Everything that may make a difference to an answer, compared as Python compares it."""
    outputs = ("p", "q", "pq") if question["outputs"] is None else question["outputs"]
    asked = tuple((name, question["classes"].get(name, 0)) for name in outputs)
    inputs = {
        name: (array.dtype.str, array.shape, array.tolist() if array.dtype.hasobject else array.tobytes())
        for name, array in question["inputs"].items()
    }
    return *(question[name] for name in ("digest", "name", "version", "policy", "tenant", "raw")), asked, inputs


@settings(max_examples=150)
@given(one=questions, other=questions, same=st.sets(st.sampled_from(["digest", "name", "version", "policy", "tenant"])))
def test_two_questions_have_one_key_exactly_when_nothing_about_them_differs(one, other, same):
    mixed = {**one, **{name: other[name] for name in other if name not in same}}
    for question in (other, mixed, {**one, "tenant": other["tenant"]}, {**one, "outputs": other["outputs"]}):
        assert (key(one) == key(question)) == (facts(one) == facts(question))


ONE = dict.fromkeys(("digest", "name", "version", "policy", "tenant"), "one")
ONE |= {"raw": True, "outputs": ("p",), "classes": {}, "inputs": {"x": np.zeros((2, 2), "<f4")}}
CHANGES = [
    *({name: "other"} for name in ("digest", "name", "version", "policy", "tenant")),
    {"raw": False},
    {"outputs": None},
    {"outputs": ("p", "q")},
    {"classes": {"p": 1}},
    {"inputs": {"y": ONE["inputs"]["x"]}},
    {"inputs": {"x": np.zeros((2, 2), "<i4")}},
    {"inputs": {"x": np.zeros((1, 4), "<f4")}},
    {"inputs": {"x": -np.zeros((2, 2), "<f4")}},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_each_part_alone_makes_another_key(change):
    assert key(ONE) == key({**ONE, "inputs": {"x": ONE["inputs"]["x"].copy()}})
    assert key(ONE) != key({**ONE, **change})


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_parts_behind_their_lengths_are_one_way_to_be_read(one, other):
    assert (framed(*one) == framed(*other)) == (one == other)


def test_every_field_of_a_request_is_in_the_key_or_known_to_make_no_difference():
    """A new field fails here until somebody has decided."""
    assert {field.name for field in fields(InferRequest)} == KEYED | NOT_KEYED


# What may be given again.


def test_a_model_whose_screens_remember_callers_is_not_cached(made_active):
    rules = made_active.models["tiny", "1"]
    assert cacheable(rules, made_active)
    remembering = judged_rules().screens
    assert not cacheable(replace(rules, screens=remembering), made_active)
    assert cacheable(replace(rules, screens={"evidence": remembering["energy"]}), made_active)


def test_versions_that_are_compared_see_every_request(made_active):
    rules = made_active.models["tiny", "1"]
    assert not cacheable(replace(rules, mirror=Mirror(rules, 1.0, "probabilities")), made_active)
    split = Split("tiny", {"1": 1.0})
    assert not cacheable(rules, replace(made_active, splits={"tiny": split}))


@pytest.fixture
async def made_active(rig):
    return rig.gw.active


# An answer from the cache, over the wire.


@pytest.fixture
async def caching(made_site, tmp_path):
    async with open_rig(made_site, tmp_path, config=cached) as opened:
        opened.engine.batches.clear()
        yield opened


def typed(value: float, **fields) -> bytes:
    request = infer_request(image(value), model="tiny", **fields)
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend(image(value).ravel().tolist())
    return request.SerializeToString()


def asking(*outputs: str, classes: int = 0, **fields) -> bytes:
    request = infer_request(image(0.25), model="tiny", **fields)
    for name in outputs:
        output = request.outputs.add(name=name)
        if classes:
            output.parameters["classification"].int64_param = classes
    return request.SerializeToString()


FORMS = {
    "raw": lambda name: tiny_body(image(0.25), id=name),
    "typed": lambda name: typed(0.25, id=name),
    "one output": lambda name: asking("energy", id=name),
    "classes": lambda name: asking("probabilities", classes=2, id=name),
    "three rows": lambda name: tiny_body(image(0.25, 3), id=name),
}


@pytest.mark.parametrize("form", FORMS)
async def test_an_answer_from_the_cache_is_the_fresh_one_with_an_id_and_a_record_of_its_own(caching, form):
    fresh = await caching.ask(FORMS[form]("the first"))
    again = await caching.ask(FORMS[form]("2nd"))
    nameless = await caching.ask(FORMS[form](""))
    assert len(caching.engine.batches) == 1
    for reply, name in ((again, "2nd"), (nameless, "")):
        expected = fresh.message
        expected.id = name
        assert reply.body == expected.SerializeToString(deterministic=True)
    first, second, third = caching.sink.records(kind="served")
    assert "cached" not in first
    assert [second["cached"], third["cached"]] == [first["id"]] * 2
    assert [each["id"] for each in (first, second, third)] == [reply.request_id for reply in (fresh, again, nameless)]
    for name in ("auth", "decision", "model", "policy", "rows", "reason", "status"):
        assert first[name] == second[name]
    spent, spent_again = ([each | {"clock_ns": ""} for each in one["limits"]] for one in (first, second))
    assert spent == spent_again
    assert "batch" not in second
    assert again.trailers["x-stockade-audit-index"] == "1"
    assert again.trailers.keys() == fresh.trailers.keys()


async def test_different_forms_of_one_input_are_different_answers(caching):
    replies = [await caching.ask(form("same")) for form in FORMS.values()]
    assert len(caching.engine.batches) == len(FORMS)
    assert len({reply.body for reply in replies}) == len(FORMS)


async def test_one_input_in_two_encodings_is_one_only_where_the_answer_has_one_form(caching):
    """The bytes that went over the wire do not count, the numbers do: here with `contents` that has zeros in it."""
    await caching.ask(typed(0.25))
    request = ModelInferRequest.FromString(typed(0.25))
    request.parameters["priority"].int64_param = 3
    await caching.ask(request.SerializeToString())
    assert len(caching.engine.batches) == 1


@pytest.mark.parametrize("seed", range(2))
async def test_no_answer_crosses_tenants_versions_outputs_or_policies(made_site, tmp_path, seed):
    """Whoever an answer was made for had the same tenant, model, version and policy, and asked for the same."""
    rng = random.Random(seed)
    second = replace(tiny_bundle(), version="2", digest="2" * 64)
    asked_for: dict[str, tuple] = {}
    async with open_rig(made_site, tmp_path, config=cached, bundles=[second]) as rig:
        for _ in range(300):
            if rng.random() < 0.01:
                rig.site.change_policy(lambda _: None)
                policy = load_policy(rig.site.policy, rig.app.config.policy.public_key)
                rig.app.put_in_force(rig.app.compile(policy), policy)
            value, version = rng.choice([0.25, 0.5]), rng.choice(["1", "2"])
            output = rng.choice([None, "energy", "probabilities"])
            request = infer_request(image(value), model="tiny", version=version)
            if output:
                request.outputs.add(name=output)
            caller = rng.choice(["plenty", "kiosk-7", "rival", "archivist"])
            reply = await rig.ask(request.SerializeToString(), caller=caller)
            assert reply.message.model_version == version
            assert reply.output(output or "energy").ravel()[0] == pytest.approx(value)
            asked_for[reply.request_id] = (value, output)
        entries = {entry["id"]: entry for entry in rig.sink.records(kind="served")}
    made: set[tuple] = set()
    for request_id, asked in asked_for.items():
        entry = entries[request_id]
        what = (*asked, entry["auth"]["tenant"], entry["model"]["version"], entry["policy"])
        source = entry.get("cached")
        assert (source is not None) == (what in made), "an answer is made once, and then given again"
        if source is not None:
            origin = entries[source]
            assert (*asked_for[source], origin["auth"]["tenant"], origin["model"]["version"], origin["policy"]) == what
        made.add(what)
    assert 3 * len(made) < 2 * len(asked_for), "too few repetitions to show anything"


async def test_within_a_tenant_nobody_gets_an_output_of_another_ones_right(made_site, tmp_path):
    def reserve(policy) -> None:
        policy["models"]["tiny"]["reserved"] = {"latent": ["rival"]}
        policy["principals"]["rival"]["tenant"] = "plenty"

    async with open_rig(made_site, tmp_path, config=cached, policy=reserve) as rig:
        for caller, has in (("rival", True), ("plenty", False), ("rival", True), ("plenty", False)):
            reply = await rig.ask(tiny_body(image(0.5)), caller=caller)
            assert ("latent" in [output.name for output in reply.message.outputs]) is has
        assert ["cached" in entry for entry in rig.sink.records(kind="served")] == [False, False, True, True]


async def test_a_record_that_cannot_be_written_means_no_answer_from_the_cache_either(caching):
    body = tiny_body(image(0.5))
    caching.sink.unavailable = "recorder_gone"
    assert (await caching.ask(body)).reason == "AUDIT_UNAVAILABLE"
    caching.sink.unavailable = None
    assert (await caching.ask(body)).reason == "OK"
    assert len(caching.engine.batches) == 2, "what has no record is not kept"
    caching.sink.unavailable = "recorder_gone"
    refused = await caching.ask(body)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")
    assert len(caching.engine.batches) == 2


async def test_the_reply_waits_for_its_record(caching):
    body = tiny_body(image(0.5))
    await caching.ask(body)
    caching.sink.holding = True
    call = caching.infer(body)
    await until(lambda: caching.sink.held == 1)
    assert not call.done()
    caching.sink.release()
    assert (await ended(call)).reason == "OK"


async def test_a_caller_who_hangs_up_is_recorded(caching):
    body = tiny_body(image(0.5))
    await caching.ask(body)
    caching.sink.holding = True
    call = caching.infer(body)
    await until(lambda: caching.sink.held == 1)
    call.cancel()
    await until(lambda: caching.at_work == 1)
    caching.sink.release()
    await until(lambda: caching.at_work == 0)
    assert len(caching.sink.records()) == 2


async def test_what_failed_is_not_kept(caching):
    for _ in range(2):
        assert (await caching.ask(tiny_body(poisoned()))).reason == "MODEL_ERROR"
    assert (len(caching.engine.batches), caching.gw.cache.entries) == (2, 0)


@pytest.mark.parametrize(
    ("name", "rate", "decision", "entries"),
    [("evidence", 0.0, "allow", 1), ("evidence", 1.0, "flag", 0), ("one that remembers", 0.0, "allow", 0)],
)
async def test_only_what_was_allowed_is_kept_with_what_its_screens_said(caching, name, rate, decision, entries):
    active, shown = caching.gw.active, judged_rules(Mode.ENFORCE)
    (rule,) = shown.screen_rules.values()
    (screen,) = shown.screens.values()
    rules = replace(
        active.models["tiny", "1"],
        screens={name: screen},
        screen_rules={name: replace(rule, flag_alpha=rate, refuse_alpha=0.0)},
    )
    caching.gw.active = replace(active, models={("tiny", "1"): rules})
    for _ in range(2):
        assert (await caching.ask(tiny_body(image(0.5)))).reason == "OK"
    first, second = caching.sink.records()
    assert (first["decision"], second["decision"]) == (decision, decision)
    assert first["screens"] == second["screens"]
    assert (caching.gw.cache.entries, len(caching.engine.batches)) == (entries, 2 - entries)
    assert ("cached" in second) == bool(entries)


async def test_a_new_policy_and_a_version_out_of_service_clear_it(caching):
    body = tiny_body(image(0.5))
    await caching.ask(body)
    assert caching.gw.cache.entries == 1
    active, policy = caching.app.in_force
    caching.app.put_in_force(active, policy)
    assert caching.gw.cache.entries == 0
    await caching.ask(body)
    assert (caching.gw.cache.entries, len(caching.engine.batches)) == (1, 2)
    caching.app.take_over(Staged(active, policy, ModelSet(), caching.gw.served, ()))
    assert caching.gw.cache.entries == 0


async def test_what_was_under_way_when_the_policy_changed_is_not_kept(caching):
    caching.engine.go.clear()
    call = caching.infer(tiny_body(image(0.5)))
    await asyncio.to_thread(caching.engine.entered.acquire)
    caching.site.change_policy(lambda _: None)
    policy = load_policy(caching.site.policy, caching.app.config.policy.public_key)
    caching.app.put_in_force(caching.app.compile(policy), policy)
    caching.engine.go.set()
    assert (await ended(call)).reason == "OK"
    assert caching.gw.cache.entries == 0


async def test_what_was_under_way_when_its_version_went_is_not_kept(caching):
    caching.engine.go.clear()
    call = caching.infer(tiny_body(image(0.5)))
    await asyncio.to_thread(caching.engine.entered.acquire)
    served = caching.gw.served
    caching.gw.served = {}
    next(iter(served.values())).engine.go.set()
    assert (await ended(call)).reason == "OK"
    caching.gw.served = served
    assert caching.gw.cache.entries == 0


async def test_it_costs_what_any_answer_costs(made_site, tmp_path):
    def daily(policy) -> None:
        policy["models"]["tiny"]["cost_per_row"] = 3
        policy["limits"]["unlimited"]["queries_per_day"] = 48

    async with open_rig(made_site, tmp_path, config=cached, policy=daily) as rig:
        for _ in range(2):
            assert (await rig.ask(tiny_body(image(0.5, 24)))).reason == "OK"
        assert (await rig.ask(tiny_body(image(0.5, 24)))).reason == "QUOTA_EXCEEDED"
        assert rig.counted("stockade_cost_units_total", model="tiny") == 2 * 24 * 3
        assert rig.counted("stockade_rows_total", model="tiny") == 24
        assert rig.counted("stockade_requests_total", outcome="served") == 2


async def test_hits_and_misses_are_counted(caching):
    for value in (0.5, 0.5, 0.25, 0.5):
        await caching.ask(tiny_body(image(value)))
    await until(lambda: caching.counted("stockade_cache_requests_total") == 4)
    assert caching.counted("stockade_cache_requests_total", model="tiny", result="hit") == 2
    assert caching.counted("stockade_cache_entries") == 2
    assert caching.counted("stockade_cache_bytes") == caching.gw.cache.bytes > 2 * OVERHEAD_BYTES
    totals = caching.gw.served["tiny", "1"].counters.totals()
    assert (totals.requests, totals.hits, totals.rows) == (4, 2, 2)
    assert totals.hit_ns > 0


async def test_payloads_are_kept_as_of_any_answer(made_site, tmp_path):
    def keep(policy) -> None:
        policy["models"]["tiny"]["capture"] = "all"

    async with open_rig(made_site, tmp_path, config=cached, policy=keep) as rig:
        for _ in range(2):
            await rig.ask(tiny_body(image(0.5)), caller="archivist")
        first, second = rig.sink.records()
        assert second["cached"] == first["id"]
        assert first["payload"]["response"] != second["payload"]["response"]
        assert len(rig.sink.blobs) == 4
        await until(lambda: rig.gw.room.bytes == 0)


async def test_a_deadline_that_no_batch_could_meet_is_met_from_the_cache(caching):
    body = tiny_body(image(0.5))
    await caching.ask(body)
    caching.gw.served["tiny", "1"].service_time.observe(10**15, 1, caching.gw.clock_ns())
    assert (await caching.ask(tiny_body(image(0.25)), timeout=20)).reason == "DEADLINE_UNMEETABLE"
    assert (await caching.ask(body, timeout=20)).reason == "OK"


async def test_a_deadline_that_has_passed_has_passed(caching):
    body = tiny_body(image(0.5))
    await caching.ask(body)
    now_ns, steps = caching.gw.clock_ns, count(step=30_000_000_000)
    caching.gw.clock_ns = lambda: now_ns() + next(steps)
    refused = await caching.ask(body, timeout=20)
    caching.gw.clock_ns = now_ns
    assert refused.reason == "DEADLINE_PASSED"
    assert "cached" not in caching.sink.records(id=refused.request_id)[0]


async def test_messages_of_a_stream_are_answered_from_it_too(caching):
    bodies = [tiny_body(image(0.5), id=str(number)) for number in range(3)]
    call = caching.stream(iter(bodies))
    replies = [ModelStreamInferResponse.FromString(body) async for body in call]
    assert sorted(reply.infer_response.id for reply in replies) == ["0", "1", "2"]
    await caching.ask(bodies[0])
    assert caching.sink.records(kind="served")[-1]["cached"]


async def test_without_the_section_nothing_is_kept(rig: Rig):
    assert rig.gw.cache is None
    rig.engine.batches.clear()
    for _ in range(2):
        await rig.ask(tiny_body(image(0.5)))
    assert len(rig.engine.batches) == 2
    assert not any("cached" in json.loads(entry) for entry in rig.sink.entries)

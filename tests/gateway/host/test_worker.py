"""A worker obeys its supervisor: it prepares a policy beside its calls, and uses it when it is told to."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace

import grpc
import pytest

from gateway.host.app import App
from gateway.host.worker import COMMAND_BYTES_MAX, PROBLEM_CHARACTERS_MAX, Control, say, until_told_to_stop
from gateway.models.host_link import HostLink
from gateway.models.model_set import Key, Listed, ModelSet
from gateway.policy.load import load_policy
from serving.bundles.bundle import Bundle
from tests.gateway.rig import image, only_tiny, tiny_body, until
from tests.serving.tiny import tiny_bundle, tiny_sealed, write

PRINCIPALS = 10_000


def listed(bundle: Bundle) -> Listed:
    return Listed(bundle.name, bundle.version, bundle.digest, f"{bundle.name}/{bundle.version}")


def prepare(rig, *more: Listed, unloaded: frozenset[Key] = frozenset()) -> dict:
    """The command for the policy of the site, and for the models that are there with these."""
    models = ModelSet((*(listed(served.bundle) for served in rig.gw.served.values()), *more), unloaded)
    file = rig.site.directory / "models.json"
    file.write_bytes(models.to_json())
    return {"do": "prepare", "policy": str(rig.site.policy), "models": str(file)}


def control_of(rig) -> Control:
    return Control(rig.app, HostLink(say))


def said(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


async def test_many_principals_are_taken_over_while_calls_go_on(rig, capsys):
    key = rig.site.new_key("caller-9999-a")

    def many(policy) -> None:
        only_tiny(policy)
        limits, other = policy["principals"]["plenty"]["limits"], dict(key, id="", hmac="")
        for number in range(PRINCIPALS):
            keys = [other | {"id": f"caller-{number}-a", "hmac": f"{number:064x}"}]
            policy["principals"][f"caller-{number}"] = {
                "tenant": "plenty",
                "roles": ["predictor"],
                "limits": limits,
                "api_keys": keys,
            }
        policy["principals"][f"caller-{PRINCIPALS - 1}"]["api_keys"] = [key]

    rig.site.change_policy(many)
    before = rig.gw.active.digest
    control = control_of(rig)
    preparing = asyncio.create_task(control.obey(prepare(rig)))
    replies = []
    while not preparing.done():
        replies.append(await rig.ask(tiny_body(image(0.5))))
    await preparing
    (prepared,) = said(capsys)
    assert prepared["event"] == "prepared"
    assert prepared["policy"] != before
    assert len(replies) >= 10, "calls waited for the policy"
    assert {(reply.reason, reply.trailers["x-stockade-policy"]) for reply in replies} == {("OK", before)}
    await control.obey({"do": "commit"})
    assert said(capsys) == [prepared | {"event": "committed"}]
    reply = await rig.ask(tiny_body(image(0.5)), caller="caller-9999-a")
    assert (reply.reason, reply.trailers["x-stockade-policy"]) == ("OK", prepared["policy"])
    assert len(rig.sink.records(kind="served")) == len(rig.sink.entries) == len(replies) + 1


async def test_a_refusal_with_many_problems_still_fits_into_an_event(rig, capsys):
    def wrong(policy) -> None:
        for number in range(2_000):
            policy["principals"][f"caller-{number}"] = {"tenant": "none", "roles": ["none"], "limits": "none"}

    rig.site.change_policy(wrong)
    await control_of(rig).obey(prepare(rig))
    (rejected,) = said(capsys)
    assert (rejected["event"], len(rejected["problem"])) == ("rejected", PROBLEM_CHARACTERS_MAX)


async def test_what_was_prepared_and_forgotten_is_not_used(rig, capsys):
    rig.site.change_policy(only_tiny)
    before = rig.gw.active.digest
    control = control_of(rig)
    await control.obey(prepare(rig))
    digest = load_policy(rig.site.policy, rig.app.config.policy.public_key).digest
    await control.obey({"do": "forget"})
    await control.obey({"do": "commit"})
    assert [event["event"] for event in said(capsys)] == ["prepared"]
    assert digest != before == rig.gw.active.digest


async def test_a_fault_inside_is_told_and_the_next_command_is_obeyed(rig, capsys, monkeypatch):
    def breaks(*_: object) -> None:
        raise RuntimeError("a text that stays inside")

    rig.site.change_policy(only_tiny)
    control = control_of(rig)
    with monkeypatch.context() as patch:
        patch.setattr(App, "compile", breaks)
        await control.obey(prepare(rig))
    await control.obey(prepare(rig))
    rejected, prepared = said(capsys)
    assert (rejected["event"], rejected["problem"]) == ("rejected", "RuntimeError; see the log of the worker")
    assert prepared["event"] == "prepared"
    assert "stays inside" not in rig.stderr.getvalue()
    assert '"error":"RuntimeError"' in rig.stderr.getvalue()


@pytest.fixture
def commands(monkeypatch):
    """The supervisor's end of what is a worker's standard input."""
    read, write = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(read))
    with os.fdopen(write, "wb") as opened:
        yield opened


async def test_a_worker_that_cannot_read_what_it_is_told_stops(rig, capsys, commands):
    def tell(line: bytes) -> None:
        commands.write(line)
        commands.flush()

    running = asyncio.create_task(until_told_to_stop(control_of(rig)))
    move = json.dumps({"do": "move", "canaries": {}, "padding": "x" * (COMMAND_BYTES_MAX - 1024)})
    await asyncio.to_thread(tell, f"{move}\n".encode())
    await until(lambda: said(capsys) == [{"event": "moved", "canaries": {}}])
    assert not running.done()
    await asyncio.to_thread(tell, b"x" * (COMMAND_BYTES_MAX + 1))
    await (await asyncio.wait_for(running, 60))
    assert "command-not-read" in rig.stderr.getvalue()
    commands.close()
    await until(lambda: sys.stdin.closed)


async def test_a_version_that_goes_out_of_service_answers_what_it_took_and_nothing_more(rig, capsys):
    control = control_of(rig)
    rig.engine.go.clear()
    taken, engine = asyncio.ensure_future(rig.ask(tiny_body(image(0.5)))), rig.engine
    await asyncio.to_thread(engine.entered.acquire)
    await control.obey(prepare(rig, unloaded=frozenset({("tiny", "1")})))
    await control.obey({"do": "commit"})
    refused = await rig.ask(tiny_body(image(0.5)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_UNLOADED")
    engine.go.set()
    assert (await taken).reason == "OK"
    await until(lambda: not engine.ready())
    await control.obey(prepare(rig))
    await control.obey({"do": "commit"})
    assert [event["event"] for event in said(capsys)] == ["prepared", "committed"] * 2
    assert (await rig.ask(tiny_body(image(0.5)))).reason == "OK"
    (statistics,) = (served.counters.totals() for served in rig.gw.served.values())
    assert statistics.requests == 2  # they are those of the version, whichever engine it has


async def test_a_bundle_that_was_not_there_is_opened_beside_the_calls(rig, capsys):
    write(tiny_sealed("2"), rig.app.config.bundles.directory / "tiny/2")
    control, more = control_of(rig), listed(tiny_bundle("2"))
    await control.obey(prepare(rig, more))
    assert (await rig.ask(tiny_body(image(0.5), version="2"))).reason == "MODEL_UNKNOWN"
    await control.obey({"do": "commit"})
    assert [event["event"] for event in said(capsys)] == ["prepared", "committed"]
    reply = await rig.ask(tiny_body(image(0.5), version="2"))
    assert (reply.reason, reply.trailers["x-stockade-model-digest"]) == ("OK", more.digest)


async def test_a_bundle_that_is_not_the_one_that_was_listed_is_refused_and_all_stays(rig, capsys):
    write(tiny_sealed("2"), rig.app.config.bundles.directory / "tiny/2")
    await control_of(rig).obey(prepare(rig, replace(listed(tiny_bundle("2")), digest="ab" * 32)))
    (rejected,) = said(capsys)
    assert (rejected["event"], "another bundle stands there" in rejected["problem"]) == ("rejected", True)
    assert (await rig.ask(tiny_body(image(0.5)))).reason == "OK"


async def test_what_was_opened_and_forgotten_is_closed(rig):
    write(tiny_sealed("2"), rig.app.config.bundles.directory / "tiny/2")
    control = control_of(rig)
    await control.obey(prepare(rig, listed(tiny_bundle("2"))))
    (opened,) = control.staged.opened
    assert opened.engine.ready()
    await control.obey({"do": "forget"})
    await until(lambda: not opened.engine.ready())


async def test_an_answer_reaches_whoever_asked_and_no_other(capsys):
    link = HostLink(say)
    first, second = (asyncio.create_task(link.ask(do="load", model=model)) for model in ("a", "b"))
    await asyncio.sleep(0)
    asked = said(capsys)
    assert [(event["event"], event["model"]) for event in asked] == [("asked", "a"), ("asked", "b")]
    second.cancel()
    await asyncio.sleep(0)
    link.answered(asked[1]["number"], {"outcome": "done"})  # nobody waits for it any more
    link.answered(asked[0]["number"], {"outcome": "unknown"})
    assert await first == {"outcome": "unknown"}

"""A worker obeys its supervisor: it prepares a policy beside its calls, and uses it when it is told to."""

from __future__ import annotations

import asyncio
import json

from gateway.app import App
from gateway.policy import load_policy
from gateway.worker import PROBLEM_CHARACTERS_MAX, Control
from tests.gateway.rig import image, only_tiny, tiny_body

PRINCIPALS = 20_000


def said(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


async def test_many_principals_are_taken_over_while_calls_go_on(rig, capsys):
    key = rig.site.new_key("caller-19999-a")

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
    control = Control(rig.app)
    preparing = asyncio.create_task(control.obey({"do": "prepare", "path": str(rig.site.policy)}))
    replies = []
    while not preparing.done():
        replies.append(await rig.ask(tiny_body(image(0.5))))
    await preparing
    (prepared,) = said(capsys)
    assert prepared["event"] == "prepared"
    assert prepared["digest"] != before
    assert len(replies) >= 10, "calls waited for the policy"
    assert {(reply.reason, reply.trailers["x-stockade-policy"]) for reply in replies} == {("OK", before)}
    await control.obey({"do": "commit"})
    assert said(capsys) == [{"event": "committed", "digest": prepared["digest"]}]
    reply = await rig.ask(tiny_body(image(0.5)), caller="caller-19999-a")
    assert (reply.reason, reply.trailers["x-stockade-policy"]) == ("OK", prepared["digest"])
    assert len(rig.sink.records(kind="served")) == len(rig.sink.entries) == len(replies) + 1


async def test_a_refusal_with_many_problems_still_fits_into_an_event(rig, capsys):
    def wrong(policy) -> None:
        for number in range(2_000):
            policy["principals"][f"caller-{number}"] = {"tenant": "none", "roles": ["none"], "limits": "none"}

    rig.site.change_policy(wrong)
    await Control(rig.app).obey({"do": "prepare", "path": str(rig.site.policy)})
    (rejected,) = said(capsys)
    assert (rejected["event"], len(rejected["problem"])) == ("rejected", PROBLEM_CHARACTERS_MAX)


async def test_what_was_prepared_and_forgotten_is_not_used(rig, capsys):
    rig.site.change_policy(only_tiny)
    before = rig.gw.active.digest
    control = Control(rig.app)
    await control.obey({"do": "prepare", "path": str(rig.site.policy)})
    digest = load_policy(rig.site.policy, rig.app.config.policy.public_key).digest
    await control.obey({"do": "forget"})
    await control.obey({"do": "commit"})
    assert [event["event"] for event in said(capsys)] == ["prepared"]
    assert digest != before == rig.gw.active.digest


async def test_a_fault_inside_is_told_and_the_next_command_is_obeyed(rig, capsys, monkeypatch):
    def breaks(*_: object) -> None:
        raise RuntimeError("a text that stays inside")

    rig.site.change_policy(only_tiny)
    control, prepare = Control(rig.app), {"do": "prepare", "path": str(rig.site.policy)}
    with monkeypatch.context() as patch:
        patch.setattr(App, "compile", breaks)
        await control.obey(prepare)
    await control.obey(prepare)
    rejected, prepared = said(capsys)
    assert (rejected["event"], rejected["problem"]) == ("rejected", "RuntimeError; see the log of the worker")
    assert prepared["event"] == "prepared"
    assert "stays inside" not in rig.stderr.getvalue()
    assert '"error":"RuntimeError"' in rig.stderr.getvalue()

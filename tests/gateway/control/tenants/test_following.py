"""A worker follows its supervisor about who is kept out: at once, whatever else it is told to do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from types import MappingProxyType

from gateway.auth.isolation import Isolation, Isolations
from gateway.host.worker import Control, say, until_told_to_stop
from gateway.models.host_link import HostLink
from tests.e2e.caller import infer_body
from tests.gateway.rig import image, open_rig, tiny_body, until
from tests.serving.tiny import tiny_bundle
from tests.watching import around, images, watch_arrays

HELD = Isolations((Isolation("1" * 32, "plenty", "", "o", "", 1, 0, ""),))


def said(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


async def test_it_does_as_the_file_says_and_says_so(rig, tmp_path, capsys):
    control, file = Control(rig.app, HostLink(say)), tmp_path / "isolations.json"
    file.write_bytes(HELD.to_json())
    control.isolate(file)
    assert said(capsys) == [{"event": "isolated", "digest": HELD.digest}]
    assert (await rig.ask(tiny_body(image(0.5)))).reason == "ISOLATED"
    file.write_bytes(Isolations().to_json())
    control.isolate(file)
    assert said(capsys) == [{"event": "isolated", "digest": Isolations().digest}]
    assert (await rig.ask(tiny_body(image(0.5)))).reason == "OK"


async def test_a_file_that_cannot_be_read_lets_nobody_in(rig, tmp_path, capsys):
    control, file = Control(rig.app, HostLink(say)), tmp_path / "isolations.json"
    rig.gw.isolations = HELD
    file.write_text("{")
    control.isolate(file)
    assert said(capsys) == [{"event": "isolated", "digest": HELD.digest}]
    assert (await rig.ask(tiny_body(image(0.5)))).reason == "ISOLATED"
    assert "isolations-not-read" in rig.stderr.getvalue()


async def test_it_does_not_wait_for_a_policy_that_is_being_prepared(rig, tmp_path, capsys, monkeypatch):
    control, file = Control(rig.app, HostLink(say)), tmp_path / "isolations.json"
    file.write_bytes(HELD.to_json())
    preparing, go = asyncio.Event(), asyncio.Event()
    obeyed = []

    async def slowly(_: Control, command: dict) -> None:
        preparing.set()
        await go.wait()
        obeyed.append(command["do"])

    monkeypatch.setattr(Control, "obey", slowly)
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, os.fdopen(writing, "w") as supervisor:
        monkeypatch.setattr(sys, "stdin", stdin)
        told = asyncio.create_task(until_told_to_stop(control))
        try:
            for command in ({"do": "prepare"}, {"do": "isolate", "isolations": str(file)}, {"do": "commit"}):
                supervisor.write(json.dumps(command) + "\n")
            supervisor.flush()
            await preparing.wait()
            await until(lambda: rig.gw.isolations.listed)
            assert obeyed == []
            go.set()
            await until(lambda: obeyed == ["prepare", "commit"])
            supervisor.close()
            await told
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(number)
    assert said(capsys) == [{"event": "isolated", "digest": HELD.digest}]


async def test_an_account_that_is_forgiven_steps_down_and_has_nothing_against_it(made_site, tmp_path):
    def change(policy) -> None:
        rules = {"mode": "enforce", "steps": [{"alpha": 0.1, "answer": "top1"}]}
        policy["models"]["watched"] = {"serve": "1", "watch": rules}
        policy["roles"]["predictor"][0]["models"].append("watched")

    bundle = replace(tiny_bundle(), name="watched", calibration=MappingProxyType(watch_arrays()))
    async with open_rig(made_site, tmp_path, policy=change, bundles=[bundle]) as rig:
        for caller in ("plenty", "single"):
            for row in around(images(1, 1)[0], 2, 24):
                await rig.ask(infer_body(row[None], model="watched"), caller=caller)
        watching = rig.gw.served["watched", "1"].watching

        def against() -> dict[str, bool]:
            held = watching.snapshot(rig.gw.wall_ns())[1]
            evidence = {one.principal: one.log_evidence for one in watching.watch.accounts()}
            return {name: name in held and evidence[name] > 2 for name in ("plenty", "single")}

        assert against() == {"plenty": True, "single": True}
        await Control(rig.app, HostLink(say)).obey({"do": "forgive", "principals": ["plenty", "nobody"]})
        assert against() == {"plenty": False, "single": True}
        assert "plenty" not in watching.snapshot(rig.gw.wall_ns())[1]

"""A worker follows its supervisor about who is kept out: at once, whatever else it is told to do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

from gateway.host.link import HostLink
from gateway.host.worker import Control, say, until_told_to_stop
from gateway.segmentation.isolation import Isolation, Isolations
from tests.gateway.rig import image, tiny_body, until

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

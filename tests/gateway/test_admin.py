"""What the control plane still owes the log: each entry once, in order, whoever asks for it and whoever gives up."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

from gateway.admin import OWED_MAX, Control
from gateway.host import Host
from gateway.place import place_of
from gateway.policy_file import Kept, Memory
from gateway.supervisor import Child
from tests.gateway.rig import HeldSink, open_rig, until


class Words:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **facts: Any) -> None:
        self.lines.append((event, facts))

    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


def digests(sink: HeldSink) -> list[str]:
    return [entry["digest"] for entry in sink.records(kind="policy")]


@asynccontextmanager
async def controlled(made_site, tmp_path):
    """A control plane over a real gateway, for a host whose processes were not started."""
    async with open_rig(made_site, tmp_path) as rig:
        config, log = rig.app.config, Words()
        place = place_of(config)
        kept = Kept(config.policy, place.policies, Memory(tmp_path / "recorder/policy.revision"))
        children = [Child(name, [], log) for name in ("recorder", "worker-0")]
        host = Host(config, place, log, [], kept, kept.first(log), 0, children[0], children[1:])
        host.control = Control(host)
        host.control.app = rig.app
        yield rig, host.control


def owe(control: Control, number: int) -> asyncio.Task[None]:
    fields = {"digest": f"{number:064x}", "outcome": "loaded"}
    return asyncio.create_task(control.record_when_possible("policy", **fields))


async def test_two_who_record_at_once_record_each_entry_once_and_in_order(made_site, tmp_path):
    async with controlled(made_site, tmp_path) as (rig, control):
        rig.sink.holding = True
        both = [owe(control, number) for number in range(2)]
        await until(lambda: len(control.owed) == 2)
        rig.sink.release()
        await asyncio.gather(*both)
        assert digests(rig.sink) == [f"{number:064x}" for number in range(2)]
        assert not control.owed


async def test_what_is_owed_too_long_is_given_up_aloud(made_site, tmp_path):
    async with controlled(made_site, tmp_path) as (rig, control):
        rig.sink.unavailable = "recorder_gone"
        for number in range(OWED_MAX):
            await owe(control, number)
        assert "owed-entry-dropped" not in control.host.log.events()
        await owe(control, OWED_MAX)
        dropped = [facts for event, facts in control.host.log.lines if event == "owed-entry-dropped"]
        assert dropped == [{"level": "error", "kind": "policy", "policy": f"{0:064x}"}]
        rig.sink.unavailable = None
        await control.record_owed()
        assert digests(rig.sink) == [f"{number:064x}" for number in range(1, OWED_MAX + 1)]


async def test_an_entry_that_is_given_up_while_it_is_recorded_takes_no_other_along(made_site, tmp_path):
    async with controlled(made_site, tmp_path) as (rig, control):
        rig.sink.holding = True
        owing = [owe(control, number) for number in range(OWED_MAX + 1)]
        await until(lambda: control.owed and control.owed[-1][1]["digest"] == f"{OWED_MAX:064x}")
        rig.sink.release()
        await asyncio.gather(*owing)
        assert digests(rig.sink) == [f"{number:064x}" for number in range(OWED_MAX + 1)]

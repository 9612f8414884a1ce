"""The sum of strangers: counted at once, written once a second, never lost while the log is away."""

from __future__ import annotations

import asyncio
import json

from gateway.exits import trailers, write_anonymous
from gateway.record import Record
from ops.audit import entry
from tests.gateway.rig import ended

READY = "/inference.GRPCInferenceService/ServerReady"


async def strangers(rig, count: int) -> None:
    calls = [rig.channel.unary_unary(READY)(b"") for _ in range(count)]
    wrong = rig.channel.unary_unary(READY)(b"", metadata=(("x-api-key", "plenty.wrong"),))
    for call in (*calls, wrong):
        await ended(call)


async def test_strangers_share_one_entry(rig):
    await strangers(rig, 50)
    write_anonymous(rig.gw)
    write_anonymous(rig.gw)
    await asyncio.sleep(0)
    leaves = [json.loads(leaf) for leaf in rig.sink.entries]
    assert sum(leaf["count"] for leaf in leaves) == 51
    assert len(leaves) <= 2  # the second had turned while they called
    for leaf in rig.sink.entries:
        entry.check(leaf)
    assert rig.gw.anonymous == {}


async def test_what_could_not_be_written_is_written_the_next_time(rig):
    rig.sink.unavailable = "recorder_gone"
    await strangers(rig, 3)
    write_anonymous(rig.gw)
    await asyncio.sleep(0.01)
    assert rig.gw.anonymous == {"CREDENTIAL_MISSING": 3, "CREDENTIAL_INVALID": 1}
    await strangers(rig, 2)
    rig.sink.unavailable = None
    write_anonymous(rig.gw)
    await asyncio.sleep(0.01)
    assert [json.loads(leaf)["reasons"] for leaf in rig.sink.entries] == [
        {"CREDENTIAL_INVALID": 2, "CREDENTIAL_MISSING": 5}
    ]


async def test_an_answer_says_which_entry_proves_it(rig):
    for number in range(3):
        reply = await ended(rig.channel.unary_unary(READY)(b"", metadata=rig.site.bearer("plenty")))
        assert reply.trailers["x-stockade-audit-index"] == f"{number}"
        assert reply.trailers["x-stockade-audit-origin"] == rig.sink.origin
        assert json.loads(rig.sink.entries[number])["id"] == reply.request_id


async def test_trailers_name_only_what_is_known(rig):
    record = Record(bytes(16), READY, "ServerReady", "ab" * 32, 1, 0)
    assert [name for name, _ in trailers(record, rig.gw, None)] == ["x-request-id", "x-stockade-policy"]
    record.audit_index, record.model_digest = 0, "cd" * 32
    names = {name for name, _ in trailers(record, rig.gw, "flag")}
    assert {"x-stockade-audit-index", "x-stockade-model-digest", "x-stockade-verdict"} <= names

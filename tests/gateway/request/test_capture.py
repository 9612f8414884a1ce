"""Which payloads are kept: the narrower of two settings, and a share that nobody can choose."""

from __future__ import annotations

import asyncio
from itertools import product
from types import SimpleNamespace

import grpc
import pytest

from gateway.request.capture import BACKLOG_SHARE, MODES, Vault, narrower, wanted
from gateway.request.item import Answer
from ops.audit.log import entry
from ops.audit.payloads.keys import KeyStore
from tests.gateway.rig import ended, image, open_rig, poisoned, tiny_body, until


def item(mode: str, decision: str = "allow", record_id: bytes = bytes(16), rate: float = 0.0):
    record = SimpleNamespace(decision=decision, id_bytes=record_id)
    return SimpleNamespace(capture=mode, record=record, rules=SimpleNamespace(capture_rate=rate))


@pytest.mark.parametrize(("first", "second"), list(product(MODES, MODES)))
def test_the_narrower_of_two_keeps_less(first, second):
    assert MODES.index(narrower(first, second)) == min(MODES.index(first), MODES.index(second))


@pytest.mark.parametrize("decision", ["allow", "flag", "harden", "refuse", "error"])
def test_what_each_mode_keeps(decision):
    kept = {mode: wanted(item(mode, decision)) for mode in MODES}
    assert kept == {"none": False, "flagged": decision != "allow", "sampled": decision != "allow", "all": True}


def test_a_sample_is_a_share_of_the_ids():
    ids = [number.to_bytes(4, "big") + bytes(12) for number in range(0, 2**32, 2**20)]
    for rate in (0.0, 0.25, 1.0):
        kept = sum(wanted(item("sampled", record_id=record_id, rate=rate)) for record_id in ids)
        assert kept == rate * len(ids)


def test_what_is_kept_opens_with_the_keys_and_is_named_in_the_record(tmp_path):
    keys = KeyStore(tmp_path / "keys.db", bytes(32), origin="example.test/log")
    caller = SimpleNamespace(tenant="store-7", name="kiosk-7")
    record = SimpleNamespace(
        decision="allow",
        id_bytes=bytes(range(16)),
        time_ns=1_800_000_000_000_000_000,
        caller=lambda: caller,
        payload_json=None,
    )
    one = SimpleNamespace(capture="all", record=record, body=b"asked", outcome=Answer(b"answered"), rules=None)
    request, response = Vault(keys).keep(one)
    payload = entry.orjson.loads(record.payload_json)
    assert entry.canonical(payload).decode() == record.payload_json
    for field, ciphertext, plaintext in (("request", request, b"asked"), ("response", response, b"answered")):
        named = payload[field]
        assert keys.open(payload["key"], record.id_bytes, field, ciphertext, named["commitment"]) == plaintext
        assert named["bytes"] == len(plaintext)
        assert plaintext not in ciphertext
    keys.close()


async def test_what_is_kept_is_durable_with_the_record(made_site, tmp_path):
    def keep(policy) -> None:
        policy["models"]["tiny"]["capture"] = "all"

    async with open_rig(made_site, tmp_path, policy=keep) as rig:
        await ended(rig.infer(tiny_body(image(0.5)), caller="archivist"))
        await ended(rig.infer(tiny_body(image(0.5)), caller="plenty"))
        kept, not_kept = rig.sink.records()
        assert {bytes.fromhex(kept["payload"][field]["ciphertext_sha256"]) for field in ("request", "response")} == set(
            rig.sink.blobs
        )
        assert "payload" not in not_kept


async def test_payloads_in_flight_take_half_of_the_backlog_and_more_is_refused_before_model_work(made_site, tmp_path):
    """Plain requests find room as before, and what was refused comes through once there is room."""
    body = tiny_body(image(0.5, 4))
    backlog = 64 * 1024
    fit = backlog // BACKLOG_SHARE // len(body)
    assert fit == 2

    def small(config):
        config["audit"]["backlog_max"] = "64KiB"

    def keep_all(policy):
        policy["models"]["tiny"]["capture"] = "all"

    async with open_rig(made_site, tmp_path, config=small, policy=keep_all) as rig:
        rig.sink.holding = True
        kept = [rig.infer(body, caller="archivist") for _ in range(fit)]
        await until(lambda: rig.sink.held == fit)
        work = len(rig.engine.batches)
        refused = asyncio.ensure_future(rig.ask(body, caller="archivist"))
        await until(lambda: rig.sink.held == fit + 1)
        plain = [rig.infer(body) for _ in range(fit + 1)]
        await until(lambda: rig.sink.held == 2 * fit + 2)
        rig.sink.release()
        assert {(await ended(call)).reason for call in (*kept, *plain)} == {"OK"}
        assert ((await refused).reason, (await refused).code) == ("OVERLOADED", grpc.StatusCode.UNAVAILABLE)
        assert int((await refused).trailers["grpc-retry-pushback-ms"]) > 0
        assert sum(rig.engine.batches[work:]) == 4 * len(plain)
        await until(lambda: rig.gw.room.bytes == 0)
        assert (await rig.ask(body, caller="archivist")).reason == "OK"
        large = tiny_body(image(0.5, 200))
        assert len(large) > backlog
        assert (await rig.ask(large, caller="archivist")).reason == "OK"
        for spoiled in (tiny_body(image(1.5)), tiny_body(poisoned()), b"\xff"):
            assert (await rig.ask(spoiled, caller="archivist")).reason != "OK"
        await until(lambda: rig.gw.room.bytes == 0)

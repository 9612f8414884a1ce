"""A sync that fails poisons: no acknowledgement follows, the process ends, nothing acknowledged before is lost."""

import asyncio
from pathlib import Path

import pytest

from ops.audit.errors import Poisoned
from tests.faults import tracing
from tests.faults.load import Load
from tests.faults.oracle import Oracle
from tests.faults.recorder_process import client_of, launch, settings_in

pytestmark = pytest.mark.skipif(bool(tracing.why_not()), reason=tracing.why_not() or "strace works")


@pytest.mark.parametrize(
    ("call", "when"),
    [("fdatasync", 40), ("fsync", 60), ("pwritev2", 60), ("rename", 30)],
)
async def test_an_io_error_ends_the_recorder_and_a_new_one_goes_on(tmp_path: Path, call: str, when: int):
    settings = settings_in(tmp_path, publish_every_ms=20)
    oracle = Oracle()
    output = tmp_path / "trace"
    poison = tracing.tracer(output, "-e", f"inject={call}:error=EIO:when={when}+")
    recorder = launch(settings, *poison).wait_ready()
    client = client_of(settings)
    await client.connect()
    load = Load(client, oracle, in_flight=4)
    load.start()
    try:
        assert await asyncio.to_thread(recorder.ended) == Poisoned.exit_code, recorder.errors
    finally:
        load.stop()
        await client.close()
    assert recorder.events()[-1]["error"] == "Poisoned"
    assert {failed.reason for failed in load.failed} <= {"recorder_gone", "closed"}
    assert oracle.acknowledged

    injected = [
        position for position, each in enumerate(tracing.calls(output)) if each.name == call and each.result == "-1"
    ]
    assert injected, "nothing was injected"
    again = launch(settings).wait_ready()
    assert again.stop() == 0, again.errors
    oracle.check(settings.directory)


async def test_no_commit_is_tried_again_after_its_sync_failed(tmp_path: Path):
    """`when=N` fails one single fdatasync of a segment; a second try would succeed, and would be a lie."""
    settings = settings_in(tmp_path, publish_every_ms=60_000)
    output = tmp_path / "trace"
    recorder = launch(settings, *tracing.tracer(output, "-e", "inject=fdatasync:error=EIO:when=12")).wait_ready()
    client = client_of(settings)
    await client.connect()
    load = Load(client, Oracle(), in_flight=1)
    load.start()
    try:
        assert await asyncio.to_thread(recorder.ended) == Poisoned.exit_code, recorder.errors
    finally:
        load.stop()
        await client.close()
    trace = tracing.calls(output)
    failed = next(position for position, each in enumerate(trace) if each.name == "fdatasync" and each.result == "-1")
    later = trace[failed + 1 :]
    assert not [
        each for each in later if each.name == "sendto" or (each.name == "fdatasync" and ".seg>" in each.arguments)
    ]

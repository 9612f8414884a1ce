"""The order of system calls: nothing is acknowledged before it is durable, nothing is public before what it names.

Unlike the kill tests, these turn red when a sync is left out: the page cache forgives kill -9, a trace does not.
"""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import tracing
from tests.faults.load import Load
from tests.faults.oracle import Oracle
from tests.faults.recorder_process import client_of, launch, settings_in
from tests.faults.tracing import Call

WRITES = {"pwrite64", "pwritev", "pwritev2"}
OF_AN_EPOCH = re.compile(r"/epochs(/[0-9]{4}(/segments|/staging)?)?$")

pytestmark = pytest.mark.skipif(bool(tracing.why_not()), reason=tracing.why_not() or "strace works")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    """One run under load: two segments' worth of entries, many publications."""
    return traced(tmp_path_factory.mktemp("traced"))


def traced(home: Path, **changes: int) -> list[Call]:
    settings = settings_in(home, publish_every_ms=20, append_bytes_max=65_536, segment_bytes=131_072, **changes)
    output = home / "trace"

    async def run() -> None:
        recorder = launch(settings, *tracing.tracer(output)).wait_ready()
        client = client_of(settings)
        await client.connect()
        load = Load(client, Oracle(), in_flight=4)
        load.start()
        await load.wait_for(600)
        load.stop()
        await client.close()
        assert recorder.stop() == 0, recorder.errors

    asyncio.run(run())
    return tracing.calls(output)


def acknowledgements(trace: list[Call]) -> Iterator[tuple[int, Call]]:
    """Sends on a worker's connection after its hello."""
    greeted: set[str] = set()
    for position, call in enumerate(trace):
        if call.name == "sendto" and call.result not in {"0", "?"}:
            descriptor = call.arguments.split(",", 1)[0]
            if descriptor in greeted:
                yield position, call
            greeted.add(descriptor)


def test_every_acknowledgement_follows_the_sync_of_all_that_was_written_before_it(trace):
    waiting = {position for position, _ in acknowledgements(trace)}
    dirty: set[str] = set()
    received = False  # something that no sync has covered yet
    acknowledged = 0
    for position, call in enumerate(trace):
        segment = call.arguments.split(">", 1)[0]
        if call.name in WRITES and ".seg" in segment:
            dirty.add(segment)
        elif call.name == "fdatasync" and call.result == "0" and ".seg" in segment:
            received = received and segment not in dirty
            dirty.discard(segment)
        elif call.name == "recvfrom" and call.result.isdigit() and call.result != "0":
            received = True
        elif position in waiting:
            assert not dirty, f"acknowledged at {position} with unsynced writes: {call}"
            assert not received, f"acknowledged at {position} what came after the last sync"
            acknowledged += 1
    assert acknowledged > 50


def test_a_segment_has_a_durable_name_before_anything_in_it_is_acknowledged(trace):
    waiting = {position for position, _ in acknowledgements(trace)}
    unnamed = False
    segments = 0
    for position, call in enumerate(trace):
        if call.name == "rename" and call.result == "0" and '.seg"' in call.arguments.rpartition(",")[2]:
            unnamed = True
            segments += 1
        elif call.name == "fsync" and call.result == "0" and call.arguments.endswith("/segments>"):
            unnamed = False
        elif position in waiting:
            assert not unnamed, f"acknowledged at {position} from a segment without a durable name"
    assert segments >= 2


def test_an_epoch_has_durable_names_before_anything_in_it_is_acknowledged(tmp_path):
    """Those above it as well: a recorder that was killed may have made them, and not synced their names."""
    for left in ("log/epochs", "state/epochs"):
        (tmp_path / left).mkdir(parents=True)
    trace = traced(tmp_path, epoch_records_max=300)
    waiting = {position for position, _ in acknowledgements(trace)}
    unnamed: set[str] = set()
    made = 0
    for position, call in enumerate(trace):
        path = call.arguments.partition('"')[2].partition('"')[0]
        if call.name == "mkdir" and call.result == "0" and OF_AN_EPOCH.search(path):
            above = path.rpartition("/")[0]
            unnamed |= {path, above} if above.endswith("/epochs") else {path}
            made += 1
        elif call.name == "fsync" and call.result == "0":
            synced = call.arguments.partition("<")[2].rstrip(">")
            unnamed -= {each for each in unnamed if each.rpartition("/")[0] == synced}
        elif position in waiting:
            assert not unnamed, f"acknowledged at {position} before {unnamed} had durable names"
    assert made >= 8, "two changes of epochs or more"


def test_a_checkpoint_counts_only_when_its_files_are_staged_and_is_public_only_when_they_are_in_place(trace):
    """The steps of `publisher`: staged and synced, swapped, renamed and synced, revealed and synced."""
    written: set[str] = set()  # staged files whose bytes are not durable
    begun = staged = swapped = False
    unsynced: set[str] = set()  # directories with names that are not durable
    published = 0
    for call in trace:
        first = call.arguments.split(">", 1)[0]
        if call.name == "write" and "/staging/" in first:
            written.add(first)
            begun, staged = not first.endswith("/checkpoint"), False
        elif call.name == "fsync" and call.result == "0":
            written.discard(first)
            path = first.partition("<")[2]
            staged |= path.endswith("/staging") and not written
            unsynced.discard(path)
        elif call.name == "fdatasync" and "lock.sqlite-wal" in first and begun:
            assert staged, "the checkpoint was swapped in before its files were durable"
            assert not unsynced, "the checkpoint before this one is not durable in public"
            swapped = True
        elif call.name == "rename" and "/staging/" in call.arguments:
            target = call.arguments.split('"')[3]
            if target.endswith("/log/checkpoint"):
                assert swapped, "a checkpoint was revealed that the lock does not hold"
                assert not unsynced, f"a checkpoint was revealed before {unsynced} was synced"
                swapped = False
                published += 1
            else:
                assert swapped, "a tile was put in place before its checkpoint was swapped in"
            unsynced.add(target.rpartition("/")[0])
    assert published > 3
    assert not unsynced, "the last checkpoint's name is not durable"

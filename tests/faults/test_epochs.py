"""The log changes epochs while it is served: nothing is lost, doubled or refused, wherever the recorder is killed."""

import asyncio
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import orjson
import pytest

from ops.audit.client import Receipt
from ops.audit.epochs import Epoch, epochs_of
from ops.audit.read import LogReader
from tests.faults.load import Load
from tests.faults.recorder_process import KEY, client_of, launch, settings_in

RECORDS = 300  # of an epoch
STEPS = ("closed", "published", "prepared", "begun", "cleared")
STARTS = ("prepared", "begun")  # each start gets there too


class Acknowledged:
    """An oracle: what was acknowledged, by epoch and index."""

    def __init__(self) -> None:
        self.entries: dict[int, dict[int, bytes]] = defaultdict(dict)

    def saw(self, receipt: Receipt, entries: list[bytes]) -> None:
        epoch = self.entries[receipt.epoch]
        for index, data in enumerate(entries, receipt.first_index):
            assert index not in epoch, f"index {index} of epoch {receipt.epoch} was given twice"
            epoch[index] = data

    def check(self, epochs: list[Epoch]) -> None:
        """Every acknowledged entry is where it was said to be, and nowhere else."""
        logs = {each.number: entries_of(each) for each in epochs}
        for number, entries in self.entries.items():
            assert {index: logs[number][index] for index in entries} == entries
        written = [data for log in logs.values() for data in log if b'"kind":"served"' in data]
        assert len(written) == len(set(written))


def entries_of(epoch: Epoch) -> list[bytes]:
    reader = LogReader.open(epoch.directory, epoch.vkey)
    return reader.entries(0, reader.checkpoint.size)


def chain_of(epochs: list[Epoch]) -> None:
    """Each epoch but the last is closed, and the one after it holds its last checkpoint."""
    for before, after in pairwise(epochs):
        last, first = orjson.loads(entries_of(before)[-1]), orjson.loads(entries_of(after)[0])
        kinds = [orjson.loads(each)["kind"] for each in entries_of(before)]
        assert kinds.index("epoch-close") == len(kinds) - 1
        assert last["next_origin"] == after.vkey.name == first["origin"]
        assert first["previous"] == (before.directory / "checkpoint").read_text()


@pytest.mark.timeout(120)
async def test_the_log_changes_epochs_under_load_and_nobody_notices(tmp_path: Path, counted):
    settings = settings_in(tmp_path, epoch_records_max=RECORDS)
    oracle = Acknowledged()
    client = client_of(settings)
    recorder = launch(settings).wait_ready()
    await client.connect()
    load = Load(client, oracle, in_flight=8)  # type: ignore[arg-type]
    load.start()
    await load.wait_for(600)
    load.stop()
    await client.close()
    assert recorder.stop() == 0, recorder.errors
    assert load.failed == []
    epochs = epochs_of(settings.directory, KEY.verifier)
    assert len(epochs) > 3
    assert client.origin == epochs[-1].vkey.name
    oracle.check(epochs)
    chain_of(epochs)
    counted("changes of epochs", under_load=len(epochs) - 1, refused=0)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", STEPS)
async def test_a_recorder_that_is_killed_between_epochs_goes_on_alone(tmp_path: Path, point: str, counted):
    settings = settings_in(tmp_path, epoch_records_max=RECORDS)
    oracle = Acknowledged()
    client = client_of(settings)
    after = 2 if point in STARTS else 1
    killed = launch(settings, program=("tests.faults.rolling", point, str(after))).wait_ready()
    await client.connect()
    load = Load(client, oracle, in_flight=8)  # type: ignore[arg-type]
    load.start()
    assert await asyncio.to_thread(killed.ended) == -9, killed.errors
    recorder = launch(settings).wait_ready()
    await load.wait_for(200)
    load.stop()
    await client.close()
    assert recorder.stop() == 0, recorder.errors
    assert {failed.reason for failed in load.failed} <= {"recorder_gone"}
    epochs = epochs_of(settings.directory, KEY.verifier)
    assert len(epochs) > 1
    oracle.check(epochs)
    chain_of(epochs)
    left = sorted(each.name for each in (settings.state_directory / "epochs").iterdir())
    assert left == [f"{epochs[-1].number:04d}"], "what the recorder kept of closed epochs is gone"
    assert not (settings.state_directory / "segments").exists()
    counted("kills between epochs", at_steps=1)

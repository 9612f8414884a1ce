"""The log changes epochs while it is served: nothing is lost, doubled or refused, wherever it is killed or cut off."""

import asyncio
import os
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ops.audit.log.epochs import Epoch, epochs_of
from ops.audit.store.settings import RecorderSettings
from ops.metrics import expose
from tests.faults import cut_mount
from tests.faults.load import Load
from tests.faults.oracle import Oracle
from tests.faults.recorder_process import KEY, client_of, launch, settings_in
from tests.faults.test_power_cut import kinds

RECORDS = 300  # of an epoch
STEPS = ("closed", "published", "prepared", "begun", "cleared")
STARTS = ("prepared", "begun")  # each start gets there too


def series(settings: RecorderSettings) -> dict[tuple[str, str | None], float]:
    """The page, by name and when an epoch was begun."""
    assert settings.metrics_directory is not None
    families = text_string_to_metric_families(expose(settings.metrics_directory).decode())
    return {(each.name, each.labels.get("when")): each.value for family in families for each in family.samples}


def check(settings: RecorderSettings, oracle: Oracle) -> list[Epoch]:
    """Hold the log against the oracle; what the recorder keeps of closed epochs has to be gone. Returns the epochs."""
    oracle.check(settings.directory)
    epochs = epochs_of(settings.directory, KEY.verifier)
    left = [each.name for each in (settings.state_directory / "epochs").iterdir()]
    assert left == [f"{epochs[-1].number:04d}"]
    assert not (settings.state_directory / "segments").exists()
    return epochs


@pytest.mark.timeout(120)
async def test_the_log_changes_epochs_under_load_and_nobody_notices(tmp_path: Path, counted):
    settings = settings_in(tmp_path, epoch_records_max=RECORDS, metrics_directory=tmp_path / "metrics")
    oracle = Oracle()
    client = client_of(settings)
    recorder = launch(settings).wait_ready()
    await client.connect()
    load = Load(client, oracle, in_flight=8)
    load.start()
    await load.wait_for(600)
    load.stop()
    await client.close()
    assert recorder.stop() == 0, recorder.errors
    assert load.failed == []
    epochs = check(settings, oracle)
    assert len(epochs) > 3
    assert client.origin == epochs[-1].vkey.name
    page = series(settings)
    assert page["stockade_audit_epoch", None] == len(epochs)
    assert page["stockade_audit_epochs_begun_total", "serving"] == len(epochs) - 1
    assert page["stockade_audit_epochs_begun_total", "start"] == 0
    assert page["stockade_audit_epoch_due_timestamp_seconds", None] == 0
    assert page["stockade_audit_checkpoint_size", None] == page["stockade_audit_tree_size", None]
    counted("changes of epochs", under_load=len(epochs) - 1, refused=0)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", STEPS)
async def test_a_recorder_that_is_killed_between_epochs_goes_on_alone(tmp_path: Path, point: str, counted):
    settings = settings_in(tmp_path, epoch_records_max=RECORDS, metrics_directory=tmp_path / "metrics")
    oracle = Oracle()
    client = client_of(settings)
    killed = launch(settings, program=rolling("SIGKILL", point)).wait_ready()
    await client.connect()
    load = Load(client, oracle, in_flight=8)
    load.start()
    assert await asyncio.to_thread(killed.ended) == -9, killed.errors
    overdue = series(settings)["stockade_audit_epoch_due_timestamp_seconds", None]
    assert overdue, "the page says so until the next start"
    recorder = launch(settings).wait_ready()
    await load.wait_for(200)
    load.stop()
    await client.close()
    assert recorder.stop() == 0, recorder.errors
    assert {failed.reason for failed in load.failed} <= {"recorder_gone"}
    assert len(check(settings, oracle)) > 1
    page = series(settings)
    assert page["stockade_audit_epochs_begun_total", "start"] == (point in {"closed", "published", "prepared"})
    assert page["stockade_audit_epoch_due_timestamp_seconds", None] == 0
    counted("kills between epochs", at_steps=1)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", STEPS)
async def test_a_recorder_that_is_told_to_stop_between_epochs_leaves_a_whole_log(tmp_path: Path, point: str):
    """It begins the next epoch first: a closed one that nothing follows would be taken for a part of the log."""
    settings = settings_in(tmp_path, epoch_records_max=RECORDS, metrics_directory=tmp_path / "metrics")
    oracle = Oracle()
    client = client_of(settings)
    recorder = launch(settings, program=rolling("SIGTERM", point)).wait_ready()
    await client.connect()
    load = Load(client, oracle, in_flight=8)
    load.start()
    assert await asyncio.to_thread(recorder.ended) == 0, recorder.errors
    load.stop()
    await client.close()
    assert len(check(settings, oracle)) > 1
    page = series(settings)
    assert page["stockade_audit_epoch_due_timestamp_seconds", None] == 0
    assert page["stockade_audit_checkpoint_size", None] == page["stockade_audit_tree_size", None]


@kinds
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", STEPS)
async def test_nothing_is_lost_when_the_power_is_cut_between_epochs(tmp_path: Path, kind: str, point: str, counted):
    oracle = Oracle()
    with cut_mount.cut_mount(kind, tmp_path) as mounted:
        settings = settings_in(mounted.directory / "host", epoch_records_max=RECORDS, socket=tmp_path / "s")
        os.sync()  # the key is older than the log
        client = client_of(settings)
        cut = launch(
            settings, program=rolling("SIGKILL", point, str((mounted.beneath or mounted).directory))
        ).wait_ready()
        await client.connect()
        load = Load(client, oracle, in_flight=8)
        load.start()
        assert await asyncio.to_thread(cut.ended) == -9, cut.errors
        mounted.remount()
        recorder = launch(settings).wait_ready()
        await load.wait_for(200)
        load.stop()
        await client.close()
        assert recorder.stop() == 0, recorder.errors
        assert {failed.reason for failed in load.failed} <= {"recorder_gone"}
        assert len(check(settings, oracle)) > 1
    counted(f"power cuts between epochs, {kind}", at_steps=1, acknowledged=len(oracle.acknowledged), lost=0)


def rolling(end: str, point: str, *mount: str) -> tuple[str, ...]:
    """The recorder that ends at a step of its first change of epochs."""
    return ("tests.faults.rolling", end, point, "2" if point in STARTS else "1", *mount)

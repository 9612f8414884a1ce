"""Real power cuts on real file systems under load: remount, start again, nothing acknowledged is lost.

kill -9 proves nothing about syncs, because the page cache outlives the process; here it does not.
"""

import asyncio
import os
import random
from pathlib import Path

import pytest

from ops.audit.errors import Poisoned
from ops.audit.log.epochs import epochs_of
from tests.faults import cut_mount
from tests.faults.effort import FULL, SEED, effort
from tests.faults.forked import fork
from tests.faults.load import Load
from tests.faults.oracle import Oracle
from tests.faults.recorder_process import KEY, client_of, settings_in

CUTS = effort(5, 150)
CUTS_OF_EPOCHS = effort(5, 50)
KINDS = ("ext4", "xfs", "btrfs")
ENDS = {Poisoned.exit_code, 70, -9}  # by its own sync, by a read that failed, or by us when it had nothing to do


def needs(kind: str) -> pytest.MarkDecorator:
    reason = cut_mount.why_not(kind) if FULL or kind == "ext4" else "part of make test-faults"
    return pytest.mark.skipif(bool(reason), reason=reason or "possible")


kinds = pytest.mark.parametrize("kind", [pytest.param(kind, marks=needs(kind)) for kind in KINDS])


@kinds
def test_a_power_cut_keeps_what_was_synced_and_forgets_what_was_not(tmp_path: Path, kind: str):
    """Else the test below could not fail."""
    with cut_mount.cut_mount(kind, tmp_path) as mounted:
        for name in ("synced", "unsynced"):
            (mounted.directory / name).write_bytes(b"before")
        os.sync()
        for name in ("synced", "unsynced"):
            with (mounted.directory / name).open("r+b") as file:
                file.write(b"after!")
                file.flush()
                if name == "synced":
                    os.fsync(file.fileno())
        (mounted.directory / "name").touch()
        mounted.cut()
        mounted.remount()
        assert (mounted.directory / "synced").read_bytes() == b"after!"
        assert (mounted.directory / "unsynced").read_bytes() == b"before"
        assert not (mounted.directory / "name").exists()


@kinds
@pytest.mark.slow
@pytest.mark.timeout(120 + 30 * CUTS)
@pytest.mark.parametrize(("records", "cuts"), [(0, CUTS), (100, CUTS_OF_EPOCHS)], ids=["one epoch", "many epochs"])
async def test_nothing_acknowledged_is_lost_when_the_power_is_cut(tmp_path, kind, records, cuts, counted):
    rounds = random.Random(SEED)
    oracle = Oracle()
    with cut_mount.cut_mount(kind, tmp_path) as mounted:
        home = mounted.directory / "host"
        settings = settings_in(home, publish_every_ms=15, socket=tmp_path / "s", epoch_records_max=records)
        os.sync()  # the key is older than the log
        for _ in range(cuts):
            recorder = fork(settings).wait_ready()
            client = client_of(settings)
            await client.connect()
            load = Load(client, oracle, in_flight=8)
            load.start()
            await load.wait_for(rounds.randrange(1, 40))
            await asyncio.sleep(rounds.random() * 0.03)  # anywhere within a commit or a publication
            oracle.saw_checkpoint(settings.directory)
            mounted.cut()
            load.stop()
            recorder.kill()
            await client.close()
            assert recorder.process.returncode in ENDS, recorder.errors
            mounted.remount()
        recorder = fork(settings).wait_ready()
        assert recorder.stop() == 0, recorder.errors
        oracle.check(settings.directory)
        epochs = len(epochs_of(settings.directory, KEY.verifier))
    assert (epochs > 1) == bool(records)
    counted(f"power cuts, {kind}", cuts=cuts, epochs=epochs, acknowledged=len(oracle.acknowledged), lost=0)

"""kill -9 of the recorder at random moments under load: nothing acknowledged is lost, it starts again alone."""

import asyncio
import random
from pathlib import Path

import pytest

from ops.audit.log.epochs import epochs_of
from tests.faults.effort import SEED, effort
from tests.faults.forked import fork
from tests.faults.load import Load
from tests.faults.oracle import Oracle
from tests.faults.recorder_process import KEY, client_of, settings_in

ROUNDS = effort(16, 2000)
ROUNDS_OF_EPOCHS = effort(16, 500)


@pytest.mark.slow
@pytest.mark.timeout(60 + 10 * ROUNDS)
@pytest.mark.parametrize(("records", "kills"), [(0, ROUNDS), (100, ROUNDS_OF_EPOCHS)], ids=["one epoch", "many epochs"])
async def test_nothing_acknowledged_is_lost_however_often_the_recorder_is_killed(tmp_path, records, kills, counted):
    rounds = random.Random(SEED)
    settings = settings_in(tmp_path, publish_every_ms=15, heartbeat_ms=40, epoch_records_max=records)
    oracle = Oracle()
    client = client_of(settings)
    recorder = fork(settings).wait_ready()
    await client.connect()
    load = Load(client, oracle, in_flight=8)
    load.start()
    for _ in range(kills):
        await load.wait_for(rounds.randrange(1, 60))
        if rounds.random() < 0.5:  # else at once, while what was acknowledged is as young as can be
            await asyncio.sleep(rounds.random() * 0.03)  # anywhere within a commit or a publication
        assert not oracle.given_twice
        recorder.kill()
        oracle.saw_checkpoint(settings.directory)
        recorder = await asyncio.to_thread(fork(settings).wait_ready)
    await load.wait_for(20)
    load.stop()
    await client.close()
    assert recorder.stop() == 0, recorder.errors
    assert {failed.reason for failed in load.failed} <= {"recorder_gone"}
    assert len(oracle.acknowledged) > kills
    oracle.check(settings.directory)
    epochs = len(epochs_of(settings.directory, KEY.verifier))
    assert (epochs > 1) == bool(records)
    counted("kill -9", rounds=kills, epochs=epochs, acknowledged=len(oracle.acknowledged), lost=0)


def test_the_long_run_of_the_makefile_is_long():
    makefile = Path(__file__).parents[2] / "Makefile"
    recipe = makefile.read_text().partition("test-faults:")[2].partition("\n\n")[0]
    assert "STOCKADE_FAULTS=full " in recipe  # the name and the word that `effort` reads

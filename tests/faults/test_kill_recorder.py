"""kill -9 of the recorder at random moments under load: nothing acknowledged is lost, it starts again alone."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.faults.effort import SEED, effort
from tests.faults.load import Load
from tests.faults.oracle import Oracle
from tests.faults.recorder_process import client_of, launch, settings_in

ROUNDS = effort(16, 2000)


@pytest.mark.slow
@pytest.mark.timeout(60 + 10 * ROUNDS)
async def test_nothing_acknowledged_is_lost_however_often_the_recorder_is_killed(tmp_path: Path, counted):
    rounds = random.Random(SEED)
    settings = settings_in(tmp_path, publish_every_ms=15, heartbeat_ms=40)
    oracle = Oracle()
    client = client_of(settings)
    recorder = launch(settings).wait_ready()
    await client.connect()
    load = Load(client, oracle, in_flight=8)
    load.start()
    for _ in range(ROUNDS):
        await load.wait_for(rounds.randrange(1, 60))
        await asyncio.sleep(rounds.random() * 0.03)  # anywhere within a commit or a publication
        recorder.kill()
        oracle.saw_checkpoint(settings.directory)
        recorder = launch(settings)
    await load.wait_for(20)
    load.stop()
    await client.close()
    assert recorder.stop() == 0, recorder.errors
    assert {failed.reason for failed in load.failed} <= {"recorder_gone"}
    assert len(oracle.acknowledged) > ROUNDS
    oracle.check(settings.directory)
    counted("kill -9", rounds=ROUNDS, acknowledged=len(oracle.acknowledged), lost=0)


def test_the_long_run_of_the_makefile_is_long():
    makefile = Path(__file__).parents[2] / "Makefile"
    recipe = makefile.read_text().partition("test-faults:")[2].partition("\n\n")[0]
    assert "STOCKADE_FAULTS=full " in recipe  # the name and the word that `effort` reads

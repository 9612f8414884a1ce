"""kill -9 of the recorder at random moments under load: nothing acknowledged is lost, it starts again alone."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.faults.load import Load
from tests.faults.oracle import Oracle
from tests.faults.recorder_process import client_of, launch, settings_in

ROUNDS = int(os.environ.get("STOCKADE_KILL_ROUNDS", "16"))
SEED = int(os.environ.get("STOCKADE_KILL_SEED", "1"))


@pytest.mark.slow
@pytest.mark.timeout(60 + 10 * ROUNDS)
async def test_nothing_acknowledged_is_lost_however_often_the_recorder_is_killed(tmp_path: Path):
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


def test_the_long_run_of_the_makefile_is_long():
    makefile = Path(__file__).parents[2] / "Makefile"
    recipe = makefile.read_text().partition("test-faults:")[2].partition("\n\n")[0]
    asked = dict(word.split("=") for word in recipe.split() if word.startswith("STOCKADE_"))
    assert asked.keys() == {"STOCKADE_KILL_ROUNDS"}  # the name that is read above
    assert int(asked["STOCKADE_KILL_ROUNDS"]) > ROUNDS or "STOCKADE_KILL_ROUNDS" in os.environ

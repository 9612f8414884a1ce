"""kill -9 between the steps of an erasure: whatever was agreed is completed, and what was not has changed nothing."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ops.audit.errors import KeyMissing
from ops.audit.payloads.erasure import Erasures
from ops.audit.payloads.keys import KeyStore, traces
from ops.audit.reader.read import LogReader
from ops.audit.verify.verify import verify_log
from tests.faults.erasing import wanted
from tests.faults.recorder_process import KEY, ORIGIN, eventually, launch, settings_in

ROOT = Path(__file__).parents[2]
RECORD = bytes(16)
STEPS = {  # where it is killed -> (state, keys left, entries of it in the log) before it is completed
    "intended": ("approved", 1, 0),
    "deleted": ("deleting", 0, 0),
    "destroyed": ("destroyed", 0, 0),
    "recorded": ("destroyed", 0, 1),
}


class Scene:
    """A recorder that runs, a key database, and processes that are killed."""

    def __init__(self, home: Path) -> None:
        self.home, self.database = home, home / "keys.sqlite"
        self.settings = settings_in(home)
        self.keys = KeyStore(self.database, bytes(32), origin=ORIGIN)
        self.erasures = Erasures(self.database)
        launch(self.settings).wait_ready()

    def run(self, do: str, number: int = 0, point: str = "") -> int:
        words = [self.home, self.database, do, str(number), point]
        return subprocess.run([sys.executable, "-m", "tests.faults.erasing", *words], cwd=ROOT, check=False).returncode

    def entries(self, kind: str, **named: str) -> list[dict]:
        reader = LogReader.open(self.settings.directory, KEY.verifier)
        found = map(json.loads, reader.entries(0, reader.checkpoint.size))
        return [one for one in found if one["kind"] == kind and named.items() <= one.items()]

    async def logged(self, kind: str, count: int, **named: str) -> None:
        """Wait until the public log has so many."""
        await eventually(lambda: len(self.entries(kind, **named)) >= count)

    def close(self) -> None:
        self.keys.close()
        self.erasures.close()


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(240)
async def test_what_was_agreed_is_completed_wherever_it_was_cut_short(scene):
    sealed = {}
    for number in range(len(STEPS) + 1):
        subject = wanted(number).subject
        sealed[number] = scene.keys.seal("store-7", subject, "2026-11", RECORD, "request", b"plain")
    db = sqlite3.connect(scene.database)
    secrets = {key.hex(): secret for key, secret in db.execute("SELECT reference, wrapped FROM data_key")}
    db.close()
    for number, (point, (state, left, entries)) in enumerate(STEPS.items()):
        scene.erasures.request(wanted(number))
        secret = secrets[sealed[number].key_ref]
        assert scene.run("approve", number, point) == -9, point
        found = scene.erasures.erasure(wanted(number).id)
        assert (found.state, traces(scene.database, [secret])) == (state, 2 * left), point
        if entries:
            await scene.logged("erasure", entries, erasure=found.id)
        assert len(scene.entries("erasure", erasure=found.id)) == entries, point
        assert scene.run("finish") == 0
        assert (scene.erasures.unfinished(), traces(scene.database, [secret])) == ([], 0), point
        with pytest.raises(KeyMissing):
            opened(scene, sealed[number])
        await scene.logged("erasure", entries + 1, erasure=found.id)
        (first, *_) = scene.entries("erasure", erasure=found.id)
        assert (first["keys"], first["subject"]) == ([sealed[number].key_ref], wanted(number).pseudonym)
        assert scene.run("finish") == 0
    assert opened(scene, sealed[len(STEPS)]) == b"plain"
    assert len(scene.entries("erasure")) == len(STEPS) + 1, "only the one that was cut short after its entry has two"
    assert verify_log(scene.settings.directory, [str(KEY.verifier)], processes=0).exit_code == 0


@pytest.mark.timeout(120)
async def test_a_hold_that_was_cut_short_holds_and_is_recorded_later(scene):
    scene.keys.seal("store-7", wanted(0).subject, "2026-11", RECORD, "request", b"plain")
    assert scene.run("place", 0, "held") == -9
    assert len(scene.erasures.holds(unrecorded=True)) == 1
    assert scene.run("finish") == 0
    assert (len(scene.erasures.holds()), scene.erasures.holds(unrecorded=True)) == (1, [])
    await scene.logged("hold", 1, action="placed")


def opened(scene, sealed) -> bytes:
    return scene.keys.open(sealed.key_ref, RECORD, "request", sealed.ciphertext, sealed.commitment)

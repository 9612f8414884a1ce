"""A worker that starts again has not forgotten who has nothing left."""

from __future__ import annotations

from pathlib import Path

import pytest

import gateway.host.ticker
from gateway.admission.snapshot import LimitsFile
from gateway.config.place import place_of
from tests.gateway.rig import image, open_rig, tiny_body, until

ONE = tiny_body(image(0.5))


def file_of(rig) -> Path:
    return place_of(rig.app.config).memory.with_name("worker-0.limits")


async def test_what_was_spent_is_still_spent_after_a_restart(made_site, tmp_path, monkeypatch):
    async with open_rig(made_site, tmp_path / "before") as before:
        for _ in range(2):
            assert (await before.ask(ONE, caller="rated")).reason == "OK"
        assert (await before.ask(ONE, caller="rated")).reason == "RATE_LIMITED"
    load = LimitsFile.load

    def left_here(file: LimitsFile) -> None:
        file._file.write_bytes(file_of(before).read_bytes())
        load(file)

    monkeypatch.setattr(LimitsFile, "load", left_here)
    async with open_rig(made_site, tmp_path / "after") as after:
        assert (await after.ask(ONE, caller="rated")).reason == "RATE_LIMITED"
        assert (await after.ask(ONE, caller="hasty")).reason == "OK"


@pytest.mark.parametrize("recorder", ["managed", "external"])
async def test_it_outlives_the_state_directory(made_site, tmp_path, recorder):
    """That may be deleted, and a pod begins with an empty one. A recorder's own directory is not for workers."""
    async with open_rig(made_site, tmp_path, config=lambda config: config["audit"].update(recorder=recorder)) as rig:
        assert (await rig.ask(ONE, caller="rated")).reason == "OK"
    audit, state = rig.app.config.audit, rig.app.config.state_dir
    home = audit.key_database.parent if recorder == "external" else audit.state_directory
    assert b"principal-requests/rated" in (home / "worker-0.limits").read_bytes()
    assert list(state.rglob("*.limits")) == []


async def test_it_is_written_while_the_worker_runs_and_the_worker_does_without(made_site, tmp_path, monkeypatch):
    monkeypatch.setattr(gateway.host.ticker, "TICK_S", 0.01)
    async with open_rig(made_site, tmp_path) as rig:
        assert (await rig.ask(ONE, caller="rated")).reason == "OK"
        await until(lambda: file_of(rig).exists() and b"principal-requests/rated" in file_of(rig).read_bytes())
        rig.app.limits_file._file = tmp_path / "nowhere" / "file"
        await until(lambda: "limits-not-kept" in rig.stderr.getvalue())
        assert (await rig.ask(ONE, caller="rated")).reason == "OK"

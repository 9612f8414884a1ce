"""What ends a host at once, and what it waits out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import grpc
import pytest

from ops.audit.errors import ForkRefused, LogCorrupted, RecorderError
from ops.audit.log.checkpoint import SignerKey
from tests.e2e.caller import calling, infer_body
from tests.e2e.running import serving, until
from tests.e2e.site import copy_site


@pytest.fixture
def site(made_site, tmp_path):
    return copy_site(made_site, tmp_path / "site")


def test_a_worker_that_starts_while_the_recorder_is_away_is_started_again(site):
    site.change_config(lambda document: document["audit"].update(append_timeout="200ms"))
    with serving(site) as running:
        recorder = running.pid_of("recorder")
        os.kill(recorder, signal.SIGSTOP)
        try:
            running.kill("worker-0")
            until(lambda: ends(running.events(), "worker-0", 75), "no worker gave up waiting")
        finally:
            os.kill(recorder, signal.SIGCONT)
        with calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
            until(lambda: caller.infer(infer_body()).code is grpc.StatusCode.OK, "no worker came back")


def ends(events, child: str, code: int) -> list[dict]:
    return [
        event
        for event in events
        if (event["event"], event.get("child"), event.get("exit_code")) == ("child-ended", child, code)
    ]


@pytest.fixture(scope="module")
def grown(made_site, tmp_path_factory):
    """A site whose log has grown since a copy of it was made."""
    site = copy_site(made_site, tmp_path_factory.mktemp("grown") / "site")
    with serving(site) as running:
        until(running.entries, "no checkpoint")
    for name in ("log", "recorder"):
        shutil.copytree(site.directory / name, site.directory / f"{name}.old")
    with serving(site) as running:
        size = len(running.entries())
        until(lambda: len(running.entries()) > size, "the log does not grow")
    shutil.rmtree(site.directory / "state")  # made at each start
    return site


def damage(site) -> None:
    (site.log / "checkpoint").write_text("what is this")


def roll_back(site) -> None:
    for name in ("log", "recorder"):
        shutil.rmtree(site.directory / name)
        (site.directory / f"{name}.old").rename(site.directory / name)


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [(damage, LogCorrupted, "the checkpoint does not verify"), (roll_back, ForkRefused, "an older copy was put back")],
    ids=["damaged", "rolled back"],
)
def test_a_log_that_nobody_can_go_on_with_ends_the_host_at_once(grown, tmp_path, spoil, error, sentence):
    site = copy_site(grown, tmp_path / "site")
    spoil(site)
    command = [sys.executable, "-m", "gateway", "serve", str(site.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    *lines, last = done.stderr.splitlines()
    events = [json.loads(line) for line in lines]
    started = [event["child"] for event in events if event["event"] == "child-started"]
    assert (done.returncode, done.stdout, started) == (2, "", ["recorder"])
    assert [event["error"] for event in events if event["event"] == "recorder-failed"] == [error.__name__]
    assert f"recorder ended with exit code {error.exit_code}: " in last
    assert sentence in last


def of_another_log(site) -> str:
    (site.directory / "keys/log.key").write_text(SignerKey("another.test/log", bytes(32)).secret())
    return "the signing key is that of another.test/log"


def gone(site) -> str:
    (site.directory / "keys/log.key").unlink()
    return "keys/log.key: No such file or directory"


@pytest.mark.parametrize("spoil", [of_another_log, gone])
def test_a_recorder_that_refuses_its_settings_ends_the_host_at_once_with_its_words(site, spoil):
    sentence = spoil(site)
    command = [sys.executable, "-m", "gateway", "serve", str(site.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    *lines, last = done.stderr.splitlines()
    started = [event["child"] for event in map(json.loads, lines) if event["event"] == "child-started"]
    assert (done.returncode, done.stdout, started) == (2, "", ["recorder"])
    assert f"recorder ended with exit code {RecorderError.exit_code}: " in last
    assert sentence in last

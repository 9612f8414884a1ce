"""The policy is edited while the recorder is away: the host stays up, and says it in the log when it can."""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.running import serving, until
from tests.e2e.site import copy_site


@pytest.fixture(scope="module")
def running(made_site, tmp_path_factory):
    site = copy_site(made_site, tmp_path_factory.mktemp("edited") / "site")
    site.change_config(lambda document: document["audit"].update(append_timeout="200ms"))
    with serving(site) as running:
        yield running


@pytest.mark.parametrize(("sign", "outcome"), [(False, "rejected"), (True, "loaded")])
def test_what_becomes_of_the_edit_is_recorded_later(running, sign, outcome):
    until(lambda: told(running, "loaded"), "the start is not in the log")
    before, missed = len(told(running, outcome)), not_recorded(running)
    recorder = running.pid_of("recorder")
    os.kill(recorder, signal.SIGSTOP)
    try:
        running.site.change_policy(lambda policy: None, sign=sign)
        running.process.send_signal(signal.SIGHUP)  # the watcher would wait for a signature
        until(lambda: not_recorded(running) > missed, "nobody noticed")
    finally:
        os.kill(recorder, signal.SIGCONT)
    until(lambda: len(told(running, outcome)) > before, "it is not in the log")


def not_recorded(running) -> int:
    return [event["event"] for event in running.events()].count("entry-not-recorded")


def told(running, outcome: str) -> list[dict]:
    return [entry for entry in running.entries() if (entry["kind"], entry.get("outcome")) == ("policy", outcome)]

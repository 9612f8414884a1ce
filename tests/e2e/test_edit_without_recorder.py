"""The policy is edited while the recorder is away: the host stays up, and says it in the log when it can."""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.running import serving, until
from tests.e2e.site import copy_site


@pytest.mark.parametrize(("sign", "outcome"), [(False, "rejected"), (True, "loaded")])
def test_what_becomes_of_the_edit_is_recorded_later(made_site, tmp_path, sign, outcome):
    site = copy_site(made_site, tmp_path / "site")
    site.change_config(lambda document: document["audit"].update(append_timeout="200ms"))
    with serving(site) as running:
        until(running.entries, "no checkpoint")
        before = len(told(running, outcome))
        recorder = running.pid_of("recorder")
        os.kill(recorder, signal.SIGSTOP)
        try:
            site.change_policy(lambda policy: None, sign=sign)
            running.process.send_signal(signal.SIGHUP)  # the watcher would wait for a signature
            until(lambda: "entry-not-recorded" in [event["event"] for event in running.events()], "nobody noticed")
        finally:
            os.kill(recorder, signal.SIGCONT)
        until(lambda: len(told(running, outcome)) > before, "it is not in the log")


def told(running, outcome: str) -> list[dict]:
    return [entry for entry in running.entries() if (entry["kind"], entry.get("outcome")) == ("policy", outcome)]

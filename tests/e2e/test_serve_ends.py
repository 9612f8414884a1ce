"""What `stockade serve` ends with, and what an operator's command says to a running gateway."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import yaml

from gateway.policy.file import UNSIGNED_NS
from gateway.tools.init.init import init_directory
from ops.audit.errors import LogCorrupted
from tests.e2e.running import serving, until
from tests.e2e.site import copy_site


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "gateway", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def test_a_gateway_that_ran_and_cannot_go_on_ends_with_1(made_site, tmp_path):
    site = copy_site(made_site, tmp_path / "site")
    with serving(site, stop=False) as running:
        until(running.entries, "no checkpoint")
        (site.log / "checkpoint").write_text("what is this")
        running.kill("recorder")
        assert running.process.wait(60) == 1
        last = running.errors.read_text().splitlines()[-1]
    assert f"recorder ended with exit code {LogCorrupted.exit_code}" in last


@pytest.fixture(scope="module")
def served(made_site, tmp_path_factory):
    """A gateway whose server certificate is of one authority and whose clients' are of another."""
    site = copy_site(made_site, tmp_path_factory.mktemp("other") / "site")
    site.change_config(lambda document: document["listen"].update(admin="127.0.0.1:0"))
    other = site.directory.with_name("authority")
    init_directory(other, now=datetime.now(UTC), random_bytes=os.urandom)
    for name in ("server.crt", "server.key"):
        shutil.copy(other / "tls" / name, site.directory / "tls" / name)
    with serving(site) as running:
        until(running.entries, "no checkpoint")
        document = yaml.safe_load(site.config.read_text())  # the commands ask the file which port it is
        document["listen"]["admin"] = running.facts["admin"]
        site.config.write_text(yaml.safe_dump(document))
        yield running, other / "tls/ca.crt"


def test_reload_says_whose_certificate_it_wanted_and_takes_the_right_one(served):
    running, authority = served
    site = running.site
    refused = command("policy", "reload", site.config)
    assert refused.returncode == 2
    assert f"the server's certificate is not of {site.directory / 'tls/ca.crt'}" in refused.stderr
    done = command("policy", "reload", site.config, "--ca", authority)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"in force: {running.facts['policy']}" in done.stdout
    told = json.loads(command("policy", "reload", site.config, "--ca", authority, "--json").stdout)
    same = running.facts["policy"]
    assert told == {"accepted": True, "digest": same, "previous_digest": same, "problem": ""}


def test_an_unsigned_edit_is_recorded_once(served):
    running, authority = served
    site = running.site
    before = site.policy.read_bytes()
    site.change_policy(lambda policy: None, sign=False)
    long_ago = site.policy.stat().st_mtime_ns - UNSIGNED_NS
    os.utime(site.policy, ns=(long_ago, long_ago))  # else its signature is waited for
    refusal = ("policy", "rejected")

    def refusals() -> list[dict]:
        return [entry for entry in running.entries() if (entry["kind"], entry.get("outcome")) == refusal]

    until(refusals, "the watcher did not see it")
    asked = command("policy", "reload", site.config, "--ca", authority)
    assert (asked.returncode, "was not signed" in asked.stderr) == (1, True)
    for_machines = command("policy", "reload", site.config, "--ca", authority, "--json")
    told = json.loads(for_machines.stdout)
    assert (for_machines.returncode, told["accepted"], "was not signed" in told["problem"]) == (1, False, True)
    site.policy.write_bytes(before)
    done = command("policy", "reload", site.config, "--ca", authority)
    assert done.returncode == 0

    def asks() -> list[dict]:
        return [entry for entry in running.entries() if entry.get("method", "").endswith("ReloadPolicy")]

    until(lambda: len(asks()) >= 2, "the calls are not in the log")
    assert len(refusals()) == 1

"""`stockade keys` and what else changes the policy, for people and as JSON."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime

import pytest
import yaml

from gateway.auth.api_key import key_mac
from gateway.cli import main as cli
from gateway.tools.init.init import init_directory


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    target = tmp_path_factory.mktemp("keys") / "gateway"
    init_directory(target, now=datetime.now(UTC), random_bytes=os.urandom)
    return target


@pytest.fixture
def at(made, tmp_path):
    return shutil.copytree(made, tmp_path / "gateway")


@pytest.fixture
def run(capsys):
    def main(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(each) for each in arguments])
        except SystemExit as stopped:
            code = stopped.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return main


def add(run, at, key_id="kiosk-7-b", *more):
    return run("keys", "add", at / "stockade.yaml", key_id, "--out", at / "new.key", *more)


def test_a_key_and_what_to_put_into_the_policy(run, at):
    code, entry, said = add(run, at, "kiosk-7-b", "--days", "1")
    assert code == 0
    key = (at / "new.key").read_text().strip()
    entry = yaml.safe_load(entry)
    assert entry["hmac"] == key_mac((at / "keys/pepper").read_bytes(), key).hex()
    assert entry["id"] == key.partition(".")[0] == "kiosk-7-b"
    assert str(at / "new.key") in said
    assert "warning" not in said


@pytest.mark.parametrize("days", ["-5", "0", "3651", "99999999", "x"])
def test_days_that_no_key_is_good_for(run, at, days):
    code, _, said = add(run, at, "kiosk-7-b", f"--days={days}")
    assert code == 2
    assert f"--days: {days!r} is not a whole number from 1 to 3650" in said
    assert not (at / "new.key").exists()


def test_a_key_for_as_long_as_one_may_be_good(run, at):
    assert add(run, at, "kiosk-7-b", "--days", "3650")[0] == 0


def test_an_id_that_is_taken(run, at):
    code, _, said = add(run, at, "batch-1-a")
    assert (code, "batch-1-a is the id of a key of batch-1 already" in said) == (2, True)
    assert not (at / "new.key").exists()


def test_with_a_policy_that_is_being_edited_it_says_that_it_did_not_look(run, at):
    (at / "policy.yaml").write_text("principals: {")
    code, entry, said = add(run, at, "batch-1-a")
    assert (code, yaml.safe_load(entry)["id"]) == (0, "batch-1-a")
    assert "warning: whether the id is new was not seen: " in said


def test_added_for_machines(run, at):
    code, said, errors = add(run, at, "kiosk-7-b", "--json")
    told = json.loads(said)
    assert (code, errors, sorted(told)) == (0, "", ["entry", "expires", "file", "id"])
    assert told["file"] == str(at / "new.key")
    assert yaml.safe_load(told["entry"])["id"] == told["id"] == "kiosk-7-b"
    assert (at / "new.key").read_text().strip().partition(".")[2] not in said


def test_a_logs_key_for_machines(run, tmp_path):
    code, said, _ = run("keys", "log", "example.org/gateway-2", "--out", tmp_path / "log.key", "--json")
    vkey = (tmp_path / "log.vkey").read_text().strip()
    expected = {"origin": "example.org/gateway-2", "file": str(tmp_path / "log.key"), "vkey": vkey}
    assert (code, json.loads(said)) == (0, expected)


def test_signed_for_machines(run, at):
    code, said, _ = run("policy", "sign", at / "stockade.yaml", "--json")
    told = json.loads(said)
    assert (code, told["file"], told["revision"], len(told["digest"])) == (0, str(at / "policy.yaml"), 1, 64)

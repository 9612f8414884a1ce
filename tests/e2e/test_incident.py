"""An incident from its first sign to the way back: named, read from the log, taken back, reviewed, closed."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from gateway.cli.main import main
from tests.e2e.caller import calling, infer_body
from tests.e2e.running import serving, until, verified
from tests.e2e.site import copy_site
from tests.serving.tiny import tiny_sealed, write

NOISE = np.random.default_rng(5).random((1, 28, 28)).astype(np.float32)


@pytest.fixture
def site(made_site, tmp_path):
    site = copy_site(made_site, tmp_path / "site")
    write(tiny_sealed("2"), site.directory / "bundles/tiny/2")

    def capture(policy) -> None:
        policy["tenants"]["plenty"]["capture"] = policy["models"]["kiosk"]["capture"] = "flagged"

    site.change_policy(capture)
    return site


@pytest.fixture
def run(site, capsys):
    """Run a verb of `stockade` on the gateway that runs; returns what it printed."""

    def call(running, *arguments: object, code: int = 0) -> str:
        document = json.loads(site.config.read_text())
        document["listen"]["admin"] = running.facts["admin"]
        here = site.directory / "here.yaml"
        here.write_text(json.dumps(document))
        capsys.readouterr()
        words = [str(here) if each == "FILE" else str(each) for each in arguments]
        assert main(words) == code, capsys.readouterr()
        return capsys.readouterr().out

    return call


def ask(site, running, name: str, **fields):
    with calling(site, running.facts["data"], site.bearer(name)) as caller:
        return caller.infer(infer_body(fields.pop("rows", None), **fields))


def published(running, reply) -> int:
    """The index of a reply's entry, once it is public."""
    entry = running.entry(reply.request_id)
    return next(index for index, one in enumerate(running.entries()) if one["id"] == entry["id"])


def test_from_the_first_sign_to_the_way_back(site, run, tmp_path):
    before = tmp_path / "before.yaml"
    before.write_bytes(site.policy.read_bytes())
    with serving(site) as running:

        def served():
            return ask(site, running, "rival", model="tiny").message.model_version

        assert served() == "1"
        since = datetime.now(UTC).isoformat()  # after the start: what was in force is from before it
        site.change_policy(lambda policy: policy["models"]["tiny"].update(serve="2"))
        until(lambda: served() == "2", "the new version is not served")
        refused = ask(site, running, "plenty", rows=NOISE)
        assert refused.reason == "INPUT_REJECTED"
        at = published(running, refused)
        opening = ["--from", since, "--principal", "plenty", "--model", "tiny", "--reason", "noise, then nonsense"]
        name = json.loads(run(running, "incident", "open", "FILE", *opening, "--json"))["incident"]
        log = [site.log, "--vkey", site.vkey]
        until(lambda: name in run(running, "incident", "list", *log, "--json"), "the log does not know it")

        told = json.loads(run(running, "incident", "timeline", *log, "--incident", name, "--json"))
        found = {(one["tenant"], one["model"]): one for one in told["requests"]}
        assert found["plenty", "kiosk"]["verdicts"] == {"AML.T0015 evidence refuse": 1}
        assert found["plenty", "kiosk"]["entries"] == [at, at]
        assert {"policy", "operator", "incident"} <= {one["kind"] for one in told["happenings"]}
        assert ["tiny", "1"] in [[one["name"], one["version"]] for one in told["models_before"]]
        page = tmp_path / "report.md"
        run(running, "incident", "timeline", *log, "--incident", name, "--out", page)
        assert f"# Incident {name}" in page.read_text()
        run(running, "incident", "timeline", *log, "--incident", "inc-nothing", code=1)

        proposed = json.loads(run(running, "incident", "recover", "FILE", name, "--json"))
        assert [(step["act"], step["about"].partition("/")[0]) for step in proposed["steps"]] == [
            ("isolate", "plenty"),
            ("rollback", "tiny"),
        ]
        assert ask(site, running, "plenty").reason == "OK"
        kept = proposed["policy_before"]["why"].rpartition("--policy ")[2]  # the host has it still
        key = ["--key", site.directory / "keys/policy.key"]
        run(running, "incident", "recover", "FILE", name, "--apply", *key)
        assert ask(site, running, "plenty").reason == "ISOLATED"
        assert ask(site, running, "rated").reason == "OK"
        until(lambda: served() == "1", "the model did not go back")
        assert json.loads(run(running, "incident", "recover", "FILE", name, "--json"))["steps"] == []

        restored = json.loads(
            run(running, "incident", "recover", "FILE", name, "--policy", kept, "--apply", *key, "--json")
        )
        assert [step["act"] for step in restored["steps"]] == ["policy"]
        strange = tmp_path / "strange.yaml"
        strange.write_text(before.read_text().replace('"revision": ', '"revision": 7'))
        run(running, "incident", "recover", "FILE", name, "--policy", strange, code=2)

        run(running, "incident", "close", "FILE", name, "--reason", "the key was changed")

        def acts():
            return [entry for entry in running.entries() if entry.get("incident") == name]

        until(lambda: acts()[-1].get("action") == "closed", "it is not closed")
        assert [(entry["kind"], entry["action"]) for entry in acts()] == [
            ("incident", "opened"),
            ("isolation", "isolated"),
            ("incident", "noted"),
            ("incident", "noted"),
            ("incident", "closed"),
        ]
        assert [entry["detail"]["act"] for entry in acts() if "detail" in entry] == ["rollback", "policy"]
        policies = [entry for entry in running.entries() if entry["kind"] == "policy"]
        assert {entry["outcome"] for entry in policies} == {"loaded"}
    assert verified(site).exit_code == 0


def test_what_a_screen_found_is_reviewed_once_and_outlives_a_restart(site, run, tmp_path):
    with serving(site) as running:
        replies = [ask(site, running, "plenty", rows=NOISE, id=str(number)) for number in range(2)]
        ask(site, running, "plenty")
        first, second = (published(running, reply) for reply in replies)

        def listed(*more):
            return json.loads(run(running, "quarantine", "list", "FILE", "--json", *more))["items"]

        until(lambda: len(listed()) == 2, "it was not found")
        assert [int(one["entry"]) for one in listed()] == [second, first]
        assert listed()[0]["found"][0].startswith("evidence refuse p=0.00")
        kept = tmp_path / "request.bin"
        run(running, "quarantine", "show", "FILE", first, "--payload", kept)
        assert kept.read_bytes() == infer_body(NOISE, id="0")
        run(running, "quarantine", "reject", "FILE", first, "--reason", "noise")
        run(running, "quarantine", "release", "FILE", first, second, "--reason", "all of it", code=1)
        assert [one["state"] for one in listed("--state", "all")] == ["waiting", "rejected"]
        until(lambda: [entry for entry in running.entries() if entry["kind"] == "quarantine"], "not published")
        (entry,) = [entry for entry in running.entries() if entry["kind"] == "quarantine"]
        assert (entry["action"], entry["entry"], entry["subject"]) == ("rejected", first, replies[0].request_id)
        run(running, "quarantine", "show", "FILE", 0, code=2)
    with serving(site) as running:
        assert [int(one["entry"]) for one in listed()] == [second]
        run(running, "quarantine", "release", "FILE", second, "--reason", "a test card of ours")
        assert listed() == []
        assert "2 rejected by" not in run(running, "quarantine", "list", "FILE", "--state", "all")

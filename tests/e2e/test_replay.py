"""`stockade audit replay` on the log of a real gateway: all of it comes out again; what would be otherwise is exact."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml

from gateway.cli.main import main
from gateway.tools.operator import ask
from gateway.tools.replay.history import DECISIONS
from gateway.tools.samples import bundles_directory
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.log.entry import canonical
from ops.audit.log.merkle import range_root
from ops.audit.log.tiles import node_from
from ops.audit.payloads.keys import KeyStore
from ops.audit.reader.read import LogReader
from stockade.open_inference.grpc_service_pb2 import ModelInferResponse
from stockade.v1 import admin_pb2
from tests.e2e.caller import INFER, calling, images, infer_body
from tests.e2e.running import serving, until
from tests.e2e.site import copy_site
from tests.ops.audit.open_log import VKEY, open_log
from tests.watching import around

REQUESTS = 200  # so that none of its refusals comes so often that they are summed
FIELDS = ("request", "response")
CALLERS = ("rated", "costly", "onlooker", "rival")  # who meet a limit, or have no right


@pytest.fixture(scope="module")
def site(made_site, tmp_path_factory):
    """A gateway that has answered and refused in many ways, from several connections at once, and has stopped."""
    site = copy_site(made_site, tmp_path_factory.mktemp("replay") / "site")

    def capture(policy) -> None:
        kiosk = policy["models"]["kiosk"]
        kiosk["capture"] = policy["tenants"]["plenty"]["capture"] = "all"
        kiosk["outputs"] = [*kiosk["outputs"], "latent"]
        kiosk["rotate"] = ["latent"]

    site.change_policy(capture)
    noise = np.random.default_rng(7).random((REQUESTS, 28, 28), np.float32)

    def call(number: int) -> str:
        rows = images()[number : number + 1 + number % 3]
        if number % 20 < len(CALLERS):
            return caller.ask(INFER, infer_body(images()[:1]), metadata=site.bearer(CALLERS[number % 20])).reason
        if number % 20 == 7:
            return caller.infer(infer_body(images()[:1, :27])).reason
        if number % 20 in {8, 9}:
            rows = noise[number : number + 1]
        return caller.infer(infer_body(rows, version="1" if number % 2 else "")).reason

    with (
        serving(site) as running,
        calling(site, running.facts["data"], site.bearer("plenty")) as caller,
        ThreadPoolExecutor(8) as pool,
    ):
        reasons = Counter(pool.map(call, range(REQUESTS)))
    (site.directory / "state/recorder.sock").unlink(missing_ok=True)  # it cannot be copied
    assert {"OK", "INPUT_REJECTED", "RATE_LIMITED", "METHOD_FORBIDDEN", "MODEL_UNKNOWN"} <= reasons.keys()
    return site


def replay(capsys, *arguments: object) -> tuple[int, dict]:
    code = main(["audit", "replay", *map(str, arguments), "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else {"error": said.err}


def entries_of(site) -> list[dict]:
    reader = LogReader.open(site.log, parse_vkey(site.vkey))
    return [json.loads(data) for data in reader.entries(0, reader.checkpoint.size)]


def forged(site, home: Path, change) -> Path:
    """A log that verifies, whose gateway lied: the requests' entries, changed, under a key of its own."""
    with open_log(home) as log:
        for entry in entries_of(site):
            if entry["kind"] in {"served", "refused", "failed"} and "method" in entry:
                entry.pop("payload", None)
                change(entry)
                log.append([canonical(entry)])
        log.publish()
        return log.directory


def test_all_of_it_comes_out_again(site, capsys):
    code, said = replay(capsys, site.directory)
    steps = said["steps"]
    assert (code, said["requests"], said["differences"]) == (0, REQUESTS, [])
    assert {name: step["differs"] for name, step in steps.items()} == dict.fromkeys(steps, 0)
    entries = [entry for entry in entries_of(site) if "method" in entry]
    judged = [entry for entry in entries if "batch" in entry]
    served = sum(entry["kind"] == "served" for entry in entries)
    assert steps["identity"]["equal"] == steps["right"]["equal"] == REQUESTS
    assert steps["limits"]["equal"] == sum(len(entry.get("limits", ())) for entry in entries)
    assert [steps[name]["equal"] for name in ("screens", "decision", "scores")] == [len(judged)] * 3
    assert (steps["output"]["equal"], steps["output"]["within"]) == (served, 0)
    assert any(entry["batch"]["size"] > 1 for entry in judged)


def test_what_a_replay_came_to_is_recorded_by_the_gateway_whose_log_it_was(made_site, tmp_path, capsys):
    served = copy_site(made_site, tmp_path / "served")
    with serving(served) as running, calling(served, running.facts["data"], served.bearer("plenty")) as caller:
        assert {caller.infer(infer_body(images()[:1])).reason for _ in range(3)} == {"OK"}
        until(lambda: sum(entry["kind"] == "served" for entry in entries_of(served)) == 3, "three answers in the log")
        document = json.loads(served.config.read_text())
        document["listen"]["admin"] = running.facts["admin"]
        here = served.directory / "here.yaml"
        here.write_text(json.dumps(document))
        operator = served.directory / "clients/operator.tls"
        told = ("--config", here, "--identity", operator, "--record")
        code, said = replay(capsys, served.directory, *told, "--decisions-only")
        assert (code, said.get("differences")) == (0, []), said
        until(lambda: "replay-result" in [entry["kind"] for entry in entries_of(served)], "the result in the log")
        (found,) = [entry for entry in entries_of(served) if entry["kind"] == "replay-result"]
        reader = LogReader.open(served.log, parse_vkey(served.vkey))
        root = range_root(0, found["size"], node_from(reader.hashes))
        assert (found["level"], found["differing"], found["root"]) == ("R1", 0, root.hex())
        assert found["checked"] == sum(said["steps"][name]["equal"] for name in DECISIONS)
        assert "operator" in found["administrator"]
        claim = admin_pb2.RecordReplayRequest(origin=reader.checkpoint.origin, size=found["size"], root=bytes(32))
        claim.levels.add(level="R1", checked=1)
        body = ask("RecordReplay", claim.SerializeToString(), here, identity=operator, authority=None)
        assert "no such tree" in admin_pb2.RecordReplayResponse.FromString(body).problem


def test_replaying_writes_nothing_where_the_keys_are(site, capsys):
    before = (site.directory / "keys/payload.db").read_bytes()
    replay(capsys, site.directory)
    assert (site.directory / "keys/payload.db").read_bytes() == before


def test_a_threshold_that_is_another_changes_exactly_what_it_should(site, tmp_path, capsys):
    policy = yaml.safe_load(site.policy.read_text())
    policy["models"]["kiosk"]["screens"]["evidence"] |= {"flag": 0.2, "refuse": 0.15}
    (tmp_path / "other.yaml").write_text(json.dumps(policy, default=str))
    code, said = replay(capsys, site.directory, "--decisions-only", "--policy", tmp_path / "other.yaml")
    screens = {index: entry["screens"][0] for index, entry in enumerate(entries_of(site)) if "screens" in entry}
    # The bundle's calibration has 10,000 rows: the levels that keep these rates are ranks of it.
    flag, refuse = (level(site, rate) for rate in (0.2, 0.15))
    now = {
        at: "refuse" if s["p_micro"] <= refuse else "flag" if s["p_micro"] <= flag else "pass"
        for at, s in screens.items()
    }
    expected = {at for at, verdict in now.items() if verdict != screens[at]["verdict"]}
    assert (code, len(expected) > 3) == (0, True)
    assert {change["index"] for change in said["otherwise"]["listed"]} == expected
    assert {change["cause"] for change in said["otherwise"]["listed"]} == {"evidence"}
    assert said["otherwise"]["by_model"] == {"kiosk/1": len(expected)}
    assert said["otherwise"]["same"] == REQUESTS - len(expected)


def level(site, rate: float) -> float:
    from defenses.screens.evidence import load_evidence
    from serving.bundles.bundle import load_bundle

    bundle = load_bundle(site.directory / "bundles/kiosk/1", [bundles_directory() / "stockade-release.pub"])
    return load_evidence(bundle.calibration).calibration.level(rate) * 1_000_000


def test_other_rights_and_limits_change_exactly_what_they_should(site, tmp_path, capsys):
    policy = yaml.safe_load(site.policy.read_text())
    policy["limits"]["two-requests"]["request_burst"] = 3
    policy["principals"]["rival"]["roles"] = ["onlooker"]
    del policy["principals"]["onlooker"]
    (tmp_path / "other.yaml").write_text(json.dumps(policy, default=str))
    _, said = replay(capsys, site.directory, "--decisions-only", "--policy", tmp_path / "other.yaml")
    kinds = said["otherwise"]["by_kind"]
    per_caller = REQUESTS // 20
    assert kinds == {
        "refuse RATE_LIMITED → admitted": 1,  # the third of `rated`
        "refuse MODEL_UNKNOWN → refuse METHOD_FORBIDDEN": per_caller,
        "refuse METHOD_FORBIDDEN → refuse CREDENTIAL_INVALID": per_caller,
    }


def test_another_version_is_run_on_what_was_kept(site, tmp_path, capsys):
    other = copy_site(site, tmp_path / "site")
    shutil.copytree(bundles_directory() / "kiosk/2", other.directory / "bundles/kiosk/2")
    page = tmp_path / "page.html"
    code, said = replay(capsys, other.directory, "--model", "kiosk=2", "--where", "kind=served", "--page", page)
    assert (code, said["otherwise"]["unknown"]) == (0, {})
    assert "class" in said["otherwise"]["by_cause"]
    assert said["otherwise"]["same"] > said["otherwise"]["total"] > 0
    shown = page.read_text()
    assert shown.count("<td>class<") == 1 + said["otherwise"]["by_cause"]["class"]  # and its bar
    assert "http" not in shown
    assert "<script" not in shown
    code, said = replay(capsys, site.directory, "--model", "kiosk=9")
    assert (code, "no bundle of kiosk version '9'" in said["error"]) == (4, True)


LIES = [
    ("decision", lambda entry: entry["decision"] == "allow", lambda entry: entry.update(decision="flag")),
    ("screens", lambda entry: "screens" in entry, lambda entry: entry["screens"][0].update(threshold_micro=7)),
    ("screens", lambda entry: "screens" in entry, lambda entry: entry["screens"][0].update(verdict="flag")),
    ("right", lambda entry: entry["reason"] == "METHOD_FORBIDDEN", lambda entry: entry.update(reason="RATE_LIMITED")),
    ("route", lambda entry: entry["reason"] == "OK", lambda entry: entry["model"].update(version="7")),
    ("identity", lambda entry: entry["reason"] == "OK", lambda entry: entry["auth"].update(credential="somebody")),
    ("limits", lambda entry: entry["reason"] == "OK", lambda entry: entry["limits"][1].update(tokens=1)),
]


@pytest.mark.parametrize(("step", "wanted", "lie"), LIES, ids=[f"{at}-{lie[0]}" for at, lie in enumerate(LIES)])
def test_an_entry_that_does_not_follow_is_found_and_no_other(  # noqa: PLR0917  what is tampered with
    site, tmp_path, capsys, step, wanted, lie
):
    told: list[str] = []

    def change(entry) -> None:
        if not told and wanted(entry):
            lie(entry)
            told.append(entry["id"])

    log = forged(site, tmp_path / "forged", change)
    code, said = replay(capsys, log, "--vkey", VKEY, "--config", site.config, "--decisions-only")
    assert code == 1
    assert {difference["id"] for difference in said["differences"] if difference["step"] == step} == set(told)
    if step not in {"route", "limits"}:  # a model that is not here is not judged; what is spent follows from before
        assert {difference["id"] for difference in said["differences"]} == set(told)


def test_a_log_that_was_tampered_with_is_not_replayed(site, tmp_path, capsys):
    other = copy_site(site, tmp_path / "site")
    bundle = max((other.log / "tile/entries").glob("000.p/*"), key=lambda file: int(file.name))
    data = bundle.read_bytes()
    at = data.index(b'"decision":"allow"') + len('"decision":"')
    bundle.write_bytes(data[:at] + b"blame" + data[at + 5 :])
    code, said = replay(capsys, other.directory)
    assert (code, "R0" in said["error"]) == (1, True)


def test_what_cannot_be_compared_is_not_called_equal(site, tmp_path, capsys):
    """Neither the policy of the time nor the keys are here."""
    other = copy_site(site, tmp_path / "site")
    shutil.rmtree(other.directory / "state/policy")
    other.change_policy(lambda policy: policy["limits"]["unlimited"].update(in_flight=4095))
    (other.directory / "keys/payload.db").unlink()
    code, said = replay(capsys, other.directory)
    assert code == 2
    assert sum(step["equal"] for step in said["steps"].values()) == 0
    assert said["steps"]["decision"]["skipped"] == {"the policy is not at hand": REQUESTS}


@pytest.fixture(scope="module")
def watched(made_site, tmp_path_factory):
    """A gateway whose model has a watch and a budget, and whom somebody has searched; it has stopped."""
    site = copy_site(made_site, tmp_path_factory.mktemp("watched") / "site")
    shutil.rmtree(site.directory / "bundles/kiosk/1")
    shutil.copytree(bundles_directory() / "kiosk/3", site.directory / "bundles/kiosk/3")

    def guard(policy) -> None:
        steps = [{"alpha": 0.01, "answer": "neighbour"}, {"alpha": 0.0001, "answer": "top1"}]
        policy["tenants"]["plenty"]["capture"] = "all"
        policy["models"]["kiosk"] |= {
            "serve": "3",
            "capture": "all",
            "watch": {"mode": "enforce", "consistent": "enforce", "steps": steps},
            "budget": {"mode": "enforce", "queries_per_day": 5, "top1_after_days": 0.1},
        }

    site.change_policy(guard)
    search = around(images()[3], 1, 60)
    with serving(site) as running, calling(site, running.facts["data"], site.bearer("plenty")) as caller:
        for number in range(60):
            caller.infer(infer_body(images()[number : number + 1]))
            caller.infer(infer_body(search[number : number + 1]), metadata=site.bearer("archivist"))
    (site.directory / "state/recorder.sock").unlink(missing_ok=True)
    return site


def test_what_came_from_the_state_of_the_time_is_an_input_or_is_left_out_and_counted(watched, capsys):
    entries = [entry for entry in entries_of(watched) if "batch" in entry]
    decisions = Counter(entry["decision"] for entry in entries)
    assert decisions["neighbour"]
    assert decisions["top1"]
    code, said = replay(capsys, watched.directory)
    assert (code, said["differences"]) == (0, [])
    steps = said["steps"]
    assert steps["decision"]["equal"] == steps["screens"]["equal"] == len(entries)
    again = sum(entry["account"]["repeats"] > 0 and entry["kind"] == "served" for entry in entries)
    assert steps["output"]["skipped"]["an earlier answer was given again"] >= again
    assert steps["output"]["equal"] > 0
    assert steps["output"]["equal"] + sum(steps["output"]["skipped"].values()) == len(entries)


def test_a_watch_that_only_looks_on_would_have_answered(watched, tmp_path, capsys):
    policy = yaml.safe_load(watched.policy.read_text())
    policy["models"]["kiosk"]["watch"]["mode"] = policy["models"]["kiosk"]["budget"]["mode"] = "shadow"
    (tmp_path / "other.yaml").write_text(json.dumps(policy, default=str))
    _, said = replay(capsys, watched.directory, "--decisions-only", "--policy", tmp_path / "other.yaml")
    top1 = sum(entry["decision"] == "top1" for entry in entries_of(watched) if "batch" in entry)
    kinds = said["otherwise"]["by_kind"]
    assert sum(count for kind, count in kinds.items() if kind.startswith("top1 → ")) == top1
    assert set(said["otherwise"]["by_cause"]) == {"watch", "budget"}


@pytest.mark.parametrize(("off", "counted"), [(0.0, "equal"), (0.0005, "within"), (0.2, "differs")])
def test_an_answer_that_is_not_what_the_model_gives_is_found(site, tmp_path, capsys, off, counted):
    """The gateway sealed another answer than it computed; everything else of the entry is as it was."""
    index, entry = next(
        (at, entry)
        for at, entry in enumerate(entries_of(site))
        if entry["kind"] == "served" and entry["batch"]["size"] == 1 and entry["auth"]["credential"] == "plenty"
    )
    reader = LogReader.open(site.log, parse_vkey(site.vkey))
    keys = KeyStore(
        site.directory / "keys/payload.db", site.read("keys/payload-master.key"), origin=reader.checkpoint.origin
    )
    blobs = {name: reader.blob(index, bytes.fromhex(entry["payload"][name]["ciphertext_sha256"])) for name in FIELDS}
    record_id, said = bytes.fromhex(entry["id"]), entry["payload"]["response"]
    answer = keys.open(entry["payload"]["key"], record_id, "response", blobs["response"], said["commitment"])
    message = ModelInferResponse.FromString(answer)
    changed = np.frombuffer(message.raw_output_contents[0], np.float32).copy()
    changed[0] += np.float32(off)
    message.raw_output_contents[0] = changed.tobytes()
    month = datetime.fromtimestamp(int(entry["time_ns"]) / 1e9, UTC).strftime("%Y-%m")
    body = message.SerializeToString() if off else answer
    sealed = keys.seal("plenty", "plenty", month, record_id, "response", body)
    keys.close()
    said |= {"ciphertext_sha256": sealed.sha256, "commitment": sealed.commitment}
    with open_log(tmp_path / "forged") as log:
        log.append([canonical(entry)], [blobs["request"], sealed.ciphertext])
        log.publish()
        code, found = replay(capsys, log.directory, "--vkey", VKEY, "--config", site.config)
    assert found["steps"]["scores"]["equal"] == 1
    assert {name: found["steps"]["output"][name] for name in ("equal", "within", "differs")} == {
        name: int(name == counted) for name in ("equal", "within", "differs")
    }
    assert code == (counted == "differs")

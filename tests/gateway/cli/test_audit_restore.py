"""`stockade audit restore`: what it takes, what it says, and how it ends."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from pathlib import Path

import pytest

from gateway.cli.main import main
from ops.audit.log.checkpoint import Checkpoint, sign_note
from ops.audit.log.cosignature import COSIGN_ED25519, Cosigner
from ops.audit.log.trust_policy import TrustedWitness
from ops.audit.reader.read import LogReader
from ops.audit.verify.verify import verify_log
from ops.audit.witnesses.client import cosignature
from ops.audit.witnesses.witness import Witness, WitnessPage, WitnessStore
from tests.faults.recorder_process import KEY, ORIGIN, launch, settings_in
from tests.ops.audit.open_log import VKEY, open_log
from tests.ops.audit.samples import small

OK, TAMPERED, INCOMPLETE, SEALED, USAGE = 0, 1, 2, 3, 4


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`early` and `late`, copies of one log."""
    place = tmp_path_factory.mktemp("logs")
    with open_log(place / "home") as log:
        for name in ("early", "late"):
            log.append([small(number) for number in range(300)])
            log.publish()
            shutil.copytree(log.directory, place / name)
    return place


def run(capsys, *arguments: object) -> tuple[int, dict[str, object]]:
    code = main(["audit", "restore", *map(str, arguments), "--vkey", VKEY, "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else {"problem": said.err}


def test_a_whole_log_is_restored(logs, tmp_path, capsys):
    code, facts = run(capsys, "--from", logs / "late", "--out", tmp_path / "out")
    assert (code, facts["size"], facts["known_size"], facts["goes_on"]) == (OK, 601, 601, False)
    assert verify_log(tmp_path / "out/log", [VKEY], processes=0).exit_code == OK
    assert main(["audit", "restore", "--from", str(logs / "late"), "--out", str(tmp_path / "b"), "--vkey", VKEY]) == OK
    assert "does not grow any more" in capsys.readouterr().out


def test_it_goes_on_where_nothing_newer_is_known(logs, tmp_path, capsys):
    code, facts = run(capsys, "--from", logs / "late", "--out", tmp_path / "out", "--go-on")
    assert (code, facts["goes_on"]) == (OK, True)
    assert (tmp_path / "out/recorder/segments").is_dir()
    assert not (tmp_path / "out/recorder/sealed").exists()


def test_a_replica_is_restored_from_its_url(logs, tmp_path, capsys):
    url = (logs / "late").as_uri()
    code, facts = run(capsys, "--from", url, "--out", tmp_path / "out", "--go-on")
    assert (code, facts["size"], facts["checkpoint_from"], facts["goes_on"]) == (OK, 601, url, True)
    code, facts = run(
        capsys, "--from", "s3://nowhere/log", "--credentials", logs / "late/checkpoint", "--out", tmp_path
    )
    assert code == USAGE
    assert "not a JSON object" in facts["problem"]
    with socket.create_server(("127.0.0.1", 0)) as gone:
        endpoint = f"http://127.0.0.1:{gone.getsockname()[1]}"
    silent = ("--from", "s3://nowhere/log", "--endpoint", endpoint, "--credentials", tmp_path / "keys.json")
    (tmp_path / "keys.json").write_text('{"access_key_id": "a", "secret_access_key": "b"}')
    assert run(capsys, *silent, "--out", tmp_path / "none")[0] == INCOMPLETE


def test_less_than_is_known_is_restored_sealed_and_followed_by_another_log(logs, tmp_path, capsys):
    key = tmp_path / "next.key"
    assert main(["keys", "log", "example.test/next", "--out", str(key)]) == 0
    capsys.readouterr()
    seen = logs / "late/checkpoint"
    asked = ("--from", logs / "early", "--seen", seen, "--out", tmp_path / "out")
    code, facts = run(capsys, *asked, "--go-on")
    assert code == SEALED
    assert "601 entries were signed, 301 are here" in facts["problem"]
    code, facts = run(capsys, *asked, "--next", key)
    assert (code, facts["size"], facts["known_size"], facts["known_by"]) == (SEALED, 301, 601, [str(seen)])
    vkey = key.with_suffix(".vkey").read_text().strip()
    report = verify_log(tmp_path / "out/next/log", [vkey], processes=0)
    assert (report.exit_code, report.size) == (OK, 2)
    again = ("--from", logs / "early", "--out", tmp_path / "again", "--next", key)
    code, facts = run(capsys, *again)
    assert code == USAGE
    assert "this key has signed a log before" in facts["problem"]
    settings = settings_in(
        tmp_path / "host",
        origin="example.test/next",
        signing_key=key,
        directory=tmp_path / "out/next/log",
        state_directory=tmp_path / "out/next/recorder",
    )
    recorder = launch(settings)
    recorder.wait_ready()
    assert recorder.stop() == 0
    assert verify_log(tmp_path / "out/next/log", [vkey], processes=0).size > 2  # the recorder takes it over


@pytest.mark.parametrize("target", ["300", "2020-01-31T09:00:00Z", "early/checkpoint"])
def test_a_target_in_the_past(logs, tmp_path, capsys, monkeypatch, target):
    monkeypatch.chdir(logs)
    code, facts = run(
        capsys, "--from", "late", "--seen", "early/checkpoint", "--target", target, "--out", tmp_path / "out"
    )
    assert (code, facts["size"], facts["known_size"]) == (SEALED, 301, 601)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--target", "9000"], INCOMPLETE, "holds what is asked for"),
        (["--target", "soon"], USAGE, "is no index, no time"),
        (["--target", "٣"], USAGE, "is no index, no time"),
        (["--seen", "nowhere"], USAGE, "nowhere"),
    ],
)
def test_what_cannot_be_done_is_said(logs, tmp_path, capsys, arguments, code, words):  # noqa: PLR0917  pytest names them
    ended, facts = run(capsys, "--from", logs / "late", "--out", tmp_path / "out", *arguments)
    assert ended == code
    assert words in facts["problem"]


def test_a_fork_and_a_hole_are_told_apart(logs, tmp_path, capsys):
    fork = tmp_path / "fork"
    fork.write_bytes(sign_note(Checkpoint(ORIGIN, 100, bytes(32)).text(), [KEY]))
    code, facts = run(capsys, "--from", logs / "late", "--seen", fork, "--out", tmp_path / "one")
    assert code == TAMPERED
    assert "two histories" in facts["problem"]
    shutil.copytree(logs / "late", tmp_path / "hole")
    (tmp_path / "hole/tile/entries/000").unlink()
    code, facts = run(capsys, "--from", tmp_path / "hole", "--out", tmp_path / "two")
    assert code == INCOMPLETE
    assert "tile/entries/000" in facts["problem"]
    code, facts = run(capsys, "--from", logs / "early", "--from", tmp_path / "hole", "--out", tmp_path / "two")
    assert (code, facts["size"]) == (OK, 601)


def test_witnesses_are_asked_what_they_have_seen(logs, tmp_path, capsys):
    """And one that says nothing is told of: it may know more."""
    cosigner = Cosigner("w.test", COSIGN_ED25519, bytes(32))
    witness = Witness([cosigner], [KEY.verifier], WitnessStore(tmp_path / "store"), clock_s=lambda: 1_800_000_000)
    page = WitnessPage("127.0.0.1", 0, witness)
    serving = threading.Thread(target=page.serve_forever)
    serving.start()
    try:
        host, port = page.server_address[:2]
        policy = tmp_path / "policy"
        lines = [f"log {VKEY}", f"witness one {cosigner.key} http://{host}:{port}", "quorum none"]
        policy.write_text("\n".join(lines) + "\n")
        restore = ["audit", "restore", "--from", str(logs / "early"), "--policy", str(policy), "--json"]
        assert main([*restore, "--out", str(tmp_path / "a")]) == OK
        assert "HTTP 404: nothing of this log" in capsys.readouterr().err
        reader = LogReader.open(logs / "late", KEY.verifier)
        asked = TrustedWitness("one", cosigner.key, f"http://{host}:{port}")
        note = (logs / "late/checkpoint").read_bytes()
        cosignature(note, reader.checkpoint, asked, lambda old, _: reader.consistency_proof(old))
        assert main([*restore, "--out", str(tmp_path / "b")]) == SEALED
        assert json.loads(capsys.readouterr().out)["known_by"] == ["witness one"]
    finally:
        page.shutdown()
        serving.join()
        page.server_close()
    assert main([*restore, "--out", str(tmp_path / "c")]) == OK
    assert "it may know a larger tree" in capsys.readouterr().err


def test_the_log_has_to_be_named(logs, tmp_path, capsys):
    assert main(["audit", "restore", "--from", str(logs / "late"), "--out", str(tmp_path / "b")]) == USAGE
    assert "say which log it is" in capsys.readouterr().err

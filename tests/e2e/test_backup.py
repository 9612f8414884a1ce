"""A running gateway is backed up, lost, and brought back: it answers as before, and its log goes on or is sealed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gateway.cli.main import main
from gateway.config.load import load_config
from tests.e2e.caller import calling, infer_body
from tests.e2e.running import entries_of, serving, until, verified
from tests.e2e.site import Site, copy_site
from tests.e2e.test_capture import opened


@pytest.fixture
def site(made_site: Site, tmp_path: Path) -> Site:
    return copy_site(made_site, tmp_path / "site")


def backup(place: Path, verb: str, *arguments: object) -> int:
    reaching = ("--repository", place / "repository", "--key", place / "backup.key")
    top = [verb] if verb == "restore" else ["backup", verb]
    return main([*top, *map(str, (*arguments, *reaching)), "--json"])


def ask(site: Site, running, name: str, count: int = 3) -> list[str]:
    with calling(site, running.facts["data"], site.bearer(name)) as caller:
        answers = [caller.infer(infer_body()) for _ in range(count)]
    assert {answer.reason for answer in answers} == {"OK"}
    return [answer.request_id for answer in answers]


def test_a_lost_gateway_comes_back_with_everything_it_knew(site, tmp_path, capsys):
    assert main(["backup", "key", "--out", str(tmp_path / "backup.key")]) == 0
    site.change_policy(lambda policy: policy["models"]["kiosk"].update(capture="all"))
    with serving(site) as running:
        ids = ask(site, running, "archivist")
        for request_id in ids:
            running.entry(request_id)
        capsys.readouterr()
        assert backup(tmp_path, "create", site.config, "--with-keys") == 0
        made = json.loads(capsys.readouterr().out)
        assert made["log_size"] > len(ids)
        assert backup(tmp_path, "verify") == 0
        assert backup(tmp_path, "drill", "--beside", tmp_path / "beside") == 0
        assert not (tmp_path / "beside").exists()
        later = ask(site, running, "kiosk-7")
        for request_id in later:
            running.entry(request_id)
    capsys.readouterr()
    mirror = shutil.copytree(site.log, tmp_path / "mirror")
    newest = (mirror / "checkpoint").read_bytes()
    shutil.move(site.directory, tmp_path / "lost")

    assert backup(tmp_path, "restore", "--out", site.directory, "--log-from", mirror, "--go-on") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["with_keys"], facts["log"]["goes_on"], facts["key_database_expired"]) == (True, True, False)
    for kept in ("stockade.yaml", "policy.yaml", "policy.yaml.sig", "bundles/kiosk/1/model.onnx", "keys/pepper"):
        assert site.read(kept) == (tmp_path / "lost" / kept).read_bytes(), kept
    with serving(site) as running:
        again = ask(site, running, "archivist")
        for request_id in again:
            running.entry(request_id)
    assert verified(site).exit_code == 0
    logged = {entry["id"] for entry in entries_of(site)}
    assert logged.issuperset([*ids, *later, *again])
    (tmp_path / "newest").write_bytes(newest)
    assert main(["audit", "verify", str(site.log), "--vkey", site.vkey, "--remembered", str(tmp_path / "newest")]) == 0
    index, entry = next((at, each) for at, each in enumerate(entries_of(site)) if each["id"] == ids[0])
    assert opened(site, index, entry, "request") == infer_body()  # captured before the backup, read after it


def test_a_log_that_is_shorter_than_was_signed_never_goes_on_and_a_backup_holds_no_keys_unasked(site, tmp_path, capsys):
    assert main(["backup", "key", "--out", str(tmp_path / "backup.key")]) == 0
    with serving(site) as running:
        until(running.entries, "no checkpoint")
        capsys.readouterr()
        assert backup(tmp_path, "create", site.config) == 0
        without = json.loads(capsys.readouterr().out)["name"]
        assert backup(tmp_path, "create", site.config, "--with-keys") == 0
        running.entry(ask(site, running, "kiosk-7")[-1])
    assert backup(tmp_path, "restore", "--out", tmp_path / "back", "--backup", without) == 0
    secrets = {path.relative_to(site.directory) for _, path in load_config(site.config).secret_files()}
    assert len(secrets) == 4
    assert [path for path in secrets if (tmp_path / "back" / path).exists()] == []
    capsys.readouterr()
    assert backup(tmp_path, "restore", "--out", tmp_path / "back") == 2
    assert "nothing is overwritten" in capsys.readouterr().err

    (tmp_path / "seen").write_bytes((site.log / "checkpoint").read_bytes())
    shutil.move(site.directory, tmp_path / "lost")
    assert backup(tmp_path, "restore", "--out", site.directory, "--seen", tmp_path / "seen", "--go-on") == 1
    assert "entries were signed" in capsys.readouterr().err
    before = (site.log / "checkpoint").read_bytes()
    assert main(["serve", str(site.config)]) == 2
    assert "begin a new one" in capsys.readouterr().err
    assert (site.log / "checkpoint").read_bytes() == before
    assert verified(site).exit_code == 0  # it can be read for ever
    (tmp_path / "backup.key").write_bytes(bytes(32))
    assert backup(tmp_path, "verify") == 2
    assert "another key" in capsys.readouterr().err

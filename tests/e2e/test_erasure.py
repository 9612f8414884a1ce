"""A subject is forgotten: by two administrators, in every copy, while every proof still holds."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from gateway.cli.main import main
from gateway.tools.init.files import OPERATOR_SPIFFE
from ops.audit.errors import KeyMissing
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.payloads.keys import KeyStore
from ops.audit.reader.read import LogReader
from tests.e2e.caller import calling, images, infer_body
from tests.e2e.running import serving, until
from tests.e2e.site import copy_site

DOMAIN = "spiffe://stockade.test"
REASON = ["--reason", "DSR-2026-114"]
SUBJECT = ["--tenant", "plenty", "--subject", "plenty"]


def made(made_site, path):
    """Payloads of two tenants are kept. Beside `operator` there are `second`, and a `clerk` with fewer rights."""
    site = copy_site(made_site, path)

    def change(policy) -> None:
        policy["models"]["kiosk"]["capture"] = policy["tenants"]["plenty"]["capture"] = "all"
        policy["roles"]["clerk"] = [{"methods": ["Admin"]}]
        for name, role in (("second", "operator"), ("clerk", "clerk")):
            spiffe = [f"{DOMAIN}/{name}"]
            held = {"tenant": "operations", "roles": [role], "limits": "default", "spiffe": spiffe}
            policy["principals"][name] = held

    site.change_policy(change)
    for name in ("second", "clerk"):
        for suffix, pem in zip(("crt", "key"), site.certificate(name, f"{DOMAIN}/{name}"), strict=True):
            (site.directory / f"clients/{name}.tls.{suffix}").write_bytes(pem)
    return site


@pytest.fixture(scope="module")
def running(made_site, tmp_path_factory):
    """A gateway in which nothing is erased."""
    with serving(made(made_site, tmp_path_factory.mktemp("kept") / "site")) as running:
        yield running


@pytest.fixture
def audit(capsys):
    """Run `stockade audit VERB... FILE` as an administrator; returns what it printed."""

    def call(running, verb: str, *arguments: object, who: str = "operator", code: int = 0) -> str:
        site = running.site
        document = json.loads(site.config.read_text())
        document["listen"]["admin"] = running.facts["admin"]
        here = site.directory / "here.yaml"
        here.write_text(json.dumps(document))
        identity = ["--identity", str(site.directory / f"clients/{who}.tls")]
        capsys.readouterr()
        words = verb.split() if verb.startswith("quarantine") else ["audit", *verb.split()]
        assert main([*words, str(here), *map(str, arguments), *identity]) == code, capsys.readouterr()
        said = capsys.readouterr()
        return said.out + said.err

    return call


def asked(running, name: str) -> tuple[int, dict]:
    """A call whose payload is kept, as (index, entry), once it is public."""
    with calling(running.site, running.facts["data"], running.site.bearer(name)) as caller:
        reply = caller.infer(infer_body(images()[:1]))
    assert reply.reason == "OK"
    return int(reply.trailers["x-stockade-audit-index"]), running.entry(reply.request_id)


def opened(site, log, index: int, entry: dict) -> bytes:
    """The payload of an entry, from any copy of the log and the key database."""
    reader = LogReader.open(log, parse_vkey(site.vkey))
    sealed = entry["payload"]["request"]
    ciphertext = reader.blob(index, bytes.fromhex(sealed["ciphertext_sha256"]))
    origin, master = reader.checkpoint.origin, site.read("keys/payload-master.key")
    keys = KeyStore(site.directory / "keys/payload.db", master, origin=origin)
    try:
        return keys.open(
            entry["payload"]["key"], bytes.fromhex(entry["id"]), "request", ciphertext, sealed["commitment"]
        )
    finally:
        keys.close()


def of_kind(running, kind: str) -> list[dict]:
    return [entry for entry in running.entries() if entry["kind"] == kind]


def test_a_subject_is_forgotten_in_every_copy_and_every_proof_still_holds(made_site, audit, tmp_path):
    site = made(made_site, tmp_path / "site")
    database, backups = site.directory / "keys/payload.db", backups_in(tmp_path)
    mirror, receipt = tmp_path / "mirror", tmp_path / "1.tlog-proof"
    with serving(site) as running:
        gone, stays = asked(running, "plenty"), asked(running, "archivist")
        assert opened(site, site.log, *gone) == infer_body(images()[:1])
        assert main(["audit", "prove", str(site.log), str(gone[0]), "--vkey", site.vkey, "--out", str(receipt)]) == 0
        assert main(["backup", "create", str(site.config), *backups]) == 0
        asking = json.loads(audit(running, "erase request", *SUBJECT, *REASON, "--json"))["erasure"]
        assert (asking["state"], asking["keys"]) == ("requested", [gone[1]["payload"]["key"]])
        assert "two administrators" in audit(running, "erase approve", asking["id"], code=1)
        assert opened(site, site.log, *gone)

        held = json.loads(audit(running, "hold set", "--tenant", "plenty", "--matter", "case 7", "--json"))["hold"]
        assert "case 7" in audit(running, "erase approve", asking["id"], who="second", code=1)
        assert "case 7" in audit(running, "hold list")
        audit(running, "hold release", held["id"], "--reason", "closed", who="second")
        assert "1 keys" in audit(running, "erase approve", asking["id"], who="second")
        assert "done" in audit(running, "erase list")
        assert gone[1]["payload"]["key"] in audit(running, "erase show", asking["id"])

        with pytest.raises(KeyMissing):
            opened(site, site.log, *gone)
        assert opened(site, site.log, *stays) == infer_body(images()[:1])
        until(
            lambda: opens(site, site.log, *asked(running, "plenty")), "what comes later is not kept under another key"
        )
        until(lambda: of_kind(running, "erasure"), "the log does not say so")
        (entry,) = of_kind(running, "erasure")
        assert entry["keys"] == [gone[1]["payload"]["key"]]
        assert (entry["subject"], entry["tenant"]) == (gone[1]["auth"]["principal"], "plenty")
        assert entry["administrators"] == [OPERATOR_SPIFFE, f"{DOMAIN}/second"]
        assert '"plenty"' not in json.dumps({**entry, "tenant": ""})
        assert [one["action"] for one in of_kind(running, "hold")] == ["placed", "lifted"]
        done = [(one["action"], one["outcome"]) for one in of_kind(running, "admin")]
        assert done == [("erasure-requested", "done"), *[("erasure-approved", "refused")] * 2]
        assert main(["audit", "mirror", str(site.log), str(mirror), "--vkey", site.vkey]) == 0
    for log in (site.log, mirror):
        assert main(["audit", "verify", str(log), "--vkey", site.vkey]) == 0
        with pytest.raises(KeyMissing):
            opened(site, log, *gone)
        assert opened(site, log, *stays)
    assert main(["audit", "verify", str(receipt), "--vkey", site.vkey]) == 0

    assert main(["restore", *backups, "--out", str(tmp_path / "restored")]) in (0, 1), "1: its log may not go on"
    (restored,) = (tmp_path / "restored").rglob("payload.db")
    shutil.copy(restored, database)
    assert opened(site, mirror, *gone), "the backup was made before"
    with serving(site) as running:
        until(lambda: not opens(site, mirror, *gone), "the restored key database opens what was erased")
        assert opened(site, mirror, *stays)
        assert "erased-keys-had-come-back" in [event["event"] for event in running.events()]


def backups_in(directory) -> list[str]:
    """Make a place for backups, as the verbs take it."""
    assert main(["backup", "key", "--out", str(directory / "backup.key")]) == 0
    return ["--repository", str(directory / "backups"), "--key", str(directory / "backup.key")]


def opens(site, log, index: int, entry: dict) -> bool:
    try:
        return bool(opened(site, log, index, entry))
    except KeyMissing:
        return False


def test_who_may_read_a_payload_is_recorded_and_who_may_not_does_not(running, audit, tmp_path):
    file = tmp_path / "request.bin"
    index, entry = asked(running, "plenty")
    audit(running, "payload", index, "--epoch", 1, "--out", file, *REASON)
    assert (file.read_bytes(), file.stat().st_mode & 0o077) == (infer_body(images()[:1]), 0)
    assert "there already" in audit(running, "payload", index, "--out", file, *REASON, code=2)
    assert "not kept" in audit(running, "payload", 0, "--out", tmp_path / "none", *REASON, code=1)
    of_no_epoch = audit(running, "payload", index, "--epoch", 2, "--out", tmp_path / "none", *REASON, code=2)
    assert "not an entry of a published tree" in of_no_epoch
    assert not (tmp_path / "none").exists()
    until(lambda: len(readings(running)) == 2, "the log does not say who read it")
    read, tried = readings(running)
    assert (read["action"], read["outcome"], tried["outcome"]) == ("payload-read", "done", "failed")
    assert read["detail"]["entry"] == str(index)
    assert read["detail"]["key"] == entry["payload"]["key"]
    assert running.entry(read["detail"]["request"])["method"] == "/stockade.v1.Payloads/Read"
    for verb in (
        ["payload", index, "--out", tmp_path / "none", *REASON],
        ["erase request", *SUBJECT, *REASON],
        ["erase approve", "e" * 32],
        ["hold set", "--tenant", "plenty", "--matter", "case 7"],
    ):
        assert "METHOD_FORBIDDEN" in audit(running, *verb, who="clerk", code=2)


def readings(running) -> list[dict]:
    return [one for one in of_kind(running, "admin") if one["detail"]["reason"] == REASON[1]]


def test_a_reviewer_without_the_right_sees_what_was_found_and_not_what_was_sent(running, audit, tmp_path):
    noise = np.random.default_rng(5).random((1, 28, 28)).astype(np.float32)
    with calling(running.site, running.facts["data"], running.site.bearer("plenty")) as caller:
        reply = caller.infer(infer_body(noise))
    index = int(reply.trailers["x-stockade-audit-index"])
    show = ["quarantine show", index, "--payload", tmp_path / "noise.bin"]
    until(lambda: index in waiting(running, audit), "it is not in quarantine")
    assert "takes the right Payloads" in audit(running, *show, who="clerk", code=1)
    assert not (tmp_path / "noise.bin").exists()
    audit(running, *show)
    assert (tmp_path / "noise.bin").read_bytes() == infer_body(noise)
    until(lambda: str(index) in [one["detail"]["entry"] for one in of_kind(running, "admin")], "it is not recorded")


def waiting(running, audit) -> list[int]:
    return [int(one["entry"]) for one in json.loads(audit(running, "quarantine list", "--json"))["items"]]


def test_what_cannot_be_asked_for_is_said_and_changes_nothing(running, audit):
    index, entry = asked(running, "plenty")
    named = [*SUBJECT, "--reason", "forget Plenty, please"]
    assert "names the subject" in audit(running, "erase request", *named, code=2)
    assert "is not a tenant" in audit(running, "erase request", "--tenant", "x", "--subject", "y", *REASON, code=2)
    assert "YYYY-MM" in audit(running, "erase request", *SUBJECT, *REASON, "--month", "2026-13", code=2)
    nobody = ["--tenant", "plenty", "--subject", "nobody"]
    assert "nothing to erase" in audit(running, "erase request", *nobody, *REASON, code=1)
    assert "there is no erasure" in audit(running, "erase approve", "e" * 32, who="second", code=1)
    assert "no such hold" in audit(running, "hold release", "e" * 32, "--reason", "x", code=1)
    assert "nothing was erased" in audit(running, "erase list")
    assert "nothing is held" in audit(running, "hold list")
    assert opened(running.site, running.site.log, index, entry)
    assert of_kind(running, "erasure") + of_kind(running, "hold") == []

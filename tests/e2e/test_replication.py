"""A gateway whose log grows in an object store too: its lag, what it refuses for it, and answers that wait for it."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from gateway.cli.main import main
from gateway.config.load import load_config
from ops.audit.copies.object_store import Place, open_store
from ops.audit.log.checkpoint import open_checkpoint, parse_vkey
from tests.e2e.caller import calling, infer_body
from tests.e2e.running import serving, until
from tests.e2e.site import Site, copy_site
from tests.e2e.test_witnesses import have_cosigned, witness
from tests.seaweed import CREDENTIALS, common_server, needs_seaweed

CODE = grpc.StatusCode


@pytest.fixture
def site(made_site: Site, tmp_path: Path) -> Site:
    return copy_site(made_site, tmp_path / "site")


def replicate_to(site: Site, url: str, **more: object) -> None:
    site.change_config(lambda config: config["audit"].update(replication={"url": url, "every": "100ms"} | more))


def acknowledge(site: Site, level: str) -> None:
    site.change_policy(lambda policy: policy["models"]["kiosk"].update(acknowledge=level))


def asked(site: Site, running, **more: object):
    with calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
        return caller.infer(infer_body(), **more)


def size_in(place: Place, site: Site) -> int:
    note = open_store(place).get("checkpoint")
    return 0 if note is None else open_checkpoint(note, [parse_vkey(site.vkey)]).size


def test_answers_wait_for_the_replica_and_the_gateway_for_one_that_falls_behind(site, tmp_path, capsys):
    """The store is a directory, and for a while a file is in its place: then it takes nothing."""
    away, aside = tmp_path / "away", tmp_path / "aside"
    place = Place(away.as_uri())
    replicate_to(site, place.url, lag_max="6s")
    site.change_config(lambda config: config["audit"].update(acknowledge_timeout="10s"))
    acknowledge(site, "replica")
    with serving(site) as running:
        for _ in range(3):
            reply = asked(site, running)
            assert reply.reason == "OK"
            assert size_in(place, site) > int(reply.trailers["x-stockade-audit-index"])
        until(lambda: running.counted("stockade_audit_replicated_size") > 0, "not on the page")
        assert running.counted("stockade_audit_replication_failures_total") == 0
        away.rename(aside)
        away.write_text("in the way")
        late = asked(site, running)
        assert (late.code, late.reason, late.body) == (CODE.DEADLINE_EXCEEDED, "NOT_ACKNOWLEDGED", b"")
        until(lambda: asked(site, running).reason == "REPLICA_BEHIND", "calls are still taken")
        refused = asked(site, running)
        assert refused.code == CODE.UNAVAILABLE
        assert running.counted("stockade_audit_replication_lag_seconds") > 6
        away.unlink()
        aside.rename(away)
        until(lambda: asked(site, running).reason == "OK", "calls are not taken again")
        served, kept_out = running.entry(late.request_id), running.entry(refused.request_id)
        assert (served["kind"], served["reason"]) == ("served", "OK"), "the model has run, and the log says so, once"
        assert (kept_out["kind"], kept_out["reason"]) == ("refused", "REPLICA_BEHIND")
    lines = running.errors.read_text().splitlines()
    assert [sum(event in line for line in lines) for event in ("replication-failed", "replication-back")] == [1, 1]
    capsys.readouterr()
    assert main(["audit", "verify", place.url, "--vkey", site.vkey, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == size_in(place, site)


@needs_seaweed
def test_it_grows_in_a_bucket_that_locks(site, tmp_path):
    server = common_server()
    server.make_bucket("e2e", 3)
    secrets = site.directory / "keys/objects.json"
    secrets.write_text(json.dumps(CREDENTIALS))
    secrets.chmod(0o600)
    url = f"s3://e2e/{tmp_path.name}"
    more = {"endpoint": server.endpoint, "credentials": str(secrets), "retention_min": "2d", "timeout": "20s"}
    replicate_to(site, url, **more | {"every": "3s"})
    acknowledge(site, "replica")
    with serving(site) as running:
        reply = asked(site, running)
        assert reply.reason == "OK"
        assert size_in(server.place(url), site) > int(reply.trailers["x-stockade-audit-index"])
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(asked, site, running)
            until(lambda: [each["kind"] for each in running.entries()].count("served") == 2, "it is not recorded")
            running.process.send_signal(signal.SIGTERM)
            assert waiting.result().reason == "OK", "a gateway that stops waits for the replica of what it has answered"


def test_an_answer_waits_for_the_quorum(site):
    with witness(site, "one") as one:
        have_cosigned(site, one)
        acknowledge(site, "witnessed")
        with serving(site) as running:
            reply = asked(site, running)
            assert reply.reason == "OK"
            cosigned = (load_config(site.config).state_dir / "cosigned").read_bytes()
            size = open_checkpoint(cosigned, [parse_vkey(site.vkey)]).size
            assert size > int(reply.trailers["x-stockade-audit-index"])

"""A gateway whose log grows in an object store too: its lag, what it refuses for it, and answers that wait for it."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest

from gateway.cli.main import main
from gateway.config.config import load_config
from ops.audit.checkpoint import open_checkpoint, parse_vkey
from ops.audit.object_store import Place, open_store
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
    site.change_config(lambda config: config["audit"].update(replication={"url": url, "every": "100ms", **more}))


def acknowledge(site: Site, level: str) -> None:
    site.change_policy(lambda policy: policy["models"]["kiosk"].update(acknowledge=level))


def asked(site: Site, running, **more: object):
    with calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
        return caller.infer(infer_body(), **more)


def size_in(place: Place, site: Site) -> int:
    note = open_store(place).get("checkpoint")
    return 0 if note is None else open_checkpoint(note, [parse_vkey(site.vkey)]).size


def test_an_answer_waits_for_its_replica_and_the_replica_verifies(site, tmp_path, capsys):
    place = Place((tmp_path / "away").as_uri())
    replicate_to(site, place.url)
    acknowledge(site, "replica")
    with serving(site) as running:
        for _ in range(3):
            reply = asked(site, running)
            assert reply.reason == "OK"
            assert size_in(place, site) > int(reply.trailers["x-stockade-audit-index"])
        until(lambda: running.counted("stockade_audit_replicated_size") > 0, "not on the page")
        assert running.counted("stockade_audit_replication_failures_total") == 0
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
    replicate_to(site, url, endpoint=server.endpoint, credentials=str(secrets), retention_min="2d", timeout="20s")
    acknowledge(site, "replica")
    with serving(site) as running:
        reply = asked(site, running)
        assert reply.reason == "OK"
        assert size_in(server.place(url), site) > int(reply.trailers["x-stockade-audit-index"])


def test_a_replica_that_falls_behind_stops_the_gateway_until_it_has_caught_up(site, tmp_path):
    """The store is a directory that is made a file: it takes nothing, until it is one again."""
    away = tmp_path / "away"
    replicate_to(site, away.as_uri(), lag_max="1s")
    with serving(site) as running:
        assert asked(site, running).reason == "OK"
        until(lambda: running.counted("stockade_audit_replicated_size") > 0, "nothing was replicated")
        away.rename(tmp_path / "aside")
        away.write_text("in the way")
        until(lambda: asked(site, running).reason == "REPLICA_BEHIND", "calls are still taken")
        refused = asked(site, running)
        assert (refused.code, int(refused.trailers["grpc-retry-pushback-ms"]) > 0) == (CODE.UNAVAILABLE, True)
        until(lambda: running.counted("stockade_audit_replication_lag_seconds") > 1, "no lag on the page")
        away.unlink()
        (tmp_path / "aside").rename(away)
        until(lambda: asked(site, running).reason == "OK", "calls are not taken again")
        entries = running.entries()
    refused_ids = [entry["id"] for entry in entries if entry.get("reason") == "REPLICA_BEHIND"]
    assert refused.request_id in refused_ids, "a refusal is recorded as any other"
    lines = [line for line in running.errors.read_text().splitlines() if "replication-" in line]
    assert sum("replication-failed" in line for line in lines) == 1, "told once"
    assert sum("replication-back" in line for line in lines) == 1


def test_a_store_that_holds_another_history_stops_replication_and_answers_go_on(site, tmp_path):
    away = tmp_path / "away"
    (away / "tile/0/000.p").mkdir(parents=True)
    place = Place(away.as_uri())
    for width in range(1, 256):
        open_store(place).put_new(f"tile/0/000.p/{width}", b"planted")
    replicate_to(site, place.url)
    with serving(site) as running:
        until(lambda: running.counted("stockade_audit_replication_failures_total", result="stopped") == 1, "it goes on")
        assert asked(site, running).reason == "OK"
        assert size_in(place, site) == 0
        assert "replication-stopped" in running.errors.read_text()


def test_an_answer_whose_record_does_not_get_there_in_time_is_not_given(site, tmp_path):
    (tmp_path / "away").write_text("no directory")
    away = tmp_path / "elsewhere"
    replicate_to(site, away.as_uri())
    site.change_config(lambda config: config["audit"].update(acknowledge_timeout="300ms"))
    acknowledge(site, "replica")
    with serving(site) as running:
        until(lambda: asked(site, running).reason == "OK", "it never answers")
        away.rename(tmp_path / "aside")
        away.write_text("in the way")
        late = asked(site, running)
        assert (late.code, late.reason, late.body) == (CODE.DEADLINE_EXCEEDED, "NOT_ACKNOWLEDGED", b"")
        index = int(late.trailers["x-stockade-audit-index"])
        until(lambda: len(running.entries()) > index, "not public")
        [entry] = [entry for entry in running.entries() if entry.get("id") == late.request_id]
        assert (entry["kind"], entry["reason"]) == ("served", "OK"), "the model has run, and the log says so, once"
        assert running.counted("stockade_requests_total", reason="NOT_ACKNOWLEDGED") >= 1


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


@pytest.mark.parametrize("level", ["replica", "witnessed"])
def test_a_level_that_the_gateway_cannot_have_is_refused(site, level, capsys):
    acknowledge(site, level)
    assert main(["serve", str(site.config)]) == 2
    assert f"models.kiosk.acknowledge: {level} needs `audit." in capsys.readouterr().err

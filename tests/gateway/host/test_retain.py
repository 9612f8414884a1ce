"""`stockade audit retain` beside a real recorder: what keeps an epoch, and what the log says of one that is dropped."""

import asyncio
import json
import shutil
from contextlib import closing
from dataclasses import replace

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.cli.main import main
from gateway.config.load import load_config
from gateway.config.place import place_of
from gateway.control.cosigning import kept_cosigned
from gateway.host.recorder import recorder_settings
from gateway.tools.audit import epochs
from ops.audit.errors import KeyStoreError
from ops.audit.log.checkpoint import parse_skey, parse_vkey
from ops.audit.log.epochs import Epoch, epochs_of
from ops.audit.payloads.erasure import Erasures
from ops.audit.payloads.erasure_rows import Hold
from ops.audit.reader.read import LogReader
from ops.audit.store.client import AuditClient
from ops.audit.store.retention import tenants_in
from ops.metrics import RetentionMetrics, expose
from tests.e2e.site import copy_site
from tests.faults.recorder_process import launch, launched
from tests.gateway.rig import until
from tests.ops.audit.payloads.test_erasure_log import held
from tests.ops.audit.samples import request, small
from tests.ops.audit.verify.test_epochs import Series

BEGAN_NS = 1_700_000_000_000_000_000  # November 2023
HOLD = Hold("a" * 32, "store-7", "", "", "case 7", "anna", "b" * 32, BEGAN_NS)


@pytest.fixture
def site(made_site, tmp_path):
    """A gateway whose recorder runs, with one closed epoch of years ago."""
    site = copy_site(made_site, tmp_path / "site")
    document = yaml.safe_load(site.config.read_text())
    document["audit"]["epochs"] = {"months": 0, "kept_months": 1}
    site.config.write_text(yaml.safe_dump(document))
    config = load_config(site.config)
    place_of(config).make_shared()
    settings = recorder_settings(config, place_of(config))
    assert (settings.epoch_records_max, settings.epoch_months) == (1 << 26, 0)
    settings = replace(settings, segment_bytes=1 << 26, reserve_bytes=0, metrics_directory=None)
    key = parse_skey(config.audit.signing_key.read_text().strip())
    series = Series(tmp_path, settings=settings, key=key, began_ns=BEGAN_NS)
    series.append(small(1, auth=request()["auth"]))
    series.roll()
    series.close()
    launch(settings).wait_ready()
    yield site
    while launched:
        launched.pop().kill()


def listed(site, capsys, *more: str) -> list[dict]:
    capsys.readouterr()
    assert main(["audit", "epochs", str(site.directory), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def page(config) -> dict[tuple[str, str | None], float]:
    """What is on the page of metrics, by name and what keeps an epoch."""
    families = text_string_to_metric_families(expose(place_of(config).metrics).decode())
    return {(each.name, each.labels.get("by")): each.value for family in families for each in family.samples}


@pytest.mark.timeout(120)
def test_an_epoch_is_dropped_when_nothing_keeps_it(site, capsys):
    config = load_config(site.config)
    words = ["audit", "retain", str(site.config)]
    erasures = Erasures(config.audit.key_database)
    erasures.place(HOLD)
    erasures.place(replace(HOLD, id="c" * 32, tenant="somebody-else"))
    assert main(words) == 2
    assert "a hold on store-7 (case 7)" in capsys.readouterr().err
    assert page(config)["stockade_audit_epochs_kept", "hold"] == 1
    first, second = listed(site, capsys)
    assert [parse_vkey(each["vkey"]).name for each in (first, second)] == [first["origin"], second["origin"]]
    assert ("next_vkey" in first, parse_vkey(second["next_vkey"]).name) == (False, f"{first['origin']}/epoch-3")
    custody = [(each["entries"], each["holds"]) for each in listed(site, capsys, "--config", str(site.config))]
    assert custody == [("hot", ["store-7 (case 7)"]), ("hot", [])]
    assert main(["audit", "epochs", str(site.directory), "--config", str(site.config)]) == 0
    assert "holds" in capsys.readouterr().out
    erasures.lift(HOLD.id)
    erasures.close()
    assert main([*words, "--dry-run"]) == 0
    assert [each["state"] for each in listed(site, capsys)] == ["closed", "open"]
    assert main(words) == 0
    assert main(words) == 0, "it is dropped once"
    assert page(config)["stockade_audit_epochs_kept", "hold"] == 0
    assert page(config)["stockade_audit_retention_timestamp_seconds", None] > BEGAN_NS / 1e9
    first, second = listed(site, capsys, "--config", str(site.config))
    assert (first["state"], first["from"], second["origin"]) == ("dropped", "", f"{first['origin']}/epoch-2")
    assert (first["entries"], first["holds"]) == ("gone", [])


@pytest.mark.timeout(120)
def test_a_hold_that_is_placed_while_an_epoch_is_searched_keeps_it(site, capsys, monkeypatch):
    erasures = Erasures(load_config(site.config).audit.key_database)
    erasures.place(replace(HOLD, tenant="somebody-else"))

    def search(kept, tenants):
        found = tenants_in(kept, tenants)
        erasures.place(replace(HOLD, id="c" * 32))
        return found

    monkeypatch.setattr(epochs, "tenants_in", search)
    assert main(["audit", "retain", str(site.config)]) == 2
    assert "a hold on store-7 (case 7)" in capsys.readouterr().err
    erasures.close()


@pytest.mark.timeout(120)
def test_no_hold_is_placed_between_the_last_look_and_the_drop(site, monkeypatch):
    erasures, record, places = Erasures(load_config(site.config).audit.key_database), epochs.record, []
    erasures._db.execute("PRAGMA busy_timeout = 0")

    async def recorded(kept, config):
        await record(kept, config)
        with pytest.raises(KeyStoreError, match="locked"):
            erasures.place(HOLD)
        places.append(kept.epoch.directory)

    monkeypatch.setattr(epochs, "record", recorded)
    assert main(["audit", "retain", str(site.config)]) == 0
    assert places == [site.log]
    erasures.place(HOLD)
    erasures.close()


@pytest.mark.timeout(120)
async def test_a_hold_that_the_log_alone_knows_keeps_an_epoch(site, capsys):
    """The key database came from a backup, and nobody has read the log since."""
    config = load_config(site.config)
    client = AuditClient(place_of(config).socket, backlog_bytes_max=1 << 20, append_timeout_ms=30_000)
    await client.connect()
    client.append([held(1)], lambda _: None)
    await client.close()
    vkey = parse_skey(config.audit.signing_key.read_text().strip()).verifier
    await until(lambda: any(held(1) in entries for entries in map(all_of, epochs_of(site.log, vkey))))
    assert await asyncio.to_thread(main, ["audit", "retain", str(site.config)]) == 2
    assert "a hold on store-7 (case 7)" in capsys.readouterr().err


def all_of(epoch: Epoch) -> list[bytes]:
    reader = LogReader.open(epoch.directory, epoch.vkey)
    return reader.entries(0, reader.checkpoint.size)


@pytest.mark.timeout(120)
def test_a_dry_run_leaves_what_an_interrupted_one_has_left(site, capsys):
    words = ["audit", "retain", str(site.config)]
    going = site.log / "tile/entries.dropped"
    (site.log / "tile/entries").rename(going)
    assert main([*words, "--dry-run"]) == 0
    assert going.exists()
    assert main(words) == 0
    assert not going.exists()


def test_a_second_run_is_refused_while_the_first_one_lasts(site, capsys):
    with closing(RetentionMetrics(place_of(load_config(site.config)).metrics)):
        assert main(["audit", "retain", str(site.config)]) == 4
    assert "another `stockade audit retain` runs" in capsys.readouterr().err


@pytest.mark.timeout(120)
def test_an_epoch_stays_that_the_store_or_the_quorum_does_not_have(site, tmp_path, capsys):
    document = yaml.safe_load(site.config.read_text())
    document["audit"]["replication"] = {"url": (tmp_path / "away").as_uri()}
    site.config.write_text(yaml.safe_dump(document))
    (tmp_path / "away").mkdir()
    assert main(["audit", "retain", str(site.config)]) == 2
    assert "the object store does not have its last checkpoint" in capsys.readouterr().err
    config = load_config(site.config)
    assert page(config)["stockade_audit_epochs_kept", "replica"] == 1
    cosigned = kept_cosigned(place_of(config).cosigned, 1)
    assert not cosigned.exists()
    del document["audit"]["replication"]
    policy = site.directory / "watched"
    policy.write_text("quorum none\n")
    document["audit"]["witnesses"] = {"policy": str(policy)}
    site.config.write_text(yaml.safe_dump(document))
    assert main(["audit", "retain", str(site.config)]) == 2
    assert "the quorum has not cosigned its last checkpoint" in capsys.readouterr().err
    vkey = config.audit.vkey.read_text()
    policy.write_text(f"log {vkey.strip()}\nquorum none\n")
    cosigned.write_bytes((config.audit.directory / "checkpoint").read_bytes())
    assert main(["audit", "retain", str(site.config)]) == 0
    assert page(config)["stockade_audit_epochs_kept", "quorum"] == 0
    document["audit"]["replication"] = {"url": (tmp_path / "away").as_uri()}
    site.config.write_text(yaml.safe_dump(document))
    assert listed(site, capsys, "--config", str(site.config))[0]["entries"] == "gone"
    shutil.copy(config.audit.directory / "checkpoint", tmp_path / "away/checkpoint")
    assert listed(site, capsys, "--config", str(site.config))[0]["entries"] == "cold"

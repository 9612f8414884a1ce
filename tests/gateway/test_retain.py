"""`stockade audit retain` beside a real recorder: what keeps an epoch, and what the log says of one that is dropped."""

import json
from dataclasses import replace

import pytest
import yaml

from gateway.cli.main import main
from gateway.config.config import load_config
from gateway.host.cosigning import kept_cosigned
from gateway.host.place import place_of
from gateway.host.recorder import recorder_settings
from ops.audit.checkpoint import parse_skey
from ops.audit.epochs import epochs_of
from ops.audit.erasure import Erasures
from ops.audit.erasure_rows import Hold
from tests.e2e.site import copy_site
from tests.faults.recorder_process import launch, launched
from tests.ops.audit.samples import request, small
from tests.ops.audit.test_verify_epochs import Series

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


def listed(site, capsys) -> list[dict]:
    assert main(["audit", "epochs", str(site.directory), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.timeout(120)
def test_an_epoch_is_dropped_when_nothing_keeps_it(site, capsys):
    config = load_config(site.config)
    words = ["audit", "retain", str(site.config)]
    erasures = Erasures(config.audit.key_database)
    erasures.place(HOLD)
    assert main(words) == 2
    assert "a hold on store-7 (case 7)" in capsys.readouterr().err
    erasures.lift(HOLD.id)
    erasures.close()
    assert main([*words, "--dry-run"]) == 0
    assert [each["state"] for each in listed_after(capsys, site)] == ["closed", "open"]
    assert main(words) == 0
    assert main(words) == 0, "it is dropped once"
    first, second = listed_after(capsys, site)
    assert (first["state"], first["from"], second["origin"]) == ("dropped", "", f"{first['origin']}/epoch-2")


def listed_after(capsys, site) -> list[dict]:
    capsys.readouterr()
    return listed(site, capsys)


@pytest.mark.timeout(120)
def test_an_epoch_stays_that_the_store_or_the_quorum_does_not_have(site, tmp_path, capsys):
    document = yaml.safe_load(site.config.read_text())
    document["audit"]["replication"] = {"url": (tmp_path / "away").as_uri()}
    site.config.write_text(yaml.safe_dump(document))
    (tmp_path / "away").mkdir()
    assert main(["audit", "retain", str(site.config)]) == 2
    assert "the object store does not have its last checkpoint" in capsys.readouterr().err
    config = load_config(site.config)
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
    assert (
        len(epochs_of(config.audit.directory, parse_skey(config.audit.signing_key.read_text().strip()).verifier)) == 2
    )

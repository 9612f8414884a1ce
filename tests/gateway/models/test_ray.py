"""The Ray engine from the configuration, and the verbs that need no cluster."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

from gateway.cli.main import main
from gateway.config.load import load_config
from gateway.models.models import ENGINES
from gateway.models.ray import ray_settings, telling
from gateway.request.batching import threads_of
from gateway.tools import ray as ray_verbs
from gateway.tools.ray import row_of
from ops.process.logging import configure
from serving.bundles.bundle import load_bundle
from serving.engines.fallback import FallbackEngine
from serving.engines.ray.engine import RayEngine
from serving.engines.ray.settings import Application
from serving.errors import BackendUnavailable
from tests.e2e.site import copy_site

NOWHERE = "127.0.0.1:1"
POPEN = subprocess.Popen


@pytest.fixture
def site(made_site, tmp_path):
    made = copy_site(made_site, tmp_path / "site")
    made.change_config(
        lambda document: document.update(
            engine={"kind": "ray", "ray": {"address": NOWHERE, "start_timeout": "0s", "replicas": {"max": 4}}}
        )
    )
    return made


def test_the_settings_are_the_configurations(site):
    config = load_config(site.config)
    settings = ray_settings(config)
    assert (settings.address, settings.replicas_min, settings.replicas_max) == (NOWHERE, 1, 4)
    assert settings.call_timeout_ms == 5000
    assert settings.drain_timeout_ms == 10_000
    assert threads_of(config.engine) > 0


@pytest.mark.parametrize("fallback", ["none", "inprocess"])
def test_a_gateway_has_its_engine_without_a_cluster(site, fallback, caplog):
    site.change_config(lambda document: document["engine"].update(fallback=fallback))
    config = load_config(site.config)
    bundle = load_bundle(site.directory / "bundles/tiny/1", config.bundles.trusted_keys)
    stderr = io.StringIO()
    log = configure("info", stderr, format="json")
    engine = ENGINES["ray"](bundle, config, log)
    images = np.zeros((1, 28, 28), np.float32)
    if fallback == "none":
        assert isinstance(engine, RayEngine)
        assert not engine.ready()
        with pytest.raises(BackendUnavailable):
            engine.infer({"image": images})
    else:
        assert isinstance(engine, FallbackEngine)
        assert engine.ready()
        for _ in range(3):
            assert engine.infer({"image": images})["energy"].shape == (1,)
        (line,) = map(json.loads, stderr.getvalue().splitlines())
        assert {name: line[name] for name in ("event", "level", "model", "version", "error", "problem")} == {
            "event": "fallback-began",
            "level": "warning",
            "model": "tiny",
            "version": "1",
            "error": "BackendUnavailable",
            "problem": "there is no connection to Ray",
        }
        telling(bundle, log)(None)
        assert [json.loads(each)["event"] for each in stderr.getvalue().splitlines()][1:] == ["fallback-ended"]
        assert caplog.records == []
    engine.close()


def test_the_serve_config_names_every_bundle_by_its_digest(site, capsys):
    assert main(["ray", "config", str(site.config)]) == 0
    document = yaml.safe_load(capsys.readouterr().out)
    found = {each["name"]: each for each in document["applications"]}
    assert set(found) == {"stockade-kiosk-1", "stockade-tiny-1"}
    config = load_config(site.config)
    bundle = load_bundle(site.directory / "bundles/tiny/1", config.bundles.trusted_keys)
    named = found["stockade-tiny-1"]["args"]["bundles"]["tiny/1"]
    assert named == {"directory": str(site.directory / "bundles/tiny/1"), "digest": bundle.digest}
    assert found["stockade-tiny-1"]["deployments"][0]["autoscaling_config"]["max_replicas"] == 4


@pytest.mark.parametrize("verb", ["config", "deploy", "status"])
def test_a_gateway_without_ray_has_nothing_there(made_site, verb, capsys):
    assert main(["ray", verb, str(made_site.config)]) == 2
    assert "engine.kind is inprocess; nothing of it runs on Ray" in capsys.readouterr().err


def test_an_unsigned_bundle_is_not_deployed(site, capsys):
    (site.directory / "bundles/tiny/1/model.sig").unlink()
    assert main(["ray", "deploy", str(site.config)]) == 2
    assert "model.sig: unsigned" in capsys.readouterr().err


def speaking(monkeypatch, *lines, code=0, noise=""):
    """Let the bridge say these lines and end."""
    program = f"import sys; sys.stdin.read(); print({chr(10).join(map(json.dumps, lines))!r}); "
    replaced(monkeypatch, program + f"sys.stderr.write({noise!r}); sys.exit({code})")


def replaced(monkeypatch, program):
    """Run this program for the bridge."""

    def popen(_command, **options):
        return POPEN([sys.executable, "-c", program], **options)

    monkeypatch.setattr(ray_verbs.subprocess, "Popen", popen)


def said(state, running=1, message="", **more):
    return {
        "application": "stockade-tiny-1",
        "state": state,
        "running": running,
        "wanted": 2,
        "message": message,
        **more,
    }


def test_a_deployment_is_followed_to_its_end(site, monkeypatch, capsys):
    speaking(monkeypatch, said("DEPLOYING", 0), said("RUNNING"))
    assert main(["ray", "deploy", str(site.config)]) == 0
    assert capsys.readouterr().out == "stockade-tiny-1  RUNNING  replicas 1\n"
    speaking(monkeypatch, said("DEPLOYING", 0), said("DEPLOY_FAILED", 0, "tiny: unsigned"), code=1)
    assert main(["ray", "deploy", str(site.config)]) == 1
    assert "DEPLOY_FAILED  replicas 0  tiny: unsigned" in capsys.readouterr().out
    speaking(monkeypatch, {"problem": "not all run after 5 s"}, code=1)
    assert main(["ray", "deploy", str(site.config), "--json"]) == 1
    assert "not all run after 5 s" in capsys.readouterr().err


def test_status_shows_how_many_replicas_are_missing(site, monkeypatch, capsys):
    speaking(monkeypatch, said("RUNNING", digest="aa"))
    assert main(["ray", "status", str(site.config)]) == 1
    assert "1 of 2" in capsys.readouterr().out


def test_a_bridge_that_ray_ended_has_rays_own_words(site, monkeypatch, capsys):
    speaking(monkeypatch, code=134, noise="Failed to connect to GCS")
    assert main(["ray", "status", str(site.config)]) == 2
    assert "Failed to connect to GCS" in capsys.readouterr().err


def test_a_bridge_that_reads_nothing_has_its_own_words_too(monkeypatch):
    replaced(monkeypatch, "import sys; sys.stdin.close(); sys.exit('no such module')")
    assert list(ray_verbs.run_verb(["deploy"], bytes(1 << 20))) == [{"exit": 1, "problem": "no such module"}]


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_status_shows_nothing_of_a_cluster_that_it_has_not_seen(site, monkeypatch, capsys, form):
    speaking(monkeypatch, {"problem": "cannot connect"}, code=75)
    assert main(["ray", "status", str(site.config), *form]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "cannot connect" in shown.err


@pytest.mark.parametrize(
    ("found", "models_max", "bundle", "good"),
    [
        (None, 0, "-", False),
        (said("RUNNING", digest="aa"), 0, "the gateway's", True),
        (said("RUNNING", digest="bb"), 0, "ANOTHER: deploy again", False),
        (said("RUNNING", digest=""), 0, "unknown: no replica says", False),
        (said("RUNNING", digest=""), 8, "several", True),
        (said("RUNNING", 0, digest="aa"), 0, "the gateway's", False),
        (said("UNHEALTHY", digest="aa"), 0, "the gateway's", False),
    ],
)
def test_status_says_whose_bundle_the_replicas_hold(found, models_max, bundle, good):
    bundles = {"tiny/1": {"directory": "/b", "digest": "aa"}}
    application = Application("stockade-tiny-1", {"bundles": bundles, "models_max": models_max}, {})
    row = row_of("stockade-tiny-1", application, found)
    assert (row["bundle"], row["ok"]) == (bundle, good)

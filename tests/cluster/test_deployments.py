"""What is deployed: by command, from a plain Serve config file, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml

from serving.bundles.bundle import load_bundle
from serving.engines.inprocess import InProcessEngine
from serving.engines.ray.engine import RayEngine
from serving.engines.ray.settings import Deployable, DeployPlan, RaySettings, applications
from serving.errors import DeploymentStale
from serving.train.pack import seal
from tests.cluster.gateways import deploy, ray_site, stockade
from tests.cluster.ray_nodes import deploy as bridge_deploy
from tests.cluster.standing import REPLICA_CPUS
from tests.e2e.caller import images
from tests.gateway.rig import only_tiny
from tests.serving.tiny import signing_key, tiny_files, tiny_manifest, write


def plan_for(stand, namespace, directory, digest, **changes):
    """A deployment of one bundle of the small model."""
    settings = RaySettings(address=stand.cluster.address, namespace=namespace, cpus_per_replica=REPLICA_CPUS)
    found = applications(settings, [Deployable("tiny", "1", digest, str(directory))], stand.keys)
    for application in found:
        application.args.update(changes)
    return DeployPlan(settings.address, found)


def refusal(said):
    """What a deployment that failed said last."""
    assert said[-1]["exit"] != 0, said
    return " ".join(line.get("message", "") + line.get("problem", "") for line in said[:-1])


def other_tiny():
    """The same name and version, signed by the same key, and another bundle."""
    return seal(tiny_files(), {**tiny_manifest(), "metrics": {"other": True}}, signing_key())


def test_outputs_are_those_of_the_engine_in_the_process(ray_stand):
    bundle = load_bundle(ray_stand.bundles / "kiosk/1", ray_stand.keys)
    here, there, shared = InProcessEngine(bundle), ray_stand.own(bundle), ray_stand.shared(bundle)
    batch = np.ascontiguousarray(images()[:64])
    expected = here.infer({"image": batch})
    for engine in (there, shared):
        found = engine.infer({"image": batch})
        assert found.keys() == expected.keys()  # the screens' evidence too
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5)
        engine.close()


def test_shared_replicas_load_and_forget_models_as_they_are_asked_for(ray_stand):
    """There is room for one model only, so each question evicts the other."""
    kiosk, tiny = (load_bundle(ray_stand.bundles / name, ray_stand.keys) for name in ("kiosk/1", "tiny/1"))
    engines = [ray_stand.shared(kiosk), ray_stand.shared(tiny)]
    for _ in range(3):
        assert [len(engine.infer({"image": images()[:3]})["probabilities"]) for engine in engines] == [3, 3]
    for engine in engines:
        engine.close()


def test_a_replica_refuses_an_unsigned_bundle_and_says_why(ray_stand, tmp_path):
    sealed = dict(other_tiny())
    del sealed["model.sig"]
    write(sealed, tmp_path / "tiny/1")
    said = bridge_deploy(plan_for(ray_stand, "unsigned", tmp_path / "tiny/1", "0" * 64))
    assert "model.sig: unsigned" in refusal(said)


def test_a_replica_refuses_a_bundle_that_was_changed(ray_stand, tmp_path):
    shutil.copytree(ray_stand.bundles / "tiny/1", tmp_path / "tiny/1")
    with (tmp_path / "tiny/1/model.onnx").open("ab") as file:
        file.write(b"x")
    digest = load_bundle(ray_stand.bundles / "tiny/1", ray_stand.keys).digest
    said = bridge_deploy(plan_for(ray_stand, "changed", tmp_path / "tiny/1", digest))
    assert "model.onnx: digest" in refusal(said)


def test_a_replica_refuses_another_bundle_than_its_deployment_names(ray_stand):
    said = bridge_deploy(plan_for(ray_stand, "other", ray_stand.bundles / "tiny/1", "0" * 64))
    assert f"bundle {'0' * 64} is meant and " in refusal(said)
    assert "run `stockade ray deploy` again" in refusal(said)


def test_a_serve_config_of_another_release_is_refused(ray_stand):
    digest = load_bundle(ray_stand.bundles / "tiny/1", ray_stand.keys).digest
    said = bridge_deploy(plan_for(ray_stand, "old", ray_stand.bundles / "tiny/1", digest, format=0))
    assert "is not one of this release (format 0); write it anew with `stockade ray config`" in refusal(said)
    said = bridge_deploy(plan_for(ray_stand, "old", ray_stand.bundles / "tiny/1", digest, colour="red"))
    assert "unknown field `colour`" in refusal(said)


def test_a_gateway_refuses_replicas_that_hold_another_bundle(ray_stand, made_site, tmp_path):
    write(other_tiny(), tmp_path / "tiny/1")
    other = load_bundle(tmp_path / "tiny/1", ray_stand.keys)
    said = bridge_deploy(plan_for(ray_stand, "stale", tmp_path / "tiny/1", other.digest))
    assert said[-1]["exit"] == 0, said
    ours = load_bundle(ray_stand.bundles / "tiny/1", ray_stand.keys)
    settings = RaySettings(address=ray_stand.cluster.address, namespace="stale", cpus_per_replica=REPLICA_CPUS)
    with pytest.raises(DeploymentStale, match=f"bundle {ours.digest} is meant and {other.digest} is there"):
        RayEngine(ours, settings)
    site = ray_site(made_site, tmp_path / "site", ray_stand.cluster, namespace="stale", start_timeout="20s")
    shutil.rmtree(site.directory / "bundles/kiosk")
    site.change_policy(only_tiny)
    done = stockade("serve", str(site.config))
    assert done.returncode == 2
    assert f"{other.digest} is there; run `stockade ray deploy` again" in done.stderr
    shown = stockade("ray", "status", str(site.config), "--json")
    assert shown.returncode == 1
    assert json.loads(shown.stdout)[0]["bundle"] == "ANOTHER: deploy again"


def test_an_answer_of_another_bundle_is_never_taken(ray_stand, tmp_path):
    """The replicas change under a running engine: until they change back there is no answer."""
    write(other_tiny(), tmp_path / "tiny/1")
    ours = load_bundle(ray_stand.bundles / "tiny/1", ray_stand.keys)
    settings = RaySettings(address=ray_stand.cluster.address, namespace="swap", cpus_per_replica=REPLICA_CPUS)
    mine = plan_for(ray_stand, "swap", ray_stand.bundles / "tiny/1", ours.digest)
    theirs = plan_for(ray_stand, "swap", tmp_path / "tiny/1", load_bundle(tmp_path / "tiny/1", ray_stand.keys).digest)
    assert bridge_deploy(mine)[-1]["exit"] == 0
    engine = RayEngine(ours, settings)
    engine.infer({"image": images()[:1]})
    assert bridge_deploy(theirs)[-1]["exit"] == 0
    with pytest.raises(DeploymentStale):
        engine.infer({"image": images()[:1]})
    assert bridge_deploy(mine)[-1]["exit"] == 0
    assert len(engine.infer({"image": images()[:1]})["energy"]) == 1
    engine.close()


def test_the_verbs_deploy_show_and_prune(ray_stand, made_site, tmp_path):
    site = ray_site(made_site, tmp_path / "site", ray_stand.cluster, namespace="verbs")
    shown = stockade("ray", "status", str(site.config), "--json")
    assert shown.returncode == 1
    assert [row["state"] for row in json.loads(shown.stdout)] == ["ABSENT", "ABSENT"]
    deploy(site)
    shown = stockade("ray", "status", str(site.config))
    assert shown.returncode == 0, shown.stderr
    assert "verbs-kiosk-1" in shown.stdout
    assert "the gateway's" in shown.stdout
    shutil.rmtree(site.directory / "bundles/tiny")
    pruned = stockade("ray", "deploy", str(site.config), "--prune", "--json")
    said = [json.loads(line) for line in pruned.stdout.splitlines()]
    assert {"application": "verbs-tiny-1", "state": "DELETED", "running": 0, "message": ""} in said
    assert said[-1] == {"exit": 0}


def test_nothing_is_removed_before_what_replaces_it_runs(ray_stand):
    ours = load_bundle(ray_stand.bundles / "tiny/1", ray_stand.keys)
    assert bridge_deploy(plan_for(ray_stand, "keep", ray_stand.bundles / "tiny/1", ours.digest))[-1]["exit"] == 0
    settings = RaySettings(address=ray_stand.cluster.address, namespace="keep", cpus_per_replica=REPLICA_CPUS)
    other = Deployable("tiny", "2", ours.digest, str(ray_stand.bundles / "tiny/2"))  # which is not there
    said = bridge_deploy(DeployPlan(settings.address, applications(settings, [other], ray_stand.keys), prune="keep"))
    assert said[-1]["exit"] == 1, said
    assert "DELETED" not in {line.get("state") for line in said}
    engine = RayEngine(ours, settings)
    assert len(engine.infer({"image": images()[:1]})["energy"]) == 1
    engine.close()


def test_the_printed_file_is_a_serve_config(ray_stand, made_site, tmp_path):
    """Deployed by Serve's own command, on the same cluster, it answers as the gateway's own deployment does."""
    site = ray_site(made_site, tmp_path / "site", ray_stand.cluster, namespace="plain")
    printed = stockade("ray", "config", str(site.config))
    assert printed.returncode == 0, printed.stderr
    document = yaml.safe_load(printed.stdout)
    assert document["proxy_location"] == "Disabled"
    assert {each["route_prefix"] for each in document["applications"]} == {None}
    file = tmp_path / "serve.yaml"
    file.write_text(printed.stdout)
    serve = Path(sys.executable).with_name("serve")
    command = [str(serve), "run", "--address", ray_stand.cluster.address, "--non-blocking", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    settings = msgspec.structs.replace(ray_stand.settings, namespace="plain")
    engine = RayEngine(load_bundle(ray_stand.bundles / "kiosk/1", ray_stand.keys), settings)
    assert len(engine.infer({"image": images()[:5]})["probabilities"]) == 5
    engine.close()

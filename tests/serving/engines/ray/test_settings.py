"""The Serve applications that follow from a configuration."""

import re
from itertools import product
from pathlib import Path

import msgspec
import pytest

from gateway.config.engine import Ray
from serving.bundles import manifest
from serving.engines.ray.settings import Deployable, RaySettings, applications, serve_config, target_of

SETTINGS = RaySettings(address="127.0.0.1:6379")
BUNDLES = [Deployable("kiosk", "1", "aa", "/b/kiosk/1"), Deployable("tiny", "2", "bb", "/b/tiny/2")]
KEYS = [Path("/k.pub")]


def test_each_model_has_an_application_of_its_own():
    found = applications(SETTINGS, BUNDLES, KEYS)
    assert [each.name for each in found] == ["stockade-kiosk-1", "stockade-tiny-2"]
    assert [target_of(SETTINGS, each.name, each.version) for each in BUNDLES] == [(each.name, "") for each in found]
    assert found[0].args["bundles"] == {"kiosk/1": {"directory": "/b/kiosk/1", "digest": "aa"}}
    assert found[0].args["trusted_keys"] == ["/k.pub"]
    assert found[0].options["num_replicas"] == 1


def test_shared_replicas_are_one_application():
    shared = msgspec.structs.replace(SETTINGS, models_per_replica=4)
    (found,) = applications(shared, BUNDLES, KEYS)
    assert found.name == "stockade-shared"
    assert found.args["models_max"] == 4
    assert list(found.args["bundles"]) == ["kiosk/1", "tiny/2"]
    assert target_of(shared, "tiny", "2") == ("stockade-shared", "tiny/2")


@pytest.mark.parametrize(("most", "scales"), [(2, False), (3, True)])
def test_replicas_scale_between_two_bounds_by_what_waits(most, scales):
    found = applications(msgspec.structs.replace(SETTINGS, replicas_min=2, replicas_max=most), BUNDLES, KEYS)
    options = found[0].options
    if scales:
        assert options["autoscaling_config"]["min_replicas"] == 2
        assert options["autoscaling_config"]["max_replicas"] == 3
        assert options["autoscaling_config"]["target_ongoing_requests"] == 2
        assert "num_replicas" not in options
    else:
        assert options["num_replicas"] == 2
        assert "autoscaling_config" not in options


def test_the_serve_config_opens_no_other_way_in():
    config = serve_config(applications(SETTINGS, BUNDLES, KEYS))
    assert config["proxy_location"] == "Disabled"
    for application in config["applications"]:
        assert application["route_prefix"] is None
        assert application["import_path"] == "serving.engines.ray.replica:build"
        assert [each["name"] for each in application["deployments"]] == ["model"]


NAMESPACE = next(each.pattern for each in Ray.model_fields["namespace"].metadata if hasattr(each, "pattern"))
WORDS = ["".join(letters) for size in range(1, 5) for letters in product("a1-_", repeat=size)]


def fitting(pattern: str) -> list[str]:
    return [word for word in WORDS if re.fullmatch(pattern, word)]


@pytest.mark.parametrize("models_per_replica", [0, 4])
def test_no_two_models_have_the_same_target_and_no_namespace_begins_anothers_names(models_per_replica):
    """Of all short words that a configuration and a manifest take: `a-b`/`1` and `a`/`b-1`, `a` and `a-b`."""
    namespaces, names, versions = map(fitting, (NAMESPACE, manifest._NAME.pattern, manifest._VERSION.pattern))
    assert "a-a" in names
    targets = {}
    for namespace in namespaces:
        settings = RaySettings(address="127.0.0.1:1", namespace=namespace, models_per_replica=models_per_replica)
        for name, version in product(names, versions):
            targets[target_of(settings, name, version)] = namespace
    assert len(targets) == len(namespaces) * len(names) * len(versions)
    for (application, _), namespace in targets.items():
        assert [each for each in namespaces if application.startswith(f"{each}-")] == [namespace]


def test_a_model_of_its_own_is_not_the_replicas_that_others_share():
    shared, _ = target_of(msgspec.structs.replace(SETTINGS, models_per_replica=1), "kiosk", "1")
    assert not manifest._VERSION.fullmatch(shared.rpartition("-")[2])

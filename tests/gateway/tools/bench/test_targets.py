import json

import pytest
import yaml

from gateway.config.load import load_config
from gateway.policy.load import load_policy
from gateway.tools.bench import peers
from gateway.tools.bench.targets import TARGETS, Place, launch_gateway
from gateway.tools.rewrite import UNMET_LIMITS
from gateway.tools.samples import bundles_directory


@pytest.mark.parametrize("tls", [True, False])
def test_the_directory_it_makes_is_one_that_a_gateway_accepts(tmp_path, tls):
    launch = launch_gateway(tmp_path, bundles_directory(), tls=tls)
    config = load_config(tmp_path / "gateway" / "stockade.yaml")
    policy = load_policy(config.policy.file, config.policy.public_key)
    assert (config.tls is not None) is tls
    assert launch.endpoint.url.startswith("https" if tls else "http:")
    assert config.listen.data == f"127.0.0.1:{launch.endpoint.port}"
    assert policy.limits["default"].request_burst == UNMET_LIMITS["request_burst"]
    assert dict(launch.endpoint.headers)["authorization"].startswith("Bearer kiosk-7-a.")


def test_protections_go_only_by_a_loud_name(tmp_path):
    launch_gateway(tmp_path, bundles_directory(), protected=False)
    config = yaml.safe_load((tmp_path / "gateway" / "stockade.yaml").read_text())
    assert config["unsafe_unprotected"] is True
    assert config["unsafe_plaintext"] is True


def test_what_listens_everywhere_needs_a_network_of_its_own(tmp_path):
    directory = tmp_path / "ray"
    directory.mkdir()
    (directory / peers.NOTE).write_text(json.dumps(peers.PEERS["ray"].requirements))
    open_place = Place(tmp_path, bundles_directory(), tmp_path, "no network of its own (operation not permitted)")
    assert "every interface" in TARGETS["ray_proxy"].missing(open_place)
    assert TARGETS["ray_proxy"].missing(Place(tmp_path, bundles_directory(), tmp_path, None)) is None


def test_a_peer_with_other_pins_asks_to_be_installed_again(tmp_path):
    assert "not installed" in peers.missing(tmp_path, "mlserver")
    (tmp_path / "mlserver").mkdir()
    (tmp_path / "mlserver" / peers.NOTE).write_text('["mlserver==1.6.0"]')
    assert "other pins" in peers.missing(tmp_path, "mlserver")
    (tmp_path / "mlserver" / peers.NOTE).write_text("{")
    assert "not installed" in peers.missing(tmp_path, "mlserver")


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_says_how_it_is_set_up(name):
    assert len(TARGETS[name].setup) > 40

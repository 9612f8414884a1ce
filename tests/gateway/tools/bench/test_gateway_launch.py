import pytest
import yaml

from gateway.config.load import load_config
from gateway.policy.load import load_policy
from gateway.tools.bench.gateway_launch import launch_gateway, parse_handled
from gateway.tools.rewrite import UNMET_LIMITS
from gateway.tools.samples import bundles_directory

METRICS = """\
# HELP grpc_server_handled_total Calls that ended, by status.
# TYPE grpc_server_handled_total counter
grpc_server_handled_total{grpc_code="OK",grpc_method="ModelInfer",grpc_service="s",grpc_type="unary"} 1234.0
grpc_server_handled_total{grpc_service="s",grpc_method="ModelInfer",grpc_code="OK",grpc_type="unary"} 1.0
grpc_server_handled_total{grpc_code="UNAVAILABLE",grpc_method="ModelInfer",grpc_service="s",grpc_type="unary"} 5.0
grpc_server_handled_total{grpc_code="OK",grpc_method="ModelReady",grpc_service="s",grpc_type="unary"} 7.0
grpc_server_started_total{grpc_code="OK",grpc_method="ModelInfer",grpc_service="s",grpc_type="unary"} 9.0
"""


def test_predictions_are_counted_by_status_whatever_the_order_of_the_labels():
    assert parse_handled(METRICS) == {"OK": 1235, "UNAVAILABLE": 5}


def test_a_page_without_predictions_counts_none():
    assert parse_handled("") == {}


@pytest.mark.parametrize("tls", [True, False])
def test_the_directory_it_makes_is_one_that_a_gateway_accepts(tmp_path, tls):
    launch = launch_gateway(tmp_path, bundles_directory(), tls=tls, protected=True)
    config = load_config(tmp_path / "gateway" / "stockade.yaml")
    policy = load_policy(config.policy.file, config.policy.public_key)
    assert (config.tls is not None) is tls
    assert launch.endpoint.url.startswith("https" if tls else "http:")
    assert config.listen.data == f"127.0.0.1:{launch.endpoint.port}"
    assert policy.limits["default"].request_burst == UNMET_LIMITS["request_burst"]
    assert dict(launch.endpoint.headers)["authorization"].startswith("Bearer kiosk-7-a.")


def test_protections_go_only_by_a_loud_name(tmp_path):
    launch_gateway(tmp_path, bundles_directory(), tls=False, protected=False)
    config = yaml.safe_load((tmp_path / "gateway" / "stockade.yaml").read_text())
    assert config["unsafe_unprotected"] is True
    assert config["unsafe_plaintext"] is True

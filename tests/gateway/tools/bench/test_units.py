import tempfile

import pytest

from gateway.policy.load import parse_policy
from gateway.tools.bench.costs import BATCH_STAGES, HALF_US, PRINCIPALS_PER_TENANT, STAGES, per_request_us, policy_text
from gateway.tools.bench.machine import h2load_missing
from gateway.tools.bench.runner import StartFailed
from gateway.tools.bench.targets import ray_missing
from gateway.tools.bench.units import QUICK, RAY_ROLES, log_bytes, measure_on_ray

needs_h2load = pytest.mark.skipif(h2load_missing() is not None, reason=str(h2load_missing()))


def test_a_stage_of_a_batch_is_shared_by_its_requests():
    spent = dict.fromkeys(STAGES, 0) | {"auth": 40, "infer": 3200}
    found = per_request_us(spent, size=4, count=2, thread_ns=8 * 200_000)
    assert found["auth"] == 40 / 8 + HALF_US
    assert found["infer"] == (3200 / 8 + HALF_US) / 4
    assert found["total"] == 200


def test_what_no_stage_names_is_the_rest():
    found = per_request_us(dict.fromkeys(STAGES, 80), size=8, count=1, thread_ns=8 * 100_000)
    assert found["rest"] == pytest.approx(found["total"] - sum(found[stage] for stage in STAGES))
    assert {"infer", "screen", "harden"} == BATCH_STAGES


def test_whole_tiles_count_by_what_is_in_them(tmp_path):
    for name, size in {
        "tile/entries/000": 100,
        "tile/entries/001.p/12": 50,
        "tile/0/000": 30,
        "tile/1/000.p/1": 7,
        "blobs/000": 11,
        "checkpoint": 5,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    sizes = {"entries_bytes": 100, "tiles_bytes": 30, "payloads_bytes": 11}
    assert log_bytes(tmp_path) == sizes | {"files": 3, "bundles": 1}


def test_the_policy_that_is_measured_is_one(tmp_path):
    policy = parse_policy("\n".join(policy_text(25)).encode(), tmp_path / "policy.yaml")
    assert len(policy.principals) == 25
    assert len(policy.tenants) == -(-25 // PRINCIPALS_PER_TENANT)
    assert len(list(policy.api_keys())) == 25


def test_a_directory_that_is_too_long_for_sockets_is_said_to_be(tmp_path):
    directory = tmp_path / ("x" * 40)
    with pytest.raises(StartFailed, match="take a --workspace of 24 bytes at most"):
        measure_on_ray(directory, directory, QUICK)


@needs_h2load
@pytest.mark.slow
def test_units_are_measured_on_a_real_gateway(measured):
    with tempfile.TemporaryDirectory(prefix="u", dir="/tmp") as directory:  # short: Ray's sockets lie far below it
        report, _ = measured("units", "--quick", "--workspace", directory)
    shares = [share for by_shape in report["processes"].values() for share in by_shape.values()]
    assert {*report["processes"]} == {"1"}
    assert all(share["worker_us"] > 0 and share["batch_rows"] >= 1 for share in shares)
    assert all(found["total"] > found["infer"] > 0 for found in report["stages"].values())
    if ray_missing() is None:
        on_ray = report["ray"]["in_flight"]
        assert on_ray.keys() == report["processes"]["1"].keys()
        assert all(share[f"{role}_us"] > 0 for share in on_ray.values() for role in ("worker", "bridge", "replica"))
        assert report["ray"]["at_rest_ms"].keys() == set(RAY_ROLES)
    assert report["log"]["entries_bytes"] > 500
    assert report["seconds"]["trickle"]["worker"] > 0
    assert [each["fits"] for each in report["principals"]] == [True] * len(report["principals"])

"""`stockade init --upstream`: a directory for a model that another server runs; `models adopt` completes it."""

from __future__ import annotations

import io
import os
import re
import shlex
from datetime import UTC, datetime

import numpy as np
import pytest
from rich.console import Console

from gateway.cli.main import main
from gateway.config.load import load_config
from gateway.models.compile import compile_policy
from gateway.models.served import Served
from gateway.models.statistics import ModelCounters, ServiceTime
from gateway.models.upstream import UpstreamEngine
from gateway.policy.load import load_policy
from gateway.tools.check.check import check
from gateway.tools.init.files import Upstream
from gateway.tools.init.init import InitRefused, init_directory
from gateway.tools.init.report import render
from serving.bundles.bundle import load_bundle
from stockade.open_inference import grpc_service_pb2 as pb
from tests.gateway.oip_server import OipServer

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
TENSOR = pb.ModelMetadataResponse.TensorMetadata


def model(inputs):
    return {"label": np.arange(len(inputs["flower"]), dtype=np.int64)}


@pytest.fixture
def server():
    described = pb.ModelMetadataResponse(
        name="iris",
        versions=["7"],
        inputs=[TENSOR(name="flower", datatype="FP32", shape=[-1, 4])],
        outputs=[TENSOR(name="label", datatype="INT64", shape=[-1])],
    )
    made = OipServer(model, described=described)
    yield made
    made.stop()


def said(report):
    sink = io.StringIO()
    render(report, Console(file=sink, width=20))
    return sink.getvalue()


def init(path, address, name="iris", **more):
    return init_directory(path, now=NOW, random_bytes=os.urandom, upstream=Upstream(address, name), **more)


def test_the_directory_and_the_command_it_prints_are_all_there_is_to_do(server, tmp_path, capsys):
    report = init(tmp_path / "site", server.address)
    assert [finding.where for finding in check(report.config, NOW).findings] == ["bundles.directory"]
    (command,) = [line for line in said(report).splitlines() if line.startswith("First: stockade ")]
    assert main(shlex.split(command)[2:]) == 0
    assert check(report.config, NOW).findings == ()
    capsys.readouterr()
    config = load_config(report.config)
    bundle = load_bundle(config.bundles.directory / "iris/1", config.bundles.trusted_keys)
    assert bundle.manifest["upstream"] == {"name": "iris", "version": "7", "rows_max": 0}
    engine = UpstreamEngine(bundle, config.engine.oip)
    try:
        served = {("iris", "1"): Served(bundle, engine, "{}", ServiceTime(), ModelCounters())}
        policy = load_policy(report.policy, config.policy.public_key)
        rules = compile_policy(policy, served, config.policy.pepper.read_bytes(), (), 1).models["iris", "1"]
        assert [spec.name for spec in rules.outputs] == ["label"]
        assert engine.infer({"flower": np.zeros((3, 4), np.float32)})["label"].tolist() == [0, 1, 2]
    finally:
        engine.close()


def test_on_another_machine_it_asks_for_an_authority(tmp_path):
    report = init(tmp_path / "site", "triton.example.org:8001")
    finding, _ = check(report.config, NOW).findings
    assert finding.where == "engine.oip.tls.ca"
    authority = tmp_path / "site/tls/upstream-ca.crt"
    assert str(authority) in finding.problem
    assert f"--ca {authority}" in said(report)


@pytest.mark.parametrize("name", ["Iris", "", "iris v2"])
def test_a_name_that_no_bundle_can_have(tmp_path, name):
    with pytest.raises(InitRefused, match="cannot be a model's name here"):
        init(tmp_path / "site", "127.0.0.1:1", name)
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("address", ["triton", "999.1.1.1:8001", "127.0.0.1:65536", "http://triton:8001"])
def test_an_address_that_is_none(tmp_path, address):
    with pytest.raises(InitRefused, match=re.escape(f"{address!r} is not an address")):
        init(tmp_path / "site", address)
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("option", [("--upstream", "127.0.0.1:1"), ("--model", "iris")])
def test_half_of_it_is_refused(tmp_path, capsys, option):
    assert main(["init", str(tmp_path / "site"), *option]) == 2
    assert "belong together" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()

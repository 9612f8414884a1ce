"""The payments case as its users have it: data to a signed bundle with one command, decisions that are explained."""

from __future__ import annotations

import json

import grpc
import numpy as np
import pytest

from gateway.cli.main import main
from serving.bundles.bundle import load_bundle
from serving.engines.inprocess import InProcessEngine
from serving.engines.measure import ranking_area
from serving.registry.dataset import read_dataset
from serving.train.payments.data import load_applications
from serving.train.payments.schema import CREDIT_DATA, MISSING
from stockade.open_inference.grpc_service_pb2 import ModelInferRequest
from tests.e2e.caller import calling
from tests.e2e.running import serving
from tests.e2e.site import copy_site
from tests.serving.train.applications import applications, save

FRAME = applications()
KINDS = {"FP32": np.float32, "INT64": np.int64}


def train(*words):
    return main(["train", "payments", *map(str, words)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle as `stockade train payments --smoke` makes it."""
    directory = tmp_path_factory.mktemp("payments")
    data = save(directory / "credit_data.rda", FRAME)
    words = ("--bundle", directory / "bundles/payments/1", "--signing-key", directory / "k.key")
    words += ("--plots", directory / "plots", "--samples", directory / "test.safetensors")
    assert train("--smoke", "--data", data, "--other-data", *words) == 0
    return directory


@pytest.fixture(scope="module")
def bundle(made):
    return load_bundle(made / "bundles/payments/1", [made / "k.pub"])


@pytest.fixture(scope="module")
def running(made, made_site, tmp_path_factory):
    site = copy_site(made_site, tmp_path_factory.mktemp("sites") / "payments")
    directory = site.directory / "bundles/payments/1"
    directory.mkdir(parents=True)
    for file in (made / "bundles/payments/1").iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    (site.directory / "keys/payments.pub").write_bytes((made / "k.pub").read_bytes())
    site.change_config(lambda document: document["bundles"]["trusted_keys"].append("keys/payments.pub"))

    def policy(document):
        document["models"]["payments"] = {
            "serve": "1",
            "screens": {"evidence": {"mode": "enforce", "flag": 0.05, "refuse": 0.01}},
            "reveal_verdict": True,
        }
        document["roles"]["lender"] = [{"methods": ["*"], "models": ["payments"], "versions": ["*"]}]
        document["principals"]["plenty"]["roles"] = ["lender"]

    site.change_policy(policy)
    with serving(site) as running:
        yield running


def ask(running, rows):
    request = ModelInferRequest(model_name="payments")
    rows = np.ascontiguousarray(rows, np.float32)
    request.inputs.add(name="features", datatype="FP32", shape=rows.shape)
    request.raw_input_contents.append(rows.tobytes())
    with calling(running.site, running.facts["data"], running.site.bearer("plenty")) as caller:
        return caller.infer(request.SerializeToString())


def outputs(reply):
    message = reply.message
    pairs = zip(message.outputs, message.raw_output_contents, strict=True)
    return {
        output.name: np.frombuffer(raw, KINDS[output.datatype]).reshape(list(output.shape)) for output, raw in pairs
    }


def rows_of(made, count=1):
    """Usual rows: near the middle of the table."""
    data = load_applications(CREDIT_DATA, made / "credit_data.rda", other=True).features
    known = data[(data >= 0).all(axis=1)]
    distance = np.abs((known - known.mean(axis=0)) / known.std(axis=0)).max(axis=1)
    return known[np.argsort(distance)[:count]]


def test_the_bundle_says_what_it_was_made_of(made, bundle):
    manifest = bundle.manifest
    assert manifest["training"]["smoke"]
    assert not manifest["data"]["published"]
    assert manifest["data"]["rows"] == {"train": 1_200, "calibrate": 400, "test": 400}
    assert set(manifest["data"]["splits"]) == {"train", "calibrate", "test"}
    assert {gate["name"]: gate["passed"] for gate in manifest["gates"]} == dict.fromkeys(
        (
            "auc",
            "calibration_error",
            "terms",
            "sum_apart",
            "wrong_way",
            "rows_apart",
            "parity",
            "false_alarms_low",
        ),
        True,
    )
    assert len(manifest["reasons"]) == 1 + manifest["metrics"]["terms"] <= 9
    assert manifest["metrics"]["foreign"]["uniform"]["flagged"][0]["rate"] > 0.5
    points = manifest["calibration_report"]["evidence"]["operating_points"]
    assert [point["fpr_max"] for point in points] == [0.05, 0.01]
    assert sorted(path.name for path in (made / "plots").iterdir()) == [
        "payments-curves.png",
        "payments-energies.png",
        "payments-reliability.png",
        "payments-terms.png",
    ]
    card = (made / "bundles/payments/1/MODEL_CARD.md").read_text()
    assert "smoke run" in card
    assert "not the published table" in card


def test_its_test_rows_measure_again_what_the_manifest_says(made, bundle):
    rows = read_dataset(made / "test.safetensors", bundle, 2)
    probabilities = InProcessEngine(bundle).infer(rows.inputs)["probabilities"]
    bad = rows.labels == 1
    assert ranking_area(probabilities[~bad, 1], probabilities[bad, 1]) == bundle.manifest["metrics"]["auc"]


def test_an_answer_carries_its_reasons_and_they_add_up(running, made, bundle):
    reply = ask(running, rows_of(made, 4))
    assert reply.trailers["x-stockade-verdict"] == "allow"
    answer = outputs(reply)
    intercept, reasons = bundle.manifest["training"]["intercept"], bundle.manifest["reasons"]
    total = intercept + answer["contributions"].sum(axis=1)
    np.testing.assert_allclose(answer["logit"], total, rtol=0, atol=1e-5)
    np.testing.assert_allclose(answer["probabilities"][:, 1], 1 / (1 + np.exp(-total)), rtol=0, atol=1e-5)
    for codes, contributions in zip(answer["reason_codes"], answer["contributions"], strict=True):
        named = [reasons[code] for code in codes]
        terms = bundle.manifest["training"]["terms"]
        by_weight = sorted(zip(contributions, terms, strict=True), key=lambda pair: -pair[0])
        adverse = [term["reason"] for weight, term in by_weight if weight > 0][: len(codes)]
        assert named == adverse + ["No further reason"] * (len(codes) - len(adverse))


def test_less_seniority_is_never_better_and_becomes_a_reason(running, made, bundle):
    rows = np.repeat(rows_of(made), 30, axis=0)
    rows[:, 0] = np.arange(30)
    answer = outputs(ask(running, rows))
    assert np.diff(answer["probabilities"][:, 1]).max() <= 1e-6
    code = bundle.manifest["reasons"].index("Short time in the present job")
    assert code in answer["reason_codes"][0]
    assert code not in answer["reason_codes"][-1]


def test_what_no_applicant_is_like_is_refused_and_recorded(running, made):
    row = rows_of(made)
    row[0, 5:] = [1_000, 10_000, 1_000_000, 100_000, 50_000, 1]
    reply = ask(running, row)
    assert reply.reason == "INPUT_REJECTED"
    entry = running.entry(reply.request_id)
    assert entry["reason"] == "INPUT_REJECTED"
    assert [(screen["name"], screen["verdict"]) for screen in entry["screens"]] == [("evidence", "refuse")]


def test_what_is_out_of_the_declared_range_never_reaches_the_model(running, made):
    for value in (MISSING - 1, 1_000_001, np.nan):
        row = rows_of(made)
        row[0, 6] = value
        assert ask(running, row).code is grpc.StatusCode.INVALID_ARGUMENT
    row[0, 6] = MISSING
    assert ask(running, row).reason in {"OK", "INPUT_REJECTED"}


def test_what_goes_wrong_is_said_and_nothing_is_written(tmp_path, capsys):
    words = ("--bundle", tmp_path / "b", "--signing-key", tmp_path / "k.key")
    assert train("--data", tmp_path / "absent", *words) == 1
    assert "r-cran-modeldata" in capsys.readouterr().err
    file = save(tmp_path / "credit_data.rda", FRAME.drop(columns="Income"))
    assert train("--data", file, "--other-data", *words) == 1
    assert "no column Income" in capsys.readouterr().err
    assert train("--data", save(file, FRAME), *words) == 1
    assert "not the published one" in capsys.readouterr().err
    assert train("--checkpoint", "c", *words) == 2
    assert "no use for --checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_labels_by_chance_are_no_model_and_leave_the_old_bundle(tmp_path, capsys):
    rng = np.random.default_rng(0)
    frame = FRAME.assign(Status=FRAME["Status"].sample(frac=1, random_state=rng).to_numpy())
    old = tmp_path / "b" / "old.json"
    old.parent.mkdir()
    old.write_text(json.dumps("old"))
    words = ("--bundle", tmp_path / "b", "--signing-key", tmp_path / "k.key", "--epochs", 1)
    assert train("--smoke", "--data", save(tmp_path / "t.rda", frame), "--other-data", *words) == 1
    assert "gate " in capsys.readouterr().err
    assert list((tmp_path / "b").iterdir()) == [old]

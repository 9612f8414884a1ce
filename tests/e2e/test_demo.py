"""The demo, as the README tells people to run it: every figure of its report has to be true of what happened."""

from __future__ import annotations

import json
import re

import pytest

from gateway.cli import main
from gateway.demo.scenes import scenes
from gateway.demo.tamper import flip_one_byte
from ops.audit.checkpoint import parse_vkey
from ops.audit.entry import parse
from ops.audit.read import LogReader
from tests.e2e.clients import program

REASONS = {
    "CREDENTIAL_MISSING": 20,
    "CREDENTIAL_INVALID": 20,
    "TENSOR_INVALID": 80,
}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    place = tmp_path_factory.mktemp("demo")
    report, page, kept = place / "report.json", place / "demo.html", place / "gateway"
    python = str(program("tritonclient"))
    code = main(["demo", "--report", str(report), "--page", str(page), "--keep", str(kept), "--client-python", python])
    return code, json.loads(report.read_text()), page.read_text(), kept


def test_the_whole_job_is_done_and_every_promise_kept(played):
    code, report, _, _ = played
    assert code == 0
    assert report["audit"]["verified"]
    assert report["audit"]["tamper_detected"]
    assert report["accuracy"] >= 0.905


def test_refusals_are_told_by_reason(played):
    _, report, _, _ = played
    refused = report["refused"]
    assert {reason: refused[reason] for reason in REASONS} == REASONS
    assert 40 <= refused["RATE_LIMITED"] <= 50, "60 requests against a burst of 10 and 5 a second"


def test_every_request_has_its_record(played):
    _, report, _, kept = played
    log = LogReader.open(kept / "log", parse_vkey((kept / "keys/log.vkey").read_text().strip()))
    entries = [parse(entry) for entry in log.entries(0, log.checkpoint.size)]
    infer = [entry for entry in entries if entry.get("method") == "/inference.GRPCInferenceService/ModelInfer"]
    strangers = sum(entry["count"] for entry in entries if "count" in entry)
    assert len(infer) + strangers == report["requests"]
    assert len({entry["id"] for entry in infer}) == len(infer)


def test_the_screen_keeps_its_rate_and_catches_what_is_no_product(played):
    _, report, _, _ = played
    screens = report["screens"]
    assert screens["products"]["caught_share"] <= 0.02, "calibrated to 1 %"
    for kind in ("noise", "inverted"):
        assert screens[kind]["caught_share"] >= 0.95
    assert screens["shuffled"]["caught_share"] >= 0.5
    assert screens["digits"]["caught_share"] >= 0.01


def test_the_page_holds_its_plots_and_needs_nothing_else(played):
    _, report, page, _ = played
    assert page.count("<svg") == 3
    assert report["audit"]["root"] in page
    assert not re.search(r'(src|href)="https?://(?!www\.w3\.org|matplotlib\.org)', page)


def test_without_a_client_it_says_how_to_make_one(tmp_path, capsys):
    assert main(["demo", "--client-python", str(tmp_path / "nowhere")]) == 2
    assert "make demo" in capsys.readouterr().out


def test_tampering_needs_a_request_to_tamper_with(tmp_path):
    (tmp_path / "tile/entries").mkdir(parents=True)
    with pytest.raises(ValueError, match="no request"):
        flip_one_byte(tmp_path)


def test_scenes_are_the_same_each_time():
    import numpy as np

    first, second = (scenes(np.random.default_rng(7)) for _ in range(2))
    assert [scene.name for scene in first] == [scene.name for scene in second]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.images, other.images)

"""The demo, as the README tells people to run it: every figure of its report has to be true of what happened."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.cli.main import main
from gateway.tools.demo.play import flip_one_byte
from gateway.tools.demo.scenes import scenes
from ops.audit.log.checkpoint import parse_vkey
from ops.audit.log.entry import parse
from ops.audit.reader.read import LogReader
from tests.e2e.clients import program

REASONS = {
    "CREDENTIAL_MISSING": 20,
    "CREDENTIAL_INVALID": 20,
    "TENSOR_INVALID": 80,
}


class Played(NamedTuple):
    code: int
    report: dict[str, Any]
    page: str
    kept: Path
    said: str


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    place = tmp_path_factory.mktemp("demo")
    report, page, kept = place / "report.json", place / "demo.html", place / "gateway"
    python = str(program("tritonclient"))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        options = ("--report", str(report), "--page", str(page), "--keep", str(kept), "--client-python", python)
        code = main(["demo", *options])
    return Played(code, json.loads(report.read_text()), page.read_text(), kept, " ".join(said.getvalue().split()))


def test_the_whole_job_is_done_and_every_promise_kept(played):
    report = played.report
    assert played.code == 0
    assert report["audit"]["verified"]
    assert report["audit"]["tamper_detected"]
    assert report["accuracy"] >= 0.905


def test_refusals_are_told_by_reason(played):
    refused = played.report["refused"]
    assert {reason: refused[reason] for reason in REASONS} == REASONS
    assert 40 <= refused["RATE_LIMITED"] <= 50, "60 requests against a burst of 10 and 5 a second"


def test_every_request_has_its_record(played):
    report = played.report
    log = LogReader.open(played.kept / "log", parse_vkey((played.kept / "keys/log.vkey").read_text().strip()))
    entries = [parse(entry) for entry in log.entries(0, log.checkpoint.size)]
    infer = [entry for entry in entries if entry.get("method") == "/inference.GRPCInferenceService/ModelInfer"]
    strangers = sum(entry["count"] for entry in entries if "count" in entry)
    assert len(infer) + strangers == report["requests"]
    assert len({entry["id"] for entry in infer}) == len(infer)


def test_it_says_why_there_are_as_many_records_as_there_are(played):
    report, records = played.report, played.report["audit"]["records"]
    assert records["requests"] + records["summed"] == report["requests"]
    assert records["requests"] + records["sums"] + records["own"] == report["audit"]["size"]
    assert records["own"] > 0
    told = f"{report['requests']:,} requests, {report['audit']['size']:,} records: {records['requests']:,} of one"
    for text in (played.page, played.said):
        assert told in text
        assert f"{records['sums']} that sum up {records['summed']} refusals" in text


def test_it_says_what_the_model_is_worth_on_all_images(played):
    assert played.report["accuracy_whole_test_set"] == 0.9224
    assert "on all 10,000 the model was measured at 92.2%" in played.page
    assert "on all 10,000 the model was measured at 92.2%" in played.said


def test_the_screen_keeps_its_rate_and_catches_what_is_no_product(played):
    screens = played.report["screens"]
    assert screens["products"]["caught_share"] <= 0.02, "calibrated to 1 %"
    for kind in ("noise", "inverted"):
        assert screens[kind]["caught_share"] >= 0.95
    assert screens["shuffled"]["caught_share"] >= 0.5
    assert screens["digits"]["caught_share"] >= 0.01


def test_the_page_holds_its_plots_and_needs_nothing_else(played):
    page = played.page
    assert page.count("<svg") == 3 * 2
    assert page.count('class="wide"') == page.count('class="narrow"') == 3
    assert played.report["audit"]["root"] in page
    assert not re.search(r'(src|href)="https?://(?!www\.w3\.org|matplotlib\.org)', page)


def test_the_plots_have_the_colours_of_the_page(played):
    """It has two sets of them, for light and for dark."""
    assert "prefers-color-scheme: dark" in played.page
    for plot in re.findall(r"<svg.*?</svg>", played.page, re.DOTALL):
        assert "var(--ink)" in plot
        assert not re.search(r"(fill|stroke): #", plot), "a colour that is the same in the dark"


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

"""The payments bundle that comes with the project behind a real gateway, asked as docs/explanation/models.md shows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.tools.samples import bundles_directory
from serving.bundles.bundle import load_bundle
from tests.e2e.running import serving
from tests.e2e.site import make_site

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = bundles_directory() / "payments/1"
SAMPLES = bundles_directory() / "samples/credit-data-891.safetensors"
CLIENT_S = 120


def shown(language: str) -> str:
    """The block of this language in the docs' section on payments that is about an answer."""
    text = (ROOT / "docs/explanation/models.md").read_text().partition("**An answer with its reasons.**")[2]
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def offer(policy):
    policy["models"]["payments"] = {
        "serve": "1",
        "screens": {"evidence": {"mode": "enforce", "flag": 0.05, "refuse": 0.01}},
    }
    policy["roles"]["predictor"][0]["models"].append("payments")


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    place = tmp_path_factory.mktemp("answer")
    site = make_site(place / "site", policy=offer)
    shutil.copytree(BUNDLE, site.directory / "bundles/payments/1")
    (place / "ask.py").write_text(shown("python"))
    with serving(site) as running:
        address = running.facts["data"].replace("127.0.0.1", "localhost")
        words = [address, site.directory / "tls/ca.crt", site.keys["plenty"], BUNDLE, SAMPLES]
        command = [sys.executable, place / "ask.py", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_S, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_the_documented_answers_are_the_ones_given(printed):
    assert printed == shown("text")


def test_through_the_gateway_contributions_add_up_to_the_score(printed):
    bundle = load_bundle(BUNDLE, [bundles_directory() / "stockade-release.pub"])
    scores = [line for line in printed.splitlines() if "logit" in line]
    assert len(scores) == 3
    for line in scores:
        logit, *parts = map(float, re.findall(r"[+-]\d+\.\d{3}", line))
        assert len(parts) == 1 + bundle.manifest["metrics"]["terms"]
        assert sum(parts) == pytest.approx(logit, abs=0.0005 * (len(parts) + 1))
    reasons = [line for line in printed.splitlines() if line.startswith("  ")]
    assert reasons
    assert all(line.split(maxsplit=2)[2] in bundle.manifest["reasons"] for line in reasons)

"""The lab from the command line, and its black box through a real gateway."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from defenses.budget.hardening import HardeningRule
from defenses.lab.attack import Refused, Size, Split
from defenses.lab.offline import Defended, OfflineOracle
from defenses.lab.trial import read_lines
from gateway.tools.lab import lab as lab_module
from gateway.tools.lab.catalogue import catalogue
from gateway.tools.lab.lab import LabExhausted, LocalLab
from gateway.tools.lab.place import policy_under_test
from gateway.tools.samples import bundles_directory

HARD = HardeningRule(top_k=3, temperature=1.0, decimals=3)
WITHOUT_WATCH = {"watch": None}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    with LocalLab(
        Size.SMOKE,
        tmp_path_factory.mktemp("lab"),
        bundles=bundles_directory(),
        policy=policy_under_test(None),
        data=None,
        tell=lambda what, done, total: None,
    ) as made:
        yield made


@pytest.fixture(scope="module")
def rows(local):
    noise = np.random.default_rng(2).random((20, 28, 28)).astype(np.float32)
    return np.concatenate([local.rows("kiosk", Split.TEST, 150, 0).rows, noise])


def test_the_gateway_answers_as_the_oracle_without_one(local, rows):
    with local.oracle("kiosk", "1", defended=True, changes=WITHOUT_WATCH) as oracle:
        served = oracle.ask(rows)
    alone = OfflineOracle(local.model("kiosk", "1"), "image", Defended(hardening=HARD)).ask(rows)
    assert served.answered.tolist() == alone.answered.tolist()
    assert not served.answered[-20:].any()
    assert served.labels.tolist() == alone.labels.tolist()
    np.testing.assert_array_equal(served.probabilities, alone.probabilities)
    assert served.acted is not None
    assert alone.acted is not None
    assert served.acted.tolist() == alone.acted.tolist()


def test_undefended_everything_is_answered_as_it_is(local, rows):
    with local.oracle("kiosk", "1", defended=False) as oracle:
        served = oracle.ask(rows)
    assert served.answered.all()
    assert served.acted is not None
    assert not served.acted.any()
    np.testing.assert_allclose(
        served.probabilities, local.model("kiosk", "1").outputs(rows)["probabilities"], rtol=0, atol=1e-6
    )


def test_accounts_are_ones_own_and_handed_out_once(local, rows):
    with local.oracle("kiosk", "1", defended=True, accounts=4, tenants=2, changes=WITHOUT_WATCH) as one:
        assert one.accounts == 4
        for account in range(4):
            assert one.ask(rows[:2], account).answered.all()
        with pytest.raises(IndexError):
            one.ask(rows[:2], 4)
        with pytest.raises(Refused):
            one.ask(rows[-1:], 3)
    (gateway,) = [place for key, place in local._standing.items() if "evidence" in key]
    assert gateway.taken >= 3


def test_there_is_an_end_of_accounts(local):
    with (
        pytest.raises(ValueError, match="11 accounts in 1 tenants"),
        local.oracle("kiosk", "1", defended=True, accounts=11),
    ):
        pass
    changes = {**WITHOUT_WATCH, "cost_per_row": 2}
    tenants = lab_module.TENANTS[Size.SMOKE]
    with (
        local.oracle("kiosk", "1", defended=True, accounts=tenants, tenants=tenants, changes=changes),
        pytest.raises(LabExhausted),
        local.oracle("kiosk", "1", defended=True, changes=changes),
    ):
        pass
    with local.oracle("kiosk", "1", defended=True, changes=changes) as fresh:
        assert fresh.accounts == 1


pytestmark = pytest.mark.slow


def stockade(*arguments, cwd, timeout_s=170):
    command = [sys.executable, "-m", "gateway", "lab", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False)


ROOT = Path(__file__).resolve().parents[2]


def test_run_goes_on_where_it_was_and_report_makes_a_page(tmp_path):
    out = tmp_path / "out"
    first = stockade("run", "whitebox/kiosk-1", "--smoke", "--out", out, cwd=ROOT)
    assert first.returncode == 0, first.stderr
    assert "3 run" in first.stderr
    again = stockade("run", "whitebox/kiosk-1", "--smoke", "--out", out, cwd=ROOT)
    assert "3 there already" in again.stderr
    shown = stockade("report", out, "--smoke", cwd=ROOT)
    assert shown.returncode in (0, 1), shown.stderr
    results = json.loads((out / "results.json").read_text())
    control = next(row for row in results["rows"] if not row["defended"])
    assert control["rate"] >= 0.9
    assert (
        "| control: kiosk 1 without screens falls to PGD-40 (L-inf 0.1) | met | 100.0% |"
        in (out / "README.md").read_text()
    )
    page = (out / "index.html").read_text()
    assert "whitebox/kiosk-1/eps-0.1/all" in page
    assert "<svg" in page
    assert not re.search(r'(src|href)="(?!#)|<link|@import|url\((?!#)', page), "it needs nothing from elsewhere"


SOME = ("query/kiosk-3/square", "benign/kiosk-3/duplicates-5", "whitebox/kiosk-2/eps-0.1/static", "sponge/kiosk-1")
EVERYTHING = os.environ.get("STOCKADE_TEST_LAB") == "1"


@pytest.mark.timeout(3600)
def test_experiments_run_small(tmp_path):
    """One of each kind, or with STOCKADE_TEST_LAB=1 the whole catalogue; what it finds so small means little."""
    out = tmp_path / "out"
    wanted = sorted(catalogue()) if EVERYTHING else SOME
    done = stockade("run", *wanted, "--smoke", "--out", out, cwd=ROOT, timeout_s=3500)
    assert done.returncode == 0, done.stderr
    shown = stockade("report", out, "--smoke", cwd=ROOT)
    assert shown.returncode in (0, 1), shown.stderr
    ran = {line.experiment for line in read_lines(out / "trials.jsonl")}
    assert ran >= set(wanted)


def test_what_cannot_be_used_is_said(tmp_path):
    unknown = stockade("run", "nothing", "--out", tmp_path / "o", cwd=ROOT)
    assert unknown.returncode == 2
    assert "there is no experiment 'nothing'" in unknown.stderr
    empty = stockade("report", tmp_path, cwd=ROOT)
    assert empty.returncode == 2
    assert "there are no trials of a full run" in empty.stderr
    (tmp_path / "policy.yaml").write_text("models: 3")
    policy = stockade("run", "whitebox", "--policy", tmp_path / "policy.yaml", "--out", tmp_path / "o", cwd=ROOT)
    assert policy.returncode == 2
    assert "is no policy with a map of `models`" in policy.stderr


def test_the_catalogue_is_listed():
    listed = stockade("list", "--json", cwd=ROOT)
    names = [row["name"] for row in json.loads(listed.stdout)]
    assert "whitebox/kiosk-2/eps-0.1/adaptive" in names
    assert len(names) == len(set(names))

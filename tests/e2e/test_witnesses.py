"""A gateway whose log two witnesses cosign, each a process of its own: what it keeps, counts, and gives as receipts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.cli.main import main
from gateway.config.load import load_config
from gateway.tools.check.check import check
from ops.audit.log.tlog_proof import parse_proof
from ops.audit.log.trust_policy import read_trust_policy
from stockade.v1 import audit_pb2
from tests.e2e.caller import calling, infer_body
from tests.e2e.running import serving, until
from tests.e2e.site import Site, copy_site

OF_ANOTHER_LOG = b"another.test/log\n9\nAAAA\n\n\xe2\x80\x94 another.test/log AAAAAAAA\n"
RECEIPT = "/stockade.v1.Audit/GetReceipt"


@pytest.fixture
def site(made_site: Site, tmp_path: Path) -> Site:
    return copy_site(made_site, tmp_path / "site")


@contextmanager
def witness(site: Site, name: str) -> Iterator[str]:
    """A witness of the site's log; gives its line of a policy."""
    place = site.directory.parent
    assert main(["keys", "witness", f"{name}.test/w", "--out", str(place / f"{name}.key")]) == 0
    (place / "watched").write_text(f"log {site.vkey}\nquorum none\n")
    program = [sys.executable, "-u", "-m", "gateway", "audit", "witness", "--key", str(place / f"{name}.key")]
    program += ["--policy", str(place / "watched"), "--store", str(place / f"{name}.sqlite"), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            vkey = process.stdout.readline().split()[-1]
            url = process.stdout.readline().split()[-1]
            yield f"witness {name} {vkey} {url}\n"
        finally:
            process.terminate()


def have_cosigned(site: Site, lines: str) -> Path:
    """Configure the witnesses of these lines, all of which it takes."""
    policy = site.directory / "witnesses"
    names = " ".join(line.split()[1] for line in lines.splitlines())
    policy.write_text(f"log {site.vkey}\n{lines}group all all {names}\nquorum all\n")
    site.change_config(lambda config: config["audit"].update(witnesses={"policy": str(policy), "every": "1s"}))
    return policy


def receipt_of(site: Site, running, index: int) -> bytes:
    asked = audit_pb2.GetReceiptRequest(index=index).SerializeToString()
    certificate = (site.read("clients/operator.tls.crt"), site.read("clients/operator.tls.key"))
    with calling(site, running.facts["admin"], certificate=certificate) as admin:
        return audit_pb2.GetReceiptResponse.FromString(admin.ask(RECEIPT, asked).body).receipt


def test_an_answers_receipt_is_cosigned_by_all_witnesses(site, tmp_path, capsys):
    with witness(site, "one") as one, witness(site, "two") as two:
        policy_file = have_cosigned(site, one + two)
        cosigned = load_config(site.config).state_dir / "cosigned"
        policy = read_trust_policy(policy_file)
        with serving(site) as running:
            with calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
                answer = caller.infer(infer_body())
            index = int(answer.trailers["x-stockade-audit-index"])
            until(
                lambda: cosigned.exists() and policy.open(cosigned.read_bytes()).checkpoint.size > index, "not cosigned"
            )
            receipt = receipt_of(site, running, index)
            until(lambda: running.counted("stockade_audit_cosigned_size") > index, "not on the page")
            assert running.counted("stockade_audit_witness_failures_total") == 0
    proof = parse_proof(receipt)
    assert proof.verify(policy).witnesses == ("one", "two")
    assert json.loads(proof.extra or b"")["id"] == answer.request_id
    file = tmp_path / "answer.tlog-proof"
    file.write_bytes(receipt)
    capsys.readouterr()
    assert main(["audit", "verify", str(file), "--policy", str(policy_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["witnesses"] == ["one", "two"]


def test_without_a_quorum_clients_are_answered_and_the_page_and_the_log_say_so(site):
    with witness(site, "one") as one, witness(site, "two") as two:
        pass  # both are gone
    have_cosigned(site, one + two)
    with serving(site) as running:
        with calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
            assert caller.infer(infer_body()).reason == "OK"
        for name in ("one", "two"):
            until(lambda name=name: running.counted("stockade_audit_witness_failures_total", witness=name) > 0, name)
        until(running.entries, "no checkpoint")
        alone = read_trust_policy(site.directory.parent / "watched")
        (load_config(site.config).state_dir / "cosigned").write_bytes(OF_ANOTHER_LOG)
        assert parse_proof(receipt_of(site, running, 0)).verify(alone).witnesses == ()
        failed = [line for line in running.errors.read_text().splitlines() if "witness-failed" in line]
        assert len(failed) == 2, "each is told of once"


def problems(site: Site) -> list[str]:
    report = check(site.config, datetime.now(UTC))
    return [finding.problem for finding in report.findings if finding.where == "audit.witnesses.policy"]


def test_a_policy_that_cannot_be_met_is_found_before_the_start(site, capsys):
    with witness(site, "one") as one:
        policy = have_cosigned(site, one)
    assert problems(site) == []
    good = policy.read_text()
    for text, words in (
        (good.replace(f"log {site.vkey}\n", ""), "has no line `log "),
        (good.replace("http://", "# "), "line 2: not a line of a policy"),
        (" ".join(good.split("http://")[0:1]) + "\ngroup all all one\nquorum all\n", "fewer than the quorum all"),
    ):
        policy.write_text(text)
        assert [words in problem for problem in problems(site)] == [True]
    policy.unlink()
    assert ["No such file" in problem or "not there" in problem for problem in problems(site)] == [True]
    capsys.readouterr()
    assert main(["serve", str(site.config)]) == 2
    assert "witnesses" in capsys.readouterr().err

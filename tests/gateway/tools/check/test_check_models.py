"""`stockade check` over the bundles, and over what the policy says of them: what would not start, or answer nobody."""

from __future__ import annotations

import shutil
import threading

import pytest

from gateway.cli import main as cli
from gateway.config.load import load_config
from gateway.config.place import place_of
from gateway.policy.file import Memory
from gateway.policy.load import load_policy
from gateway.policy.signature import sign_policy
from gateway.tools.check.check import check
from serving.bundles import catalog
from tests.gateway.tools.check.test_config_check import NOW, at, edit, found, good

__all__ = ["at", "good"]


def sign(at):
    sign_policy(at / "policy.yaml", at / "keys/policy.key")


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_bundle_that_was_changed(at):
    flip(at / "bundles/kiosk/1/model.onnx")
    said = f"{at / 'bundles/kiosk/1'}: model.onnx: digest; it is not what was signed; copy the bundle again from where"
    ((level, where, problem),) = found(at)
    assert (level, where, problem.startswith(said)) == ("error", "bundles.directory", True), problem
    assert not check(at / "stockade.yaml", NOW).ok


def test_what_serve_says_of_it(at, capsys):
    (at / "bundles/kiosk/1/model.sig").unlink()
    assert cli.main(["serve", str(at / "stockade.yaml")]) == 2
    said = capsys.readouterr().err
    assert f"{at / 'bundles/kiosk/1'}: model.sig: unsigned; sign the bundle, or copy it again" in said


def test_every_bundle_is_looked_at(at):
    for name in ("2", "3"):
        shutil.copytree(at / "bundles/kiosk/1", at / "bundles/kiosk" / name)
        (at / "bundles/kiosk" / name / "extra.md").touch()
    problems = [problem for _, _, problem in found(at)]
    assert [problem.partition(": ")[0] for problem in problems] == [str(at / f"bundles/kiosk/{name}") for name in "23"]


def test_one_version_twice(at):
    shutil.copytree(at / "bundles/kiosk/1", at / "bundles/kiosk/one")
    problem = f"{at / 'bundles/kiosk/one'}: two bundles are 'kiosk' version '1'; keep one of them"
    assert found(at) == [("error", "bundles.directory", problem)]


def test_more_bundles_than_there_may_be(at, monkeypatch):
    monkeypatch.setattr(catalog, "BUNDLES_MAX", 0)
    assert found(at) == [("error", "bundles.directory", "bundles: count (more than 0 bundles)")]


def test_no_bundle_at_all(at):
    shutil.rmtree(at / "bundles/kiosk")
    advice = f"copy their signed bundles to {at / 'bundles'}/<name>/<version>"
    problem = f"{at / 'bundles'} holds no bundle, so nobody is answered: {advice}"
    assert found(at) == [("error", "bundles.directory", problem)]


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ('serve: "1"', 'serve: "2"', "models.kiosk.serve: there is no bundle of version '2' (there: 1)"),
        ("outputs: [probabilities]", "outputs: [odds]", "models.kiosk.outputs: the bundle has no output 'odds'"),
    ],
)
def test_a_policy_that_the_bundles_do_not_bear_out(at, before, after, problem):
    edit(at / "policy.yaml", before, after)
    sign(at)
    errors = [(where, said) for level, where, said in found(at) if level == "error"]
    assert errors == [(str(at / "policy.yaml"), problem)]


def test_nobody_is_asked_for_keys(at):
    issuer = 'issuers:\n  corp: {url_or_file: "https://127.0.0.1:9/keys", issuer: "https://a", audience: b'
    edit(at / "policy.yaml", "models:\n", f"{issuer}, algorithms: [EdDSA]}}\nmodels:\n")
    sign(at)
    before = threading.active_count()
    assert found(at) == []
    assert threading.active_count() == before


def test_a_policy_older_than_the_one_that_was_last_in_force(at):
    config = load_config(at / "stockade.yaml")
    edit(at / "policy.yaml", "revision: 1", "revision: 7")
    sign(at)
    Memory(place_of(config).memory).keep(load_policy(at / "policy.yaml", at / "keys/policy.pub"), at / "policy.yaml")
    assert found(at) == []
    edit(at / "policy.yaml", "revision: 7", "revision: 6")
    sign(at)
    ((level, where, problem),) = found(at)
    assert (level, where) == ("error", str(at / "policy.yaml"))
    assert "revision 6 does not replace revision 7" in problem


def test_keys_that_are_no_keys_are_said_once(at):
    (at / "keys/bundles.pub").write_text("nonsense")
    assert [where for _, where, _ in found(at)] == ["bundles.trusted_keys"]

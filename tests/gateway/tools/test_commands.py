"""The command line: what is asked for is done, and what goes wrong is a sentence that says what to do."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime

import pytest
import yaml
from cryptography import x509

from gateway.cli import main as cli
from gateway.policy.load import load_policy
from gateway.tools.init.init import init_directory
from gateway.tools.operator import reason
from gateway.tools.samples import bundles_directory


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    target = tmp_path_factory.mktemp("commands") / ("a-long-name-" * 12)
    init_directory(target, now=datetime.now(UTC), random_bytes=os.urandom, bundles=bundles_directory())
    return target


@pytest.fixture
def at(made, tmp_path):
    return shutil.copytree(made, tmp_path / "gateway")


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def main(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(each) for each in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return main


def test_what_init_prints_can_be_copied(run, tmp_path):
    target = tmp_path / ("a-long-name-" * 12)
    code, said, _ = run("init", target)
    assert code == 0
    for copied in (target / "clients/kiosk-7.key", target / "clients/operator.tls.crt", target / "stockade.yaml"):
        assert str(copied) in said
    assert (target / "keys/log.vkey").read_text().strip() in said


def test_what_check_prints_can_be_copied(run, made):
    code, said, _ = run("check", made / "stockade.yaml")
    assert code == 0
    assert str(made / "stockade.yaml") in said
    assert ["listen.data", "127.0.0.1:8001"] in [line.split() for line in said.splitlines()]


@pytest.mark.parametrize(
    ("options", "data", "metrics"),
    [
        ((), "127.0.0.1:8001", "127.0.0.1:8002"),
        (("--listen", "0.0.0.0", "--port", "9000"), "0.0.0.0:9000", "127.0.0.1:9001"),
        (("--listen", "::"), "[::]:8001", "127.0.0.1:8002"),
        (("--listen", "192.0.2.7", "--port", "65532"), "192.0.2.7:65532", "127.0.0.1:65533"),
        (("--port", "0"), "127.0.0.1:0", "127.0.0.1:0"),
    ],
)
def test_init_takes_the_address_and_the_first_port(run, tmp_path, options, data, metrics):
    assert run("init", tmp_path / "made", *options)[0] == 0
    listen = yaml.safe_load((tmp_path / "made/stockade.yaml").read_text())["listen"]
    assert (listen["data"], listen["metrics"]) == (data, metrics)
    certificate = x509.load_pem_x509_certificate((tmp_path / "made/tls/server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    assert sorted(addresses) == sorted({"127.0.0.1", "::1"} | ({"192.0.2.7"} & set(options)))


@pytest.mark.parametrize("port", ["-1", "65533", "x"])
def test_ports_that_are_none(run, tmp_path, port):
    with pytest.raises(SystemExit):
        run("init", tmp_path / "made", "--port", port)
    assert not (tmp_path / "made").exists()


def test_a_listening_address_that_is_none(run, tmp_path):
    code, _, said = run("init", tmp_path / "made", "--listen", "no host")
    assert (code, (tmp_path / "made").exists()) == (2, False)
    assert "'no host' is not a host name" in said


def test_a_broken_policy_is_not_signed(run, at):
    before = (at / "policy.yaml.sig").read_bytes()
    text = (at / "policy.yaml").read_text()
    (at / "policy.yaml").write_text(text.replace("revision: 1", "revision: none"))
    code, _, said = run("policy", "sign", at / "stockade.yaml")
    assert (code, "revision: 'none' is not a whole number" in said) == (2, True)
    assert (at / "policy.yaml.sig").read_bytes() == before


def test_a_policy_is_not_signed_with_a_key_that_the_gateway_would_refuse(run, at, tmp_path):
    init_directory(tmp_path / "other", now=datetime.now(UTC), random_bytes=os.urandom)
    before = (at / "policy.yaml.sig").read_bytes()
    code, _, said = run("policy", "sign", at / "stockade.yaml", "--key", tmp_path / "other/keys/policy.key")
    assert (code, "name the private key of" in said) == (2, True)
    assert (at / "policy.yaml.sig").read_bytes() == before


def test_a_good_policy_is_signed(run, at):
    (at / "policy.yaml").write_text((at / "policy.yaml").read_text().replace("revision: 1", "revision: 2"))
    code, said, _ = run("policy", "sign", at / "stockade.yaml")
    policy = load_policy(at / "policy.yaml", at / "keys/policy.pub")
    assert (code, policy.revision, policy.digest in said) == (0, 2, True)


@pytest.mark.parametrize("words", [("policy", "sign"), ("policy", "reload"), ("check",), ("serve",)])
def test_a_policy_in_the_place_of_its_configuration_is_told_what_to_type(run, at, words):
    code, shown, said = run(*words, at / "policy.yaml")
    assert (code != 0, f"such as {at / 'stockade.yaml'}" in shown + said) == (True, True)


REMOVED = [
    (("client", "{at}"), "clients/kiosk-7.key", "a directory of `stockade init`?"),
    (("client", "{at}"), "tls/ca.crt", "a directory of `stockade init`?"),
    (("client", "{at}"), "stockade.yaml", "name an existing file"),
    (("client", "{at}", "--key", "{at}/none"), None, "with --key"),
    (("client", "{at}", "--images", "{at}/none"), None, "with --images"),
    (("keys", "add", "{at}/stockade.yaml", "kiosk-7-b", "--out", "{at}/new.key"), "keys/pepper", "keys/pepper: cannot"),
    (("keys", "add", "{at}/stockade.yaml", "kiosk-7-b", "--out", "{at}/policy.yaml"), None, "a new file with --out"),
    (("policy", "sign", "{at}/stockade.yaml"), "keys/policy.key", "keys/policy.key: cannot be read"),
    (("policy", "sign", "{at}/stockade.yaml"), "policy.yaml", "policy.yaml: cannot be read"),
    (("policy", "reload", "{at}/stockade.yaml"), "clients/operator.tls.key", "--identity PREFIX"),
    (("policy", "reload", "{at}/stockade.yaml"), "tls/ca.crt", "with --ca"),
    (("policy", "reload", "{at}/stockade.yaml", "--ca", "{at}/none"), None, "with --ca"),
    (("serve", "{at}/stockade.yaml"), "stockade.yaml", "name an existing file"),
]


@pytest.mark.parametrize(("words", "removed", "advice"), REMOVED)
def test_a_missing_file_is_a_sentence(run, at, words, removed, advice):
    if removed is not None:
        (at / removed).unlink()
    code, _, said = run(*(word.format(at=at) for word in words))
    assert code == 2
    assert advice in said
    assert "Errno" not in said


def test_what_tls_says_is_said_in_words(tmp_path):
    details = "failed to connect: Ssl handshake failed: SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED"
    assert reason(details, tmp_path) == f"the server's certificate is not of {tmp_path}; name who signed it with --ca"
    assert reason("connection refused", tmp_path) == "connection refused"

"""`stockade check` over the servers that run the models: their authority, our certificate, our token."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from gateway.tools.check.check import check
from tests.gateway.tools.check.test_config_check import NOW, good

__all__ = ["good"]


@pytest.fixture
def at(good, tmp_path):
    return shutil.copytree(good, tmp_path / "gateway")


def found(at, now=NOW, **oip):
    config = at / "stockade.yaml"
    document = yaml.safe_load(config.read_text())
    document["engine"] = {"kind": "oip", "oip": {"addresses": ["10.0.0.5:8001"], **oip}}
    config.write_text(json.dumps(document))
    return [(finding.level, finding.where, finding.problem) for finding in check(config, now).findings]


TLS = {"ca": "tls/ca.crt", "certificate": "clients/kiosk-7.tls.crt", "key": "clients/kiosk-7.tls.key"}


def test_nothing_is_wrong(at):
    (at / "keys/token").write_text("let-me-in")
    (at / "keys/token").chmod(0o600)
    assert found(at, tls=TLS, token="keys/token") == []


def test_plaintext_deserves_a_look(at):
    said = "inputs and answers can be read and changed on the way"
    assert found(at, unsafe_plaintext=True) == [("warning", "engine.oip.unsafe_plaintext", said)]


@pytest.mark.parametrize(
    ("change", "where", "problem"),
    [
        ({"ca": "nowhere.crt"}, "engine.oip.tls.ca", "cannot be read"),
        ({"ca": "keys/log.vkey"}, "engine.oip.tls.ca", "holds no certificate in PEM"),
        ({"certificate": "nowhere.crt"}, "engine.oip.tls.certificate", "cannot be read"),
        ({"key": "clients/operator.tls.key"}, "engine.oip.tls.certificate", "is not the key of engine.oip.tls.cert"),
    ],
)
def test_what_tls_needs(at, change, where, problem):
    ((level, place, text),) = found(at, tls=TLS | change)
    assert (level, place) == ("error", where)
    assert problem in text


def test_certificates_expire(at):
    late = datetime(2040, 1, 1, tzinfo=UTC) + timedelta(days=1)
    assert "engine.oip.tls.certificate" in {
        where for level, where, _ in found(at, now=late, tls=TLS) if level == "error"
    }


def test_an_empty_token(at):
    (at / "keys/token").write_text("")
    (at / "keys/token").chmod(0o600)
    ((level, where, text),) = found(at, tls=TLS, token="keys/token")
    assert (level, where) == ("error", "engine.oip.token")
    assert "bearer token" in text


def test_a_token_that_others_can_read(at):
    (at / "keys/token").write_text("let-me-in")
    (at / "keys/token").chmod(0o644)
    ((_, _, text),) = found(at, tls=TLS, token="keys/token")
    assert "engine.oip.token: token has mode 0644" in text

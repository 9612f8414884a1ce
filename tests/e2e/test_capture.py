"""Payloads are kept encrypted where the policy asks for it, and secrets are kept nowhere."""

from __future__ import annotations

import base64
from hashlib import sha256
from pathlib import Path

import grpc
import numpy as np
import pytest

from ops.audit.log.checkpoint import parse_vkey
from ops.audit.payloads.keys import KeyStore
from ops.audit.reader.read import LogReader
from tests.e2e.caller import calling, images, infer_body
from tests.e2e.running import entries_of, serving, verified
from tests.e2e.site import copy_site

MARK = "a-mark-that-only-the-caller-knows"


def noise() -> np.ndarray:
    return np.random.default_rng(7).random((1, 28, 28), np.float32)


def opened(site, index: int, entry: dict, field: str) -> bytes:
    """The plaintext of a payload, by way of the public log and the key database."""
    sealed = entry["payload"][field]
    reader = LogReader.open(site.log, parse_vkey(site.vkey))
    ciphertext = reader.blob(index, bytes.fromhex(sealed["ciphertext_sha256"]))
    assert sha256(ciphertext).hexdigest() == sealed["ciphertext_sha256"]
    origin = reader.checkpoint.origin
    keys = KeyStore(site.directory / "keys/payload.db", site.read("keys/payload-master.key"), origin=origin)
    try:
        return keys.open(entry["payload"]["key"], bytes.fromhex(entry["id"]), field, ciphertext, sealed["commitment"])
    finally:
        keys.close()


@pytest.fixture(scope="module", params=["all", "flagged"])
def captured(request, made_site, tmp_path_factory):
    """A gateway that kept payloads: its mode, its site, what was sent and the replies; it has stopped."""
    site = copy_site(made_site, tmp_path_factory.mktemp(request.param) / "site")

    def capture(policy) -> None:
        policy["models"]["kiosk"]["capture"] = request.param

    site.change_policy(capture)
    sent = {
        "honest": infer_body(images()[:1], id=MARK),
        "foreign": infer_body(noise(), id=MARK),
        "malformed": infer_body(images()[:1, :27], id=MARK),
    }
    with serving(site) as running, calling(site, running.facts["data"], site.bearer("archivist")) as caller:
        replies = {name: caller.infer(body) for name, body in sent.items()}
        other = caller.infer(sent["honest"], metadata=site.bearer("plenty"))
    return request.param, site, sent, replies, other


def entry_of(site, reply) -> tuple[int, dict]:
    index = int(reply.trailers["x-stockade-audit-index"])
    entry = entries_of(site, index)[0]
    assert entry["id"] == reply.request_id
    return index, entry


def test_what_was_kept_is_what_was_sent_and_answered(captured):
    mode, site, sent, replies, _ = captured
    index, honest = entry_of(site, replies["honest"])
    assert honest["reason"] == "OK"
    assert ("payload" in honest) == (mode == "all")
    if mode == "all":
        assert opened(site, index, honest, "request") == sent["honest"]
        assert opened(site, index, honest, "response") == replies["honest"].body
        assert honest["payload"]["request"]["bytes"] == len(sent["honest"])


def test_what_a_screen_refused_is_kept_and_has_no_answer(captured):
    _, site, sent, replies, _ = captured
    index, foreign = entry_of(site, replies["foreign"])
    assert (foreign["reason"], replies["foreign"].code) == ("INPUT_REJECTED", grpc.StatusCode.PERMISSION_DENIED)
    assert opened(site, index, foreign, "request") == sent["foreign"]
    assert "response" not in foreign["payload"]


def test_a_tenant_that_keeps_nothing_has_nothing_kept(captured):
    _, site, _, _, other = captured
    _, entry = entry_of(site, other)
    assert (entry["reason"], "payload" in entry) == ("OK", False)


def test_the_log_with_payloads_verifies(captured):
    assert verified(captured[1]).exit_code == 0


def test_no_secret_and_no_payload_is_readable_anywhere(captured):
    """Every file that the gateway wrote, and its log, is searched for what must stay secret, as text and as bytes."""
    _, site, sent, replies, _ = captured
    read = [*files_below(site.log), *files_below(site.directory / "recorder"), *files_below(site.directory / "state")]
    read += [site.directory / "keys/payload.db", *site.directory.parent.glob("site.*.stderr")]
    assert len(read) > 8
    for path in read:
        data = path.read_bytes()
        for name, secret in secrets(site, sent, replies):
            assert secret not in data, f"{name} stands in {path}"


def files_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def secrets(site, sent, replies):
    for name, key in site.keys.items():
        secret = key.partition(".")[2]
        yield f"the secret of {name}", secret.encode()
        yield f"the Basic form of {name}", base64.b64encode(key.replace(".", ":", 1).encode()).rstrip(b"=")[:-2]
    for name in ("pepper", "payload-master.key"):
        yield name, site.read("keys", name)
        yield f"{name} in hex", site.read("keys", name).hex().encode()
    yield "the log's key", site.read("keys/log.key").strip().split(b"+", 4)[4]
    yield "the server's key", site.read("tls/server.key").splitlines()[1]
    yield "the client's own id", MARK.encode()
    for name, body in sent.items():
        yield f"the pixels of {name}", body[-400:-200] if name == "foreign" else images()[0].tobytes()[1200:1400]
    yield "an answer", replies["honest"].body


def test_the_search_would_find_a_planted_secret(captured, tmp_path):
    _, site, sent, replies, _ = captured
    planted = tmp_path / "log"
    for name, secret in secrets(site, sent, replies):
        planted.write_bytes(b"before" + secret + b"after")
        assert secret in planted.read_bytes(), name
        assert len(secret) >= 16, name

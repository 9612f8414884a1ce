"""`stockade init`: what it makes works, is closed to others, and is there whole or not at all."""

import hmac
import io
import json
import os
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from rich.console import Console

from gateway.config.load import load_config
from gateway.policy.load import load_policy
from gateway.tools.check.check import check
from gateway.tools.init.files import Ports, issue_api_key
from gateway.tools.init.init import InitRefused, init_directory
from gateway.tools.init.report import render
from gateway.tools.samples import bundles_directory
from ops.audit.log.checkpoint import parse_skey, parse_vkey
from serving.bundles.bundle import read_keys

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def counted(count=0):
    """Bytes that are different each time and the same in each run."""

    def random_bytes(size):
        nonlocal count
        count += 1
        return hmac.digest(b"test", count.to_bytes(8, "big"), "sha512")[:size]

    return random_bytes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    source = tmp_path_factory.mktemp("bundles")
    key = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    (source / "stockade-release.pub").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for model in ("kiosk/1", "kiosk/2", "other/1"):
        (source / model).mkdir(parents=True)
        (source / model / "manifest.json").write_text("{}")
    (source / "samples").mkdir()
    target = tmp_path_factory.mktemp("work") / "gateway"
    return init_directory(
        target, now=NOW, random_bytes=counted(), hosts=["gw.example.org", "192.0.2.7"], bundles=source
    )


def test_what_it_makes_passes_check_without_a_warning(tmp_path):
    made = init_directory(tmp_path / "gateway", now=NOW, random_bytes=counted(), bundles=bundles_directory())
    report = check(made.config, NOW)
    assert report.findings == ()
    assert report.ok


def test_nobody_else_can_read_a_secret_and_no_secret_is_world_readable(made):
    public = {".crt", ".pub", ".vkey", ".yaml", ".sig", ".json"}
    for path in [made.directory, *made.directory.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700 or "bundles" in path.parts, path
        elif path.suffix not in public:
            assert mode == 0o600, path


def test_the_report_says_where_and_never_what(made):
    secrets = [path for path in made.files if stat.S_IMODE(path.stat().st_mode) == 0o600]
    assert {path.name for path in secrets} >= {"log.key", "policy.key", "pepper", "ca.key", "kiosk-7.key", "server.key"}
    for path in secrets:
        assert path.read_bytes().strip().hex() not in repr(made).encode().hex()


def test_only_the_hmac_of_an_api_key_is_in_the_policy(made):
    policy = load_policy(made.policy, made.directory / "keys/policy.pub")
    pepper = (made.directory / "keys/pepper").read_bytes()
    keys = {name: path.read_text().strip() for name, path in made.api_keys.items()}
    assert set(keys) == {"kiosk-7", "batch-1"}
    for name, entry in policy.api_keys():
        assert entry.hmac == hmac.new(pepper, keys[name].encode(), "sha256").hexdigest()
        assert keys[name].partition(".")[0] == entry.id
        assert keys[name].partition(".")[2] not in made.policy.read_text()
    assert len(keys["kiosk-7"].partition(".")[2]) >= 22  # 128 bits and more, in base64


def test_principals(made):
    policy = load_policy(made.policy, made.directory / "keys/policy.pub")
    assert policy.class_of("kiosk-7") == "interactive"
    assert policy.class_of("batch-1") == "standard"
    assert policy.principals["batch-1"].limits == "small"
    assert policy.principals["operator"].api_keys == ()
    assert dict(policy.certificate_names()) == {
        "kiosk-7": "spiffe://stockade.local/kiosk/7",
        "operator": "spiffe://stockade.local/operator",
    }


def test_the_log_key_has_the_name_of_the_origin(made):
    config = load_config(made.config)
    signer = parse_skey(config.audit.signing_key.read_text().strip())
    assert signer.name == made.origin == config.audit.origin
    assert parse_vkey(made.vkey) == signer.verifier == parse_vkey(config.audit.vkey.read_text().strip())


def certificate(made, name):
    return x509.load_pem_x509_certificate((made.directory / name).read_bytes())


def test_certificates_serve_one_purpose_and_carry_their_names(made):
    server = certificate(made, "tls/server.crt")
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "gw.example.org"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "192.0.2.7"]
    usages = {
        "tls/server.crt": ExtendedKeyUsageOID.SERVER_AUTH,
        "clients/operator.tls.crt": ExtendedKeyUsageOID.CLIENT_AUTH,
        "clients/kiosk-7.tls.crt": ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    authority = certificate(made, "tls/ca.crt")
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    for name, usage in usages.items():
        leaf = certificate(made, name)
        leaf.verify_directly_issued_by(authority)
        assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
        assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
        assert leaf.not_valid_before_utc == NOW - timedelta(minutes=5)
        assert leaf.not_valid_after_utc == made.certificates_expire == NOW + timedelta(days=397)


def test_a_tls_handshake_works_with_a_client_certificate_and_not_without(tmp_path):
    """Both ends in memory, with the standard library's TLS at its strictest. TLS looks at the real clock."""
    at = init_directory(
        tmp_path / "g", now=datetime.now(UTC), random_bytes=os.urandom, hosts=["gw.example.org"]
    ).directory
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(at / "tls/server.crt", at / "tls/server.key")
    server.load_verify_locations(at / "tls/ca.crt")
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=at / "tls/ca.crt")
    for context in (server, client):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake_hands(server, client)
    client.load_cert_chain(at / "clients/kiosk-7.tls.crt", at / "clients/kiosk-7.tls.key")
    peer = shake_hands(server, client)
    assert peer["subjectAltName"] == (("URI", "spiffe://stockade.local/kiosk/7"),)


def shake_hands(server_context, client_context):
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname="gw.example.org")
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    unfinished = [client, server]
    for _ in range(10):
        for side in list(unfinished):
            try:
                side.do_handshake()
                unfinished.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert not unfinished
    return server.getpeercert()


def test_the_release_key_alone_is_trusted(tmp_path):
    made = init_directory(tmp_path / "g", now=NOW, random_bytes=counted(), bundles=bundles_directory())
    released = bundles_directory() / "stockade-release.pub"
    assert (made.directory / "keys/bundles.pub").read_bytes() == released.read_bytes()
    assert len(read_keys([released])) == 1
    assert not (made.directory / "keys/bundles.key").exists()


def test_the_model_of_the_policy_is_copied(made):
    assert made.bundles == ("kiosk/1",)
    assert [path.name for path in (made.directory / "bundles").iterdir()] == ["kiosk"]


def test_without_models_there_is_a_key_to_sign_your_own_with(tmp_path):
    made = init_directory(tmp_path / "g", now=NOW, random_bytes=counted())
    assert made.bundles == ()
    assert (made.directory / "keys/bundles.key").exists()
    assert [finding.where for finding in check(made.config, NOW).findings] == ["bundles.directory"]


def test_ports_and_addresses_are_what_was_asked_for(tmp_path):
    ports = Ports(data=0, metrics=0, admin=0, data_mtls=0)
    made = init_directory(tmp_path / "g", now=NOW, random_bytes=counted(), listen_host="::1", ports=ports)
    listen = load_config(made.config).listen
    assert (listen.data, listen.data_mtls, listen.metrics, listen.admin) == (
        "[::1]:0",
        "[::1]:0",
        "127.0.0.1:0",
        "127.0.0.1:0",
    )


def test_two_directories_share_no_secret(tmp_path):
    one = init_directory(tmp_path / "one", now=NOW, random_bytes=os.urandom)
    two = init_directory(tmp_path / "two", now=NOW, random_bytes=os.urandom)
    secrets = [path.read_bytes() for made in (one, two) for path in made.files if path.stat().st_mode & 0o077 == 0]
    assert len(secrets) == len(set(secrets))
    assert one.origin != two.origin


def test_an_empty_directory_is_filled_and_a_full_one_is_not_touched(tmp_path):
    target = tmp_path / "gateway"
    target.mkdir()
    init_directory(target, now=NOW, random_bytes=counted())
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    with pytest.raises(InitRefused, match="holds something already; name a new directory"):
        init_directory(target, now=NOW, random_bytes=counted(100))
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    (tmp_path / "file").touch()
    with pytest.raises(InitRefused, match="holds something already"):
        init_directory(tmp_path / "file", now=NOW, random_bytes=counted())


@pytest.mark.parametrize("host", ["", "*", "a b", "-a", "a-", "a..b", "a/b", "x\n", "999.1.1.1", "1.2.3", "a.7", "::z"])
def test_what_is_no_host_is_refused_before_anything_is_made(tmp_path, host):
    with pytest.raises(InitRefused, match="is not a host name or an address"):
        init_directory(tmp_path / "gateway", now=NOW, random_bytes=counted(), hosts=[host])
    assert list(tmp_path.iterdir()) == []


def test_when_the_disk_says_no_nothing_is_left(tmp_path, monkeypatch):
    """The last step before the rename fails; the half-made directory goes."""
    fsync = os.fsync
    calls = 0

    def full(descriptor):
        nonlocal calls
        calls += 1
        if calls == 20:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        init_directory(tmp_path / "gateway", now=NOW, random_bytes=counted())
    assert list(tmp_path.iterdir()) == []


def test_everything_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    synced: set[int] = set()
    fsync, rename = os.fsync, Path.rename
    seen = {}

    def remember(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def look(self, target):
        seen["unsynced"] = [path for path in [self, *self.rglob("*")] if path.stat().st_ino not in synced]
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", remember)
    monkeypatch.setattr(Path, "rename", look)
    init_directory(tmp_path / "gateway", now=NOW, random_bytes=counted())
    assert seen["unsynced"] == []
    assert tmp_path.stat().st_ino in synced


def test_people_and_machines_are_told_where_and_never_what(made):
    page = io.StringIO()
    render(made, Console(file=page, width=300))
    for text in (page.getvalue(), json.dumps(made.as_json())):
        assert str(made.config) in text
        assert str(made.api_keys["batch-1"]) in text
        assert made.vkey in text
        for path in made.api_keys.values():
            assert path.read_text().strip() not in text


def test_a_new_api_key_comes_with_its_entry():
    key, entry = issue_api_key(b"p" * 32, "clerk-b", NOW, counted())
    digest = hmac.new(b"p" * 32, key.encode(), "sha256").hexdigest()
    assert entry == f"{{id: clerk-b, hmac: {digest}, expires: 2026-11-24}}"
    with pytest.raises(ValueError, match="an API key's id"):
        issue_api_key(b"p" * 32, "clerk.b", NOW, counted())

"""`stockade check`: each thing it can find, one at a time, in a directory that was good before."""

import io
import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rich.console import Console

from gateway.models.model_set import ModelSet
from gateway.policy.signature import sign_policy
from gateway.request.traces import MISSING_EXTRA
from gateway.tools.check import check as check_module
from gateway.tools.check.check import check, render
from gateway.tools.init.init import init_directory
from gateway.tools.samples import bundles_directory

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
LEAF_EXPIRES = NOW + timedelta(days=397)


def zeros_and_a_count():
    count = 0

    def random_bytes(size):
        nonlocal count
        count += 1
        return count.to_bytes(size, "big")

    return random_bytes


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    target = tmp_path_factory.mktemp("check") / "good"
    init_directory(target, now=NOW, random_bytes=zeros_and_a_count(), bundles=bundles_directory())
    return target


@pytest.fixture
def at(good, tmp_path):
    return shutil.copytree(good, tmp_path / "gateway")


def found(at, now=NOW):
    report = check(at / "stockade.yaml", now)
    return [(finding.level, finding.where, finding.problem) for finding in report.findings]


def edit(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def public(key):
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_good_directory(at):
    assert found(at) == []


REMOVED = {
    "tls/server.crt": "tls.certificate",
    "tls/server.key": "tls.key",
    "tls/ca.crt": "tls.client_ca",
    "keys/log.key": "audit.signing_key",
    "keys/log.vkey": "audit.vkey",
    "keys/payload-master.key": "audit.master_key",
    "keys/pepper": "policy.pepper",
    "keys/bundles.pub": "bundles.trusted_keys",
}


@pytest.mark.parametrize(("name", "where"), REMOVED.items())
def test_a_missing_file(at, name, where):
    (at / name).unlink()
    assert found(at) == [("error", where, f"{at / name} cannot be read (No such file or directory)")]


@pytest.mark.parametrize(
    ("name", "where", "problem"),
    [
        ("tls/server.crt", "tls.certificate", "{} holds no certificate in PEM"),
        ("tls/server.key", "tls.key", "{} is not an unencrypted private key in PEM"),
        ("tls/ca.crt", "tls.client_ca", "{} holds no certificate in PEM"),
        ("keys/log.key", "audit.signing_key", "not a signer key"),
        ("keys/log.vkey", "audit.vkey", "the part behind the last + is not base64"),
        ("keys/payload-master.key", "audit.master_key", "{} holds 8 bytes; it needs exactly 32 random ones"),
        ("keys/pepper", "policy.pepper", "{} holds 8 bytes; it needs at least 32 random ones"),
        ("keys/bundles.pub", "bundles.trusted_keys", "{} is not a public key in PEM"),
    ],
)
def test_a_file_that_is_something_else(at, name, where, problem):
    (at / name).write_bytes(b"nonsense")
    assert found(at) == [("error", where, problem.format(at / name))]


@pytest.mark.parametrize(("size", "ok"), [(31, False), (32, True), (33, False)])
def test_the_master_key_has_exactly_its_size(at, size, ok):
    (at / "keys/payload-master.key").write_bytes(b"k" * size)
    assert (found(at) == []) is ok


@pytest.mark.parametrize(("size", "ok"), [(31, False), (32, True), (33, True)])
def test_the_pepper_has_at_least_its_size(at, size, ok):
    (at / "keys/pepper").write_bytes(b"k" * size)
    assert (found(at) == []) is ok


def test_a_key_that_is_not_the_certificates(at):
    shutil.copy(at / "tls/ca.key", at / "tls/server.key")
    assert found(at) == [("error", "tls.key", f"{at / 'tls/server.key'} is not the key of tls.certificate")]


PRIVATE = [
    ("keys/policy.key", "policy.public_key", "sign a policy"),
    ("tls/ca.key", "tls.client_ca", "issue certificates that the gateway accepts"),
    ("keys/bundles.key", "bundles.trusted_keys", "sign a model"),
]


@pytest.mark.parametrize(("mode", "ok"), [(0o600, True), (0o640, True), (0o644, False), (0o620, False)])
@pytest.mark.parametrize("private", PRIVATE)
def test_a_private_key_that_others_can_read(at, private, mode, ok):
    name, where, what = private
    (at / name).touch()
    (at / name).chmod(mode)
    said = f"{at / name} has mode {mode:04o}: others can {what}; "
    advice = f"move it off this machine, or run `chmod 600 {at / name}`"
    assert found(at) == ([] if ok else [("warning", where, said + advice)])


@pytest.mark.parametrize(("key", "ok"), [(0o600, True), (0o644, False)])
def test_a_clients_secret_that_others_can_read(at, key, ok):
    for name in ("clients/kiosk-7.key", "clients/operator.tls.key"):
        (at / name).chmod(key)
    said = [(level, where) for level, where, _ in found(at)]
    assert said == [("warning", str(at / name)) for name in ("clients/kiosk-7.key", "clients/operator.tls.key")] * (
        not ok
    )


def test_a_log_key_of_another_origin(at):
    edit(at / "stockade.yaml", "origin: stockade.local/", "origin: example.org/")
    assert [finding[:2] for finding in found(at)] == [("error", "audit.origin")]


def test_a_vkey_of_another_log(at, tmp_path):
    other = init_directory(tmp_path / "other", now=NOW, random_bytes=lambda size: b"\7" * size)
    shutil.copy(other.directory / "keys/log.vkey", at / "keys/log.vkey")
    assert found(at) == [("error", "audit.vkey", f"{at / 'keys/log.vkey'} is not the public half of audit.signing_key")]


@pytest.mark.parametrize(
    "key", [ed25519.Ed25519PrivateKey.from_private_bytes(b"\1" * 32), ec.derive_private_key(7, ec.SECP384R1())]
)
def test_a_bundle_key_of_another_kind(at, key):
    (at / "keys/bundles.pub").write_bytes(public(key.public_key()))
    assert [finding[:2] for finding in found(at)] == [("error", "bundles.trusted_keys")]


def test_missing_directories(at):
    shutil.rmtree(at / "bundles")
    edit(at / "stockade.yaml", "directory: log ", "directory: far/away/log ")
    assert found(at) == [
        ("error", "bundles.directory", f"{at / 'bundles'} is not a directory"),
        ("error", "audit.directory", f"{at / 'far/away'} is not a directory"),
    ]


def test_plaintext_is_a_warning_that_it_was_asked_for(at):
    text = (at / "stockade.yaml").read_text()
    start, end = text.index("tls:\n"), text.index("workers:")
    text = text[:start] + "unsafe_plaintext: true\n" + text[end:]
    lines = [line for line in text.splitlines() if not line.startswith(("  data_mtls", "  admin"))]
    (at / "stockade.yaml").write_text("\n".join(lines))
    assert found(at) == [("warning", "unsafe_plaintext", "credentials and inputs can be read on the network")]
    assert check(at / "stockade.yaml", NOW).ok


def test_a_gateway_without_protection_is_a_warning(at):
    edit(at / "stockade.yaml", "workers: 1", "unsafe_unprotected: true\nworkers: 1")
    assert found(at) == [("warning", "unsafe_unprotected", "every protection is off, the audit log included")]


def test_limits_that_count_in_each_worker_are_a_warning(at):
    edit(at / "stockade.yaml", "workers: 1", "workers: 3")
    assert [(level, where) for level, where, _ in found(at)] == [("warning", "workers")]
    share_limits(at, 'url: "unix:/run/redis.sock"')
    assert found(at) == []


def test_accounts_that_are_watched_in_each_worker_are_a_warning(at):
    edit(
        at / "policy.yaml", "    capture: none", "    watch: {}\n    budget: {queries_per_day: 300}\n    capture: none"
    )
    sign_policy(at / "policy.yaml", at / "keys/policy.key")
    assert not [where for level, where, _ in found(at) if level == "warning"]
    edit(at / "stockade.yaml", "workers: 1", "workers: 3")
    share_limits(at, 'url: "unix:/run/redis.sock"')
    warned = {where: problem for level, where, problem in found(at) if level == "warning"}
    assert warned.keys() == {"models.kiosk.watch", "models.kiosk.budget"}
    assert "3 times the answers" in warned["models.kiosk.watch"]


def share_limits(at, settings):
    edit(at / "stockade.yaml", "workers:", f"shared_limits: {{{settings}}}\nworkers:")


def test_a_redis_that_anybody_can_use_is_worth_a_look(at):
    share_limits(at, 'url: "redis://10.0.0.9:6379", unsafe_redis_plaintext: true')
    assert found(at) == [
        (
            "warning",
            "shared_limits.unsafe_redis_plaintext",
            "limits and the password can be read, and changed, on the network",
        ),
        (
            "warning",
            "shared_limits.password_file",
            "is missing: whoever reaches that Redis can set every limit back",
        ),
    ]


@pytest.mark.parametrize("text", [b"", b"\n", b"two\nlines\n", b"x" * 4097, b"\xff\n", None])
def test_a_password_file_without_a_password_is_an_error(at, text):
    share_limits(at, 'url: "rediss://redis.example.org:6379", password_file: keys/redis')
    if text is not None:
        (at / "keys/redis").write_bytes(text)
        (at / "keys/redis").chmod(0o600)
    assert [(level, where) for level, where, _ in found(at)] == [("error", "shared_limits.password_file")]
    (at / "keys/redis").write_bytes(b"open sesame\n")
    (at / "keys/redis").chmod(0o600)
    assert found(at) == []


def test_what_redis_is_trusted_by_and_shown_is_looked_at(at):
    share_limits(
        at,
        'url: "rediss://redis.example.org:6379", password_file: keys/pepper-2, ca: tls/ca.crt, '
        "certificate: tls/server.crt, key: clients/kiosk-7.tls.key",
    )
    (at / "keys/pepper-2").write_bytes(b"secret")
    (at / "keys/pepper-2").chmod(0o600)
    assert found(at) == [
        (
            "error",
            "shared_limits.certificate",
            f"{at / 'clients/kiosk-7.tls.key'} is not the key of shared_limits.certificate",
        )
    ]
    edit(at / "stockade.yaml", "ca: tls/ca.crt", "ca: policy.yaml")
    assert ("error", "shared_limits.ca", f"{at / 'policy.yaml'} holds no certificate in PEM") in found(at)


def test_shared_limits_without_the_extra_are_an_error(at, monkeypatch):
    monkeypatch.setattr(check_module, "redis_installed", lambda: False)
    share_limits(at, 'url: "unix:/run/redis.sock"')
    assert found(at) == [("error", "shared_limits", check_module.MISSING_REDIS)]


def test_a_metrics_page_for_everybody_is_a_warning(at):
    edit(at / "stockade.yaml", 'metrics: "127.0.0.1:8002"', 'unsafe_metrics_plaintext: true\n  metrics: "0.0.0.0:8002"')
    problem = "the metrics page has no credentials: whoever reaches listen.metrics can read it"
    assert found(at) == [("warning", "listen.unsafe_metrics_plaintext", problem)]


def test_traces_in_plaintext_are_a_warning(at, monkeypatch):
    monkeypatch.setattr(check_module, "installed", lambda: True)
    tracing = 'tracing: {otlp_endpoint: "http://otel.example.org:4317", unsafe_otlp_plaintext: true}'
    edit(at / "stockade.yaml", "workers: 1", f"{tracing}\nworkers: 1")
    assert found(at) == [("warning", "tracing.unsafe_otlp_plaintext", "traces can be read on the network")]


@pytest.mark.parametrize(
    ("outputs", "given"),
    [
        ("outputs: [probabilities]", None),
        ("", "(all of the bundle's, logits, latents and energies included)"),
        ("outputs: [probabilities, logits, latent]", "(logits, latent)"),
    ],
)
def test_hardening_that_other_outputs_undo_is_a_warning(at, outputs, given):
    edit(at / "policy.yaml", "outputs: [probabilities]", outputs)
    sign_policy(at / "policy.yaml", at / "keys/policy.key")
    warnings = found(at)
    assert [(level, where) for level, where, _ in warnings] == [("warning", "models.kiosk.outputs")] * bool(given)
    assert all(given in problem for _, _, problem in warnings)


def test_without_hardening_outputs_are_nobodys_business(at):
    edit(at / "policy.yaml", "outputs: [probabilities]", "")
    edit(at / "policy.yaml", "harden: {top_k: 3, temperature: 1.0, decimals: 3, when: always}", "")
    sign_policy(at / "policy.yaml", at / "keys/policy.key")
    assert found(at) == []


@pytest.mark.parametrize("there", [True, False])
def test_traces_without_the_packages_that_send_them(at, monkeypatch, there):
    monkeypatch.setattr(check_module, "installed", lambda: there)
    edit(at / "stockade.yaml", "workers: 1", 'tracing: {otlp_endpoint: "http://127.0.0.1:4317"}\nworkers: 1')
    assert found(at) == ([] if there else [("error", "tracing", MISSING_EXTRA)])


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (NOW - timedelta(minutes=5), None),
        (NOW - timedelta(minutes=5, seconds=1), ("error", "is not valid before 2026-11-24 07:55 UTC")),
        (LEAF_EXPIRES - timedelta(days=30), None),
        (LEAF_EXPIRES - timedelta(days=30) + timedelta(seconds=1), ("warning", "expires on 2027-12-26; renew it soon")),
        (LEAF_EXPIRES - timedelta(seconds=1), ("warning", "expires on 2027-12-26; renew it soon")),
        (LEAF_EXPIRES, ("error", "expired on 2027-12-26; renew it")),
    ],
)
def test_certificates_at_their_limits_and_one_past(at, now, expected):
    problems = [finding for finding in found(at, now) if finding[1] == "tls.certificate"]
    wanted = [] if expected is None else [(expected[0], "tls.certificate", f"CN=localhost {expected[1]}")]
    assert problems == wanted


def test_api_keys_that_run_out(at):
    expiry = datetime(2027, 11, 24, tzinfo=UTC)
    for now, problem in (
        (expiry - timedelta(days=30), None),
        (expiry - timedelta(days=29), "expires on 2027-11-24; add its successor"),
        (expiry, "expired on 2027-11-24; replace or remove it"),
    ):
        problems = [finding[2] for finding in found(at, now) if finding[1] == "principals.kiosk-7"]
        assert problems == ([] if problem is None else [f"API key kiosk-7-a {problem}"])


def test_a_revoked_key_may_run_out(at):
    edit(at / "policy.yaml", "expires: 2027-11-24}]\n    spiffe", "expires: 2027-11-24, revoked: true}]\n    spiffe")
    sign_policy(at / "policy.yaml", at / "keys/policy.key")
    problems = [
        where for _, where, _ in found(at, datetime(2027, 11, 24, tzinfo=UTC)) if where.startswith("principals")
    ]
    assert problems == ["principals.batch-1"]


def test_public_methods_and_missing_issuer_keys(at):
    issuer = (
        'issuers:\n  corp: {url_or_file: jwks.json, issuer: "https://a", audience: b, algorithms: [EdDSA]}\nmodels:'
    )
    edit(at / "policy.yaml", "models:\n  kiosk", f"unsafe_public_methods: [Health]\n{issuer}\n  kiosk")
    sign_policy(at / "policy.yaml", at / "keys/policy.key")
    assert found(at) == [
        ("warning", "unsafe_public_methods[0]", "anybody can call Health without a credential"),
        ("error", "issuers.corp.url_or_file", f"{at / 'jwks.json'} is not a file"),
    ]


def test_what_was_taken_out_of_service_and_forgotten(at):
    file = at / "recorder/models.json"
    file.write_bytes(ModelSet((), frozenset({("kiosk", "1")})).to_json())
    problem = "somebody took kiosk version 1 out of service; it answers once it is loaded again"
    assert found(at) == [("warning", "bundles.directory", problem)]
    file.write_text("not ours")
    ((level, where, problem),) = found(at)
    assert (level, where) == ("error", "audit.state_directory")
    assert "does not say which models are in service" in problem


def test_an_unsigned_change_and_a_broken_file_are_told_with_their_place(at):
    edit(at / "policy.yaml", "lane: 1", "lane: 2")
    assert [finding[:2] for finding in found(at)] == [("error", str(at / "policy.yaml"))]
    edit(at / "stockade.yaml", "workers: 1", "workers: 0")
    report = check(at / "stockade.yaml", NOW)
    assert report.config is None
    assert [finding.problem for finding in report.findings] == [
        f"{at / 'stockade.yaml'}:22: workers: 0 is too small; the least is 1"
    ]


def shown(report):
    page = io.StringIO()
    render(report, Console(width=200, file=page))
    return page.getvalue()


def test_people_and_machines_see_the_same_and_no_secret(at):
    report = check(at / "stockade.yaml", NOW)
    for text in (shown(report), json.dumps(report.as_json())):
        assert report.config.digest in text
        assert report.policy.digest in text
        assert "keys/log.key" in text
        for secret in ("keys/log.key", "clients/kiosk-7.key", "tls/server.key", "keys/policy.key"):
            assert (at / secret).read_text().strip().splitlines()[-1] not in text
    assert "ok" in shown(report).splitlines()[-1]


def test_findings_are_shown_as_they_are(at):
    (at / "keys/pepper").write_bytes(b"[red]")
    report = check(at / "stockade.yaml", NOW)
    assert f"error policy.pepper: {at / 'keys/pepper'} holds 5 bytes" in shown(report)
    assert "not ok: a gateway would not start from this, or not answer" in shown(report)
    assert report.as_json()["ok"] is False

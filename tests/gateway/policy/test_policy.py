"""policy.yaml: signature before content, no way back, and what the accessors say.

Its rules are tested by the broken files in tests/configs/busted/policy.
"""

import subprocess
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.document import PolicyRejected
from gateway.policy import load as policy_module
from gateway.policy.load import load_policy, parse_policy
from gateway.policy.policy import Policy, PolicyRollback
from gateway.policy.signature import PolicySignatureInvalid, sign_policy

OK = Path(__file__).parents[2] / "configs" / "ok" / "policy"
SMALL = (OK / "small.yaml").read_bytes()


def write_pair(directory, name, key):
    private, public = directory / f"{name}.key", directory / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path):
    return write_pair(tmp_path, "policy", Ed25519PrivateKey.from_private_bytes(b"\1" * 32))


@pytest.fixture
def signed(tmp_path, keys):
    path = tmp_path / "policy.yaml"
    path.write_bytes(SMALL)
    sign_policy(path, keys[0])
    return path


def test_a_signed_policy_is_loaded(signed, keys):
    assert load_policy(signed, keys[1]).revision == 7


def test_signing_again_replaces_the_signature_and_leaves_nothing_else(signed, keys):
    signed.write_bytes(SMALL.replace(b"revision: 7", b"revision: 8"))
    assert sign_policy(signed, keys[0]) == signed.with_name("policy.yaml.sig")
    assert load_policy(signed, keys[1]).revision == 8
    names = {"policy.yaml", "policy.yaml.sig", "policy.key", "policy.pub"}
    assert {path.name for path in signed.parent.iterdir()} == names


def test_openssl_agrees_about_the_signature(signed, keys):
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys[1], "-rawin"]
    subprocess.run([*command, "-in", signed, "-sigfile", f"{signed}.sig"], check=True, capture_output=True)


@pytest.mark.parametrize("at", [0, len(SMALL) // 2, len(SMALL) - 1])
def test_a_changed_byte_is_refused_before_anything_is_parsed(signed, keys, at):
    changed = bytearray(SMALL)
    changed[at] ^= 1
    signed.write_bytes(changed)
    with pytest.raises(PolicySignatureInvalid) as rejected:
        load_policy(signed, keys[1])
    advice = "restore the signed file, or sign this one with `stockade policy sign`"
    assert rejected.value.lines == (f"{signed}: was not signed by policy.pub; {advice}",)


@pytest.mark.parametrize("signature", [b"", b"\0" * 63, b"\0" * 64, b"\0" * 65, b"\0" * 66])
def test_what_is_no_signature_is_refused(signed, keys, signature):
    signed.with_name("policy.yaml.sig").write_bytes(signature)
    with pytest.raises(PolicySignatureInvalid):
        load_policy(signed, keys[1])


def test_a_missing_signature_is_named(signed, keys):
    signed.with_name("policy.yaml.sig").unlink()
    with pytest.raises(PolicySignatureInvalid, match=r"policy\.yaml\.sig: cannot be read \(No such file"):
        load_policy(signed, keys[1])


def test_another_key_is_refused(signed, tmp_path):
    _, other = write_pair(tmp_path, "other", Ed25519PrivateKey.from_private_bytes(b"\2" * 32))
    with pytest.raises(PolicySignatureInvalid, match=r"was not signed by other\.pub"):
        load_policy(signed, other)


def test_a_key_of_another_kind_is_refused(signed, tmp_path):
    private, public = write_pair(tmp_path, "wrong", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(PolicySignatureInvalid, match="is not an Ed25519 public key in PEM"):
        load_policy(signed, public)
    for content in (private.read_bytes(), b"nonsense"):
        private.write_bytes(content)
        with pytest.raises(PolicySignatureInvalid, match="is not an unencrypted Ed25519 private key in PEM"):
            sign_policy(signed, private)
    public.write_bytes(b"nonsense")
    with pytest.raises(PolicySignatureInvalid, match="is not an Ed25519 public key in PEM"):
        load_policy(signed, public)


def test_revisions_only_go_up(signed, keys):
    in_force = load_policy(signed, keys[1])
    assert load_policy(signed, keys[1], in_force=in_force).digest == in_force.digest  # the same again is no rollback
    for revision in (b"6", b"7"):
        signed.write_bytes(SMALL.replace(b"revision: 7", b"revision: " + revision).replace(b"lane: 0", b"lane: 1"))
        sign_policy(signed, keys[0])
        with pytest.raises(PolicyRollback) as rejected:
            load_policy(signed, keys[1], in_force=in_force)
        problem = f"revision {revision.decode()} does not replace revision 7, which is in force"
        assert rejected.value.lines == (f"{signed}: revision: {problem}; raise `revision` and sign again",)
    signed.write_bytes(SMALL.replace(b"revision: 7", b"revision: 8"))
    sign_policy(signed, keys[0])
    assert load_policy(signed, keys[1], in_force=in_force).revision == 8


def test_the_file_has_a_size_limit(signed, keys, monkeypatch):
    monkeypatch.setattr(policy_module, "POLICY_BYTES_MAX", len(SMALL))
    assert load_policy(signed, keys[1]).revision == 7
    monkeypatch.setattr(policy_module, "POLICY_BYTES_MAX", len(SMALL) - 1)
    with pytest.raises(PolicyRejected, match="is larger than"):
        load_policy(signed, keys[1])


def test_as_many_principals_as_a_policy_may_have_fit_into_the_file_with_a_key_each():
    key = {"id": "caller-012345-a", "hmac": "5c" * 32, "expires": "2030-01-01"}
    one = {"caller-012345": {"tenant": "store-7", "roles": ["predictor"], "limits": "standard", "api_keys": [key]}}
    (most,) = [each.max_length for each in Policy.model_fields["principals"].metadata if hasattr(each, "max_length")]
    text = yaml.safe_dump({"principals": one}, default_flow_style=False).partition("\n")[2]
    assert most * len(text) < policy_module.POLICY_BYTES_MAX


def test_accessors():
    policy = parse_policy((OK / "every-key.yaml").read_bytes(), Path("policy.yaml"))
    assert policy.class_of("clerk") == "interactive"
    assert policy.lane_of("clerk") == 0
    own, shared = policy.limits_of("clerk")
    assert own is shared
    assert (own.request_interval_ns, own.request_burst, own.in_flight_max) == (5_000_000, 400, 16)
    assert [(name, key.id, key.revoked) for name, key in policy.api_keys()] == [
        ("kiosk", "kiosk-a", False),
        ("clerk", "clerk-a", False),
        ("clerk", "clerk-b", False),
        ("clerk", "clerk-c", True),
    ]
    assert [(name, subject.subject) for name, subject in policy.subjects()] == [("clerk", "clerk")]
    assert list(policy.certificate_names()) == [("till", "spiffe://example.org/till"), ("clerk", "clerk.example.org")]
    assert policy.issuers["corp"].jwks_url is None
    assert policy.models["kiosk"].screens["drift"].mode == "shadow"
    assert policy.models["kiosk"].screens["drift"].refuse_alpha is None


def test_a_jwks_url_is_told_from_a_file():
    text = SMALL.replace(b"jwks.json", b'"https://id.example.org/jwks.json"')
    assert parse_policy(text, Path("policy.yaml")).issuers["corp"].jwks_url == "https://id.example.org/jwks.json"


def test_the_digest_is_of_the_meaning_and_covers_every_key():
    policy = parse_policy(SMALL, Path("policy.yaml"))
    reformatted = yaml.safe_dump(policy.masked()).encode()
    assert parse_policy(reformatted, Path("elsewhere.yaml")).digest == policy.digest
    for before, after in ((b"4de7", b"5de7"), (b"lane: 0", b"lane: 1"), (b"200/s", b"201/s"), (b"0.001", b"0.002")):
        assert parse_policy(SMALL.replace(before, after), Path("policy.yaml")).digest != policy.digest


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(data):
    with pytest.raises(PolicyRejected):
        parse_policy(data, Path("p.yaml"))

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundles.signature import FILES_MAX, SIGNATURE_BYTES_MAX, TrustedKey, sign, verify
from serving.errors import BundleRejected, Rejection
from tests.serving.tiny import signing_key, trusted

DIGESTS = {"a.json": "0" * 64, "b.onnx": "f" * 64}
SIGNED = sign(DIGESTS, "1", signing_key())


def rejection(signature, keys=None):
    keys = (trusted(),) if keys is None else keys
    with pytest.raises(BundleRejected) as caught:
        verify(signature, keys)
    return caught.value.reason


def resigned(change):
    """Sign, properly, a statement that breaks one rule."""
    outer = json.loads(SIGNED)
    statement = json.loads(base64.b64decode(outer["dsseEnvelope"]["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    kind = outer["dsseEnvelope"]["payloadType"]
    encoded = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    mark = signing_key().sign(encoded, ec.ECDSA(hashes.SHA256()))
    outer["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    outer["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(mark).decode()
    return json.dumps(outer).encode()


def resources(*names):
    listed = [{"name": name, "algorithm": "sha256", "digest": "0" * 64} for name in names]
    root = hashlib.sha256(bytes(32) * len(listed)).hexdigest()

    def change(statement):
        statement["predicate"]["resources"] = listed
        statement["subject"][0]["digest"]["sha256"] = root

    return change


def test_round_trip():
    assert verify(SIGNED, (trusted(1), trusted())) == DIGESTS


def test_a_proper_resigned_statement_passes():
    assert verify(resigned(resources("a.json")), (trusted(),)) == {"a.json": "0" * 64}


def test_another_key_and_no_key_are_untrusted():
    assert rejection(SIGNED, (trusted(1),)) is Rejection.KEY_UNTRUSTED
    assert rejection(SIGNED, ()) is Rejection.KEY_UNTRUSTED


def test_the_name_of_a_trusted_key_is_not_its_signature():
    outer = json.loads(sign(DIGESTS, "1", signing_key(1)))
    outer["verificationMaterial"]["publicKey"]["hint"] = trusted().hint
    assert rejection(json.dumps(outer).encode()) is Rejection.SIGNATURE_WRONG


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("../a.json",), Rejection.NAME),
        (("/etc/passwd.json",), Rejection.NAME),
        (("d/a.json",), Rejection.NAME),
        (("d\\a.json",), Rejection.NAME),
        ((".hidden.json",), Rejection.NAME),
        (("a.json\n",), Rejection.NAME),
        (("a\x00.json",), Rejection.NAME),
        (("nosuffix",), Rejection.NAME),
        (("",), Rejection.NAME),
        (("a.json", "a.json"), Rejection.SIGNATURE_MALFORMED),
        (("a.json", "model.sig"), Rejection.SIGNATURE_MALFORMED),
    ],
)
def test_signed_names_are_plain_and_listed_once(names, reason):
    assert rejection(resigned(resources(*names))) is reason


def test_number_of_files_at_the_limit_and_one_past_it():
    names = [f"f{index}.md" for index in range(FILES_MAX + 1)]
    assert len(verify(resigned(resources(*names[:-1])), (trusted(),))) == FILES_MAX
    assert rejection(resigned(resources(*names))) is Rejection.COUNT


def test_size_at_the_limit_and_one_past_it():
    assert verify(SIGNED.ljust(SIGNATURE_BYTES_MAX), (trusted(),)) == DIGESTS
    assert rejection(SIGNED.ljust(SIGNATURE_BYTES_MAX + 1)) is Rejection.SIZE


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"),
        lambda s: s.update(more=1),
        lambda s: s["subject"].append(s["subject"][0]),
        lambda s: s["subject"].clear(),
        lambda s: s["subject"][0]["digest"].update(sha256="1" * 64),
        lambda s: s["predicate"]["serialization"].update(method="shards"),
        lambda s: s["predicate"]["serialization"].update(hash_type="blake2"),
        lambda s: s["predicate"]["serialization"].update(allow_symlinks=True),
        lambda s: s["predicate"]["resources"][0].update(algorithm="md5"),
        lambda s: s["predicate"]["resources"][0].update(digest="0" * 63),
        lambda s: s["predicate"]["resources"][0].update(digest="F" * 64),
        lambda s: s.pop("predicate"),
    ],
)
def test_statements_outside_the_format_are_malformed_even_when_signed(change):
    assert rejection(resigned(change)) is Rejection.SIGNATURE_MALFORMED


def envelope(change):
    outer = json.loads(SIGNED)
    change(outer)
    return json.dumps(outer).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda o: o.update(mediaType="application/vnd.dev.sigstore.bundle.v0.2+json"),
        lambda o: o.update(more=1),
        lambda o: o["dsseEnvelope"].update(payloadType="text/plain"),
        lambda o: o["dsseEnvelope"]["signatures"].clear(),
        lambda o: o["dsseEnvelope"]["signatures"].append(o["dsseEnvelope"]["signatures"][0]),
        lambda o: o["dsseEnvelope"]["signatures"][0].update(keyid="x"),
        lambda o: o["dsseEnvelope"].update(payload=o["dsseEnvelope"]["payload"] + "\n"),
        lambda o: o["dsseEnvelope"].update(payload="%%%%"),
        lambda o: o["dsseEnvelope"].update(payload="é"),
        lambda o: o["verificationMaterial"].update(tlogEntries=[{}]),
        lambda o: o["verificationMaterial"].update(certificate={"rawBytes": ""}),
    ],
)
def test_envelopes_outside_the_format_are_malformed(change):
    assert rejection(envelope(change)) is Rejection.SIGNATURE_MALFORMED


@given(st.binary(max_size=400) | st.text(max_size=400).map(str.encode))
def test_any_bytes_are_rejected(data):
    with pytest.raises(BundleRejected):
        verify(data, (trusted(),))


def test_deep_nesting_is_rejected():
    assert rejection(b"[" * 100_000) is Rejection.SIGNATURE_MALFORMED


def test_another_spelling_of_the_same_bytes_is_malformed():
    """Base64 leaves spare bits before its padding; a decoder that ignores them accepts several spellings."""
    names = ("a.json", "ab.json", "abc.json")
    for signed in (sign({name: "0" * 64}, "1", signing_key()) for name in names):
        outer = json.loads(signed)
        payload = outer["dsseEnvelope"]["payload"]
        if payload.endswith("="):
            break
    spare = payload.rstrip("=")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = spare[:-1] + alphabet[alphabet.index(spare[-1]) + 1] + payload[len(spare) :]
    assert base64.b64decode(other) == base64.b64decode(payload)
    outer["dsseEnvelope"]["payload"] = other
    assert rejection(json.dumps(outer).encode()) is Rejection.SIGNATURE_MALFORMED


@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
@settings(max_examples=400)
def test_no_byte_of_a_signature_can_be_changed(position, mask):
    changed = bytearray(SIGNED)
    changed[position] ^= mask
    with pytest.raises(BundleRejected):
        verify(bytes(changed), (trusted(),))


@given(st.integers(0, len(SIGNED) - 1))
def test_a_truncated_signature_is_rejected(length):
    with pytest.raises(BundleRejected):
        verify(SIGNED[:length], (trusted(),))


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        ec.generate_private_key(ec.SECP384R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        signing_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ],
    ids=["empty", "garbage", "P-384", "Ed25519", "private"],
)
def test_keys_that_are_not_p256_public_keys_are_unusable(pem):
    with pytest.raises(BundleRejected) as caught:
        TrustedKey.from_pem(pem, "k.pub")
    assert caught.value.reason is Rejection.KEY_UNUSABLE
    assert caught.value.file == "k.pub"


# The reference implementation runs in its own process: importing it warns, and warnings are errors here.
REFERENCE = """
import sys
from model_signing import hashing, signing, verifying
verb, model, key = sys.argv[1:]
signature = model + "/model.sig"
paths = hashing.Config().set_ignored_paths(paths=["model.sig"], ignore_git_paths=False)
if verb == "sign":
    signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(paths).sign(model, signature)
else:
    verifying.Config().use_elliptic_key_verifier(public_key=key).verify(model, signature)
"""


def reference(verb, model: Path, key: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", REFERENCE, verb, str(model), str(key)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "manifest.json").write_bytes(b"{}")
    (directory / "model.onnx").write_bytes(b"graph")
    key = signing_key()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(public)
    return directory


def digests(directory):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def test_model_signing_accepts_our_signature_and_notices_tampering(model, tmp_path):
    (model / "model.sig").write_bytes(sign(digests(model), "model", signing_key()))
    accepted = reference("verify", model, tmp_path / "key.pub")
    assert accepted.returncode == 0, accepted.stderr
    (model / "model.onnx").write_bytes(b"grapH")
    assert reference("verify", model, tmp_path / "key.pub").returncode != 0


def test_we_accept_the_signature_of_model_signing(model, tmp_path):
    expected = digests(model)
    signed = reference("sign", model, tmp_path / "key.pem")
    assert signed.returncode == 0, signed.stderr
    assert verify((model / "model.sig").read_bytes(), (trusted(),)) == expected


def test_the_statement_is_json_that_others_can_read():
    outer = msgspec.json.decode(SIGNED)
    statement = msgspec.json.decode(base64.b64decode(outer["dsseEnvelope"]["payload"]))
    assert [item["name"] for item in statement["predicate"]["resources"]] == sorted(DIGESTS)

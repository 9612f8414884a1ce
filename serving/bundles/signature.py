"""Detached model signatures: exactly the part of the OpenSSF Model Signing format that our bundles use.

The format (https://github.com/ossf/model-signing-spec, v1.0): a Sigstore bundle v0.3 in JSON, whose DSSE envelope
(https://github.com/secure-systems-lab/dsse) carries an in-toto statement v1, whose predicate lists the SHA-256 of each
file. Signed with ECDSA P-256 over SHA-256; the key is named by the SHA-256 of its PEM. `model_signing` accepts what
`sign` writes and `verify` accepts what `model_signing` writes (tests/serving/bundles/test_signature.py).

Why not `model_signing` itself: importing it loads some 600 modules and takes 0.7 s here, release 1.1.1 does not import
without an undeclared pyOpenSSL, and it hashes files by path, which leaves a gap between the check and the use.

Bytes in, digests or `BundleRejected` out: no files, no clock, no network. Rules:

1. At most 1 MiB; every field of the envelope is known, and base64 is canonical (one signature, one spelling).
2. Exactly one signature, by a trusted key, over the payload as it stands. Only then is the payload parsed.
3. Statement v1, predicate signature/v1.0, one subject, whose digest is that of the digests listed.
4. Method "files" with SHA-256, no symlinks; plain file names, each once; at most 64.

`ignore_paths` is not interpreted: a bundle's directory must hold exactly the listed files (`serving.bundles.bundle`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from serving.errors import BundleRejected, Rejection

SIGNATURE_FILE = "model.sig"
SIGNATURE_BYTES_MAX = 1024 * 1024
FILES_MAX = 64
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}(\.[A-Za-z0-9_-]{1,16}){1,4}")

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands outside the signature holds nothing but what is checked."""


class _PublicKey(_Struct, frozen=True):
    hint: str


class _Material(_Struct, frozen=True, rename="camel"):
    public_key: _PublicKey
    tlog_entries: list[None] = []


class _Signature(_Struct, frozen=True):
    sig: str
    keyid: Literal[""] = ""


class _Envelope(_Struct, frozen=True, rename="camel"):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"]
    signatures: list[_Signature]


class _SigstoreBundle(_Struct, frozen=True, rename="camel"):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verification_material: _Material
    dsse_envelope: _Envelope


class _Digest(_Struct, frozen=True):
    sha256: str


class _Subject(_Struct, frozen=True):
    name: str
    digest: _Digest


class _Serialization(msgspec.Struct, frozen=True):
    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: bool = False


class _Resource(_Struct, frozen=True):
    name: str
    algorithm: Literal["sha256"]
    digest: str


class _Predicate(msgspec.Struct, frozen=True):
    """Verifiers of v1.0 ignore further fields of the predicate."""

    serialization: _Serialization
    resources: list[_Resource]


class _Statement(_Struct, frozen=True, rename={"type": "_type", "predicate_type": "predicateType"}):
    type: Literal["https://in-toto.io/Statement/v1"]
    subject: list[_Subject]
    predicate_type: Literal["https://model_signing/signature/v1.0"]
    predicate: _Predicate


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A P-256 public key and the name signatures give it."""

    key: ec.EllipticCurvePublicKey
    hint: str

    @classmethod
    def from_pem(cls, pem: bytes, file: str) -> TrustedKey:
        """Read a key, or raise BundleRejected(KEY_UNUSABLE) for anything but a P-256 public key in PEM."""
        try:
            key = load_pem_public_key(pem)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BundleRejected(Rejection.KEY_UNUSABLE, file, "not a public key in PEM") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise BundleRejected(Rejection.KEY_UNUSABLE, file, "not on the curve P-256")
        return cls(key, _hint(key))


def verify(signature: bytes, trusted: Sequence[TrustedKey]) -> dict[str, str]:
    """Return file name to SHA-256 (hex) as signed by one of the trusted keys, or raise BundleRejected."""
    if len(signature) > SIGNATURE_BYTES_MAX:
        raise BundleRejected(Rejection.SIZE, SIGNATURE_FILE)
    try:
        outer = msgspec.json.decode(signature, type=_SigstoreBundle)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed("not a signature in the OpenSSF Model Signing format") from error
    if len(outer.dsse_envelope.signatures) != 1:
        raise _malformed("not exactly one signature")
    payload = _base64(outer.dsse_envelope.payload)
    mark = _base64(outer.dsse_envelope.signatures[0].sig)
    hint = outer.verification_material.public_key.hint
    signer = next((key for key in trusted if key.hint == hint), None)
    if signer is None:
        raise BundleRejected(Rejection.KEY_UNTRUSTED, SIGNATURE_FILE)
    try:
        signer.key.verify(mark, _pre_authentication_encoding(payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise BundleRejected(Rejection.SIGNATURE_WRONG, SIGNATURE_FILE) from error
    return _digests(payload)


def sign(digests: Mapping[str, str], model_name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the signature file for these files (name to SHA-256 hex), in the order model_signing would list them."""
    names = sorted(digests)
    statement: dict[str, Any] = {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": model_name, "digest": {"sha256": _root(digests[name] for name in names)}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE_FILE],
            },
            "resources": [{"name": name, "algorithm": "sha256", "digest": digests[name]} for name in names],
        },
    }
    payload = msgspec.json.encode(statement)
    mark = key.sign(_pre_authentication_encoding(payload), ec.ECDSA(hashes.SHA256()))
    return msgspec.json.encode(
        {
            "mediaType": _MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": _hint(key.public_key())}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": _PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(mark).decode(), "keyid": ""}],
            },
        }
    )


def _digests(payload: bytes) -> dict[str, str]:
    try:
        statement = msgspec.json.decode(payload, type=_Statement)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed("the signed payload is not a model signing statement") from error
    resources = statement.predicate.resources
    if len(resources) > FILES_MAX:
        raise BundleRejected(Rejection.COUNT, SIGNATURE_FILE, f"more than {FILES_MAX} files")
    if statement.predicate.serialization.allow_symlinks:
        raise _malformed("symbolic links are allowed in it")
    for resource in resources:
        if not FILE_NAME.fullmatch(resource.name):
            raise BundleRejected(Rejection.NAME, SIGNATURE_FILE, "a listed name is not a plain file name")
        if not _DIGEST.fullmatch(resource.digest):
            raise _malformed("a listed digest is not SHA-256 in hex")
    digests = {resource.name: resource.digest for resource in resources}
    if len(digests) != len(resources) or SIGNATURE_FILE in digests:
        raise _malformed("a file is listed twice, or the signature lists itself")
    if [subject.digest.sha256 for subject in statement.subject] != [_root(item.digest for item in resources)]:
        raise _malformed("the subject is not the digest of the digests listed")
    return digests


def _root(digests: Any) -> str:
    """SHA-256 over the file digests in the order listed: the model's digest in Model Signing."""
    root = hashlib.sha256()
    for digest in digests:
        root.update(bytes.fromhex(digest))
    return root.hexdigest()


def _pre_authentication_encoding(payload: bytes) -> bytes:
    """DSSE protocol v1, section "Signature definition"."""
    return f"DSSEv1 {len(_PAYLOAD_TYPE)} {_PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def _hint(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _base64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed("bad base64") from error
    # A decoder ignores the spare bits of the last character; we do not, so a flipped one cannot pass.
    if base64.b64encode(raw).decode() != text:
        raise _malformed("base64 is not canonical")
    return raw


def _malformed(problem: str) -> BundleRejected:
    return BundleRejected(Rejection.SIGNATURE_MALFORMED, SIGNATURE_FILE, problem)

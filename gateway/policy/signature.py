"""The detached signature of the policy: Ed25519 over the exact bytes of the file, 64 raw bytes in `<file>.sig`.

Anybody can check it without Stockade:
`openssl pkeyutl -verify -pubin -inkey policy.pub -rawin -in policy.yaml -sigfile policy.yaml.sig`
"""

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from gateway.config.document import PolicyRejected, read_bounded

KEY_BYTES_MAX = 16 * 1024
SIGNATURE_BYTES = 64


class PolicySignatureInvalid(PolicyRejected):
    """The signature is missing or was not made by the configured key over these bytes."""


def signature_path(policy: Path) -> Path:
    """Where the signature of `policy` stands."""
    return policy.with_name(policy.name + ".sig")


def verify(data: bytes, policy: Path, public_key: Path) -> None:
    """Return if `data` is what the signature file beside `policy` signs. Raises PolicySignatureInvalid."""
    signature = read_bounded(signature_path(policy), SIGNATURE_BYTES + 1, PolicySignatureInvalid)
    try:
        read_public_key(public_key).verify(signature, data)
    except InvalidSignature:
        advice = "restore the signed file, or sign this one with `stockade policy sign`"
        raise PolicySignatureInvalid([f"{policy}: was not signed by {public_key.name}; {advice}"]) from None


def read_public_key(path: Path) -> Ed25519PublicKey:
    """The Ed25519 public key of a PEM file. Raises PolicySignatureInvalid."""
    data = read_bounded(path, KEY_BYTES_MAX, PolicySignatureInvalid)
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise PolicySignatureInvalid([f"{path}: is not an Ed25519 public key in PEM; name the policy key"])
    return key


def _read_private_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(read_bounded(path, KEY_BYTES_MAX, PolicySignatureInvalid), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        advice = "name the policy's private key"
        raise PolicySignatureInvalid([f"{path}: is not an unencrypted Ed25519 private key in PEM; {advice}"])
    return key


def sign_policy(path: Path, private_key: Path, *, data: bytes | None = None, public_key: Path | None = None) -> Path:
    """Sign the policy file with a PEM Ed25519 private key and put the signature beside it, atomically.

    Args:
        path: the policy.
        private_key: whose it is.
        data: what is signed; the file's bytes where it is not given.
        public_key: what the private key has to belong to, where that matters.

    Returns the signature's path. Raises PolicySignatureInvalid when the key cannot sign, OSError when a file cannot be
    used.
    """
    key = _read_private_key(private_key)
    if public_key is not None and key.public_key() != read_public_key(public_key):
        advice = f"name the private key of {public_key} with --key"
        raise PolicySignatureInvalid([f"{private_key}: its signature would be refused; {advice}"])
    target = signature_path(path)
    beside = target.with_name(target.name + ".new")
    beside.write_bytes(key.sign(path.read_bytes() if data is None else data))
    beside.replace(target)  # from here on the file and its signature agree
    return target

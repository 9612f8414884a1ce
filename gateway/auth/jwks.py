"""A JSON Web Key Set (RFC 7517), bytes in, verification keys out. Pure.

Rules:
- The algorithm belongs to the key: Ed25519 verifies EdDSA, P-256 ES256, RSA (2,048 to 8,192 bits) RS256. A key whose
  `alg` says otherwise is not used, and no symmetric key ever is: no token can make a secret of a public key.
- Keys that are not for us are passed over (RFC 7517 section 5): other types, `use` other than "sig", no `kid`.
- The set is refused as a whole when it holds a private key, two keys under one `kid`, or nothing usable.
- Keys that did not change stay the same objects, so whatever was verified with them stays verified.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from gateway.auth.errors import KeySetRejected

KEY_SET_BYTES_MAX = 256 * 1024
KEYS_MAX = 64
KID_CHARACTERS_MAX = 128
RSA_BITS_MIN = 2048
RSA_BITS_MAX = 8192
ALGORITHMS = frozenset({"EdDSA", "ES256", "RS256"})

_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
_TYPES = {  # (kty, crv): the algorithm, and the members that hold the public key
    ("OKP", "Ed25519"): ("EdDSA", ("x",)),
    ("EC", "P-256"): ("ES256", ("x", "y")),
    ("RSA", None): ("RS256", ("n", "e")),
}


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """One public key, bound to the one algorithm it verifies. Equal when the key material, id and algorithm are."""

    kid: str
    algorithm: str
    material: tuple[str, ...]
    jwk: jwt.PyJWK = field(compare=False, repr=False)


def parse_key_set(body: bytes, previous: Mapping[str, VerifyKey]) -> dict[str, VerifyKey]:
    """Return the usable keys by `kid`. KeySetRejected, and nothing else, when the document cannot be used."""
    if len(body) > KEY_SET_BYTES_MAX:
        raise KeySetRejected(f"is longer than {KEY_SET_BYTES_MAX} bytes")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise KeySetRejected("is not JSON") from None
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise KeySetRejected('has no list "keys"')
    if len(members) > KEYS_MAX:
        raise KeySetRejected(f"has more than {KEYS_MAX} keys")
    keys: dict[str, VerifyKey] = {}
    for member in members:
        key = _parse_key(member) if isinstance(member, dict) else None
        if key is None:
            continue
        if key.kid in keys:
            raise KeySetRejected("has two keys under one kid")
        known = previous.get(key.kid)
        keys[key.kid] = known if known is not None and known == key else key
    if not keys:
        raise KeySetRejected("has no usable key")
    return keys


def _parse_key(member: dict[str, Any]) -> VerifyKey | None:
    """Return the key, or None when it is not one for us."""
    if member.get("kty") != "oct" and _PRIVATE_MEMBERS.intersection(member):
        raise KeySetRejected("publishes a private key")
    kid, kty, crv = member.get("kid"), member.get("kty"), member.get("crv")
    if not isinstance(kid, str) or not 1 <= len(kid) <= KID_CHARACTERS_MAX or not isinstance(kty, str):
        return None
    algorithm, names = _TYPES.get((kty, crv if isinstance(crv, str) else None), ("", ()))
    if not algorithm or member.get("use", "sig") != "sig" or member.get("alg", algorithm) != algorithm:
        return None
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    public = {name: member.get(name) for name in names}
    if not all(isinstance(text, str) and text.isascii() for text in public.values()):
        return None
    return _build(kid, algorithm, {"kty": kty, "crv": crv} | public)


def _build(kid: str, algorithm: str, public: dict[str, Any]) -> VerifyKey | None:
    try:
        jwk = jwt.PyJWK(public, algorithm=algorithm)
    except (jwt.PyJWTError, ValueError):
        return None
    if isinstance(jwk.key, RSAPublicKey) and not RSA_BITS_MIN <= jwk.key.key_size <= RSA_BITS_MAX:
        return None
    return VerifyKey(kid, algorithm, tuple(public.values()), jwk)

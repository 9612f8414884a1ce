"""API keys, `id.secret`. The gateway keeps HMAC-SHA-256(pepper, `id.secret`) and never the secret.

Rules:
- A key comes as `authorization: Bearer id.secret`, as `authorization: Basic base64(id:secret)` (tritonclient's
  BasicAuth), or as `x-api-key: id.secret`.
- The secret is at least 128 random bits, so a fast MAC is enough; the MAC covers the id, so records cannot be swapped.
- An unknown id costs the same MAC and the same constant-time comparison as a known one.
- At most two live keys a principal: one in use and its successor. A key that is absent or marked revoked is invalid;
  one that has run out is expired, which only the holder of the secret is told.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.auth.errors import IdentityRejected
from gateway.auth.principal import Account, Presented, Principal, bearer
from gateway.errors import CredentialExpired, CredentialInvalid

KEY_CHARACTERS_MAX = 256
LIVE_KEYS_MAX = 2  # of one principal
MAC_BYTES = 32
PEPPER_BYTES_MIN = 32
SECRET_BYTES_MIN = 16

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOBODY = "-"  # hashed and compared for ids that do not exist


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as the policy holds it."""

    id: str
    mac: bytes  # `key_mac` of the whole key
    account: Account
    expires_ns: int | None
    revoked: bool = False


def new_api_key(random_bytes: bytes, key_id: str) -> str:
    """Return the key to hand out, or ValueError. `random_bytes`: at least 16, from the operating system's generator."""
    if _ID.fullmatch(key_id) is None:
        raise ValueError("an API key's id is 1 to 64 letters, digits, hyphens and underscores")
    if len(random_bytes) < SECRET_BYTES_MIN:
        raise ValueError(f"an API key's secret is made of at least {SECRET_BYTES_MIN} random bytes")
    return f"{key_id}.{base64.urlsafe_b64encode(random_bytes).rstrip(b'=').decode()}"


def key_mac(pepper: bytes, key: str) -> bytes:
    """Return what the policy keeps of a key: HMAC-SHA-256 of `id.secret` under the pepper."""
    return hmac.digest(pepper, key.encode(), "sha256")


class ApiKeys:
    """Implements `Authenticator` for API keys. Raises IdentityRejected when the keys break a rule."""

    def __init__(self, pepper: bytes, keys: Iterable[ApiKey], now_ns: int) -> None:
        if len(pepper) < PEPPER_BYTES_MIN:
            raise IdentityRejected("pepper", f"is shorter than {PEPPER_BYTES_MIN} bytes")
        self._mac = hmac.new(pepper, digestmod="sha256")
        self._records: dict[str, tuple[bytes, Principal | None]] = {}
        self._nobody = (key_mac(pepper, _NOBODY), None)
        live: Counter[str] = Counter()
        for key in keys:
            self._add(key)
            live[key.account.name] += not key.revoked and (key.expires_ns is None or key.expires_ns > now_ns)
        for name, count in live.items():
            if count > LIVE_KEYS_MAX:
                raise IdentityRejected(name, f"has {count} live API keys; at most {LIVE_KEYS_MAX}")

    def authenticate(self, presented: Presented, now_ns: int) -> Principal | None:
        key = _presented_key(presented)
        if key is None:
            return None
        if len(key) > KEY_CHARACTERS_MAX or not key.isascii():
            raise CredentialInvalid("API key: not one of ours")
        mac = self._mac.copy()
        mac.update(key.encode())
        stored, principal = self._records.get(key.partition(".")[0], self._nobody)
        right = hmac.compare_digest(mac.digest(), stored)
        if not right or principal is None:
            raise CredentialInvalid("API key: unknown, wrong or revoked")
        if principal.expires_ns is not None and now_ns >= principal.expires_ns:
            raise CredentialExpired
        return principal

    def _add(self, key: ApiKey) -> None:
        if _ID.fullmatch(key.id) is None:
            raise IdentityRejected(key.id, "is no API key id: 1 to 64 letters, digits, hyphens and underscores")
        if key.id in self._records:
            raise IdentityRejected(key.id, "is the id of two API keys")
        if len(key.mac) != MAC_BYTES:
            raise IdentityRejected(key.id, f"has a MAC that is not {MAC_BYTES} bytes")
        principal = None if key.revoked else key.account.through("api_key", key.id, key.expires_ns)
        self._records[key.id] = (key.mac, principal)


def _presented_key(presented: Presented) -> str | None:
    """Return the `id.secret` that is presented, None when there is none."""
    if presented.api_key is not None:
        return presented.api_key
    token = bearer(presented.authorization)
    if token is not None:
        return token if token.count(".") == 1 else None  # a JWT has two dots
    if presented.authorization is not None and presented.authorization[:6].lower() == "basic ":
        return _basic(presented.authorization[6:])
    return None


def _basic(encoded: str) -> str:
    """Return `id.secret` from the base64 of `id:secret` (RFC 7617)."""
    try:
        user, colon, secret = base64.b64decode(encoded, validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError):
        raise CredentialInvalid("Basic: not base64 of ASCII") from None
    if not colon:
        raise CredentialInvalid("Basic: no colon")
    return f"{user}.{secret}"

"""JSON Web Tokens (RFC 7519) as bearer credentials, with the advice of RFC 8725.

Rules:
- The token chooses nothing but which of our keys to try: `iss` picks a configured issuer, `kid` a key of that issuer's
  set, and the key has one algorithm, which must be the header's and one the policy pins. `none`, HS256 and every other
  are refused before a signature is looked at. `jku`, `x5u`, `x5c` and `jwk` are never read; `crit` is refused.
- `iss`, `aud`, `exp`, `iat` and `sub` are required and `nbf` is honoured. Times are in seconds; clocks may differ
  by `leeway_s`; a token is good for `lifetime_s_max` at most, however far away its `exp`.
- `typ` is absent, JWT or at+jwt: a token made for another purpose (a logout token, a proof) is no credential.
- The subject names the principal: (issuer, `sub`) is looked up in the policy. No other claim gives any right.
- A verified token is remembered under its SHA-256 until its `exp`, without leeway, and while its key is in the set.
  Only verified tokens get there, so strangers cannot push anything out.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jwt

from gateway.auth.errors import IdentityRejected
from gateway.auth.jwks import ALGORITHMS, KID_CHARACTERS_MAX, VerifyKey
from gateway.auth.principal import Account, Presented, Principal, bearer
from gateway.errors import CredentialExpired, CredentialInvalid

TOKEN_CHARACTERS_MAX = 4096
LEEWAY_S_MAX = 60
TOKEN_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
REQUIRED_CLAIMS = ["exp", "iat", "sub", "iss", "aud"]

_NS_PER_S = 1_000_000_000
_SECONDS_MAX = 1 << 40  # a time beyond this is no time; keeps the arithmetic exact


class Keys(Protocol):
    """The current keys of an issuer. Neither call blocks."""

    def get(self, kid: str) -> VerifyKey | None: ...

    def missed(self, kid: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are accepted, and on what terms."""

    name: str
    issuer: str  # `iss`, exactly
    audience: str  # what `aud` must hold
    algorithms: frozenset[str]
    keys: Keys
    leeway_s: int = 10
    lifetime_s_max: int = 86_400


@dataclass(frozen=True, slots=True)
class _Verified:
    principal: Principal
    expires_ns: int
    key: VerifyKey
    keys: Keys


class Tokens:
    """Implements `Authenticator` for JWTs. `subjects` maps (issuer name, `sub`) to accounts."""

    def __init__(
        self,
        issuers: Iterable[Issuer],
        subjects: Mapping[tuple[str, str], Account],
        *,
        cache_entries_max: int = 16_384,
    ) -> None:
        self._issuers: dict[str, Issuer] = {}
        for issuer in issuers:
            if not issuer.algorithms or not issuer.algorithms <= ALGORITHMS:
                raise IdentityRejected(issuer.name, f"may use only {', '.join(sorted(ALGORITHMS))}")
            if not 0 <= issuer.leeway_s <= LEEWAY_S_MAX:
                raise IdentityRejected(issuer.name, f"has a leeway that is not 0 to {LEEWAY_S_MAX} s")
            if issuer.issuer in self._issuers:
                raise IdentityRejected(issuer.name, "has the same `iss` as another issuer")
            self._issuers[issuer.issuer] = issuer
        self._subjects = dict(subjects)
        self._cache_entries_max = cache_entries_max
        self._cache: OrderedDict[bytes, _Verified] = OrderedDict()

    @property
    def cached(self) -> int:
        """How many verified tokens are remembered."""
        return len(self._cache)

    def authenticate(self, presented: Presented, now_ns: int) -> Principal | None:
        token = bearer(presented.authorization)
        if token is None or token.count(".") != 2:
            return None
        if len(token) > TOKEN_CHARACTERS_MAX or not token.isascii():
            raise CredentialInvalid("JWT: too long, or not ASCII")
        digest = hashlib.sha256(token.encode()).digest()
        hit = self._cache.get(digest)
        if hit is not None:
            if now_ns < hit.expires_ns and hit.keys.get(hit.key.kid) is hit.key:
                return hit.principal
            del self._cache[digest]
        verified = self._verify(token, now_ns)
        if now_ns < verified.expires_ns:
            self._remember(digest, verified)
        return verified.principal

    def _verify(self, token: str, now_ns: int) -> _Verified:
        issuer, key = self._issuer_and_key(token)
        try:
            claims = jwt.decode(
                token,
                key.jwk,
                algorithms=[key.algorithm],
                audience=issuer.audience,
                issuer=issuer.issuer,
                # Times are checked below: PyJWT reads the clock itself.
                options={"require": REQUIRED_CLAIMS, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise CredentialInvalid("JWT: signature, issuer, audience or a required claim") from None
        account = self._subjects.get((issuer.name, claims["sub"]))
        if account is None:
            raise CredentialInvalid("JWT: subject unknown")
        expires_ns = _require_times(claims, issuer, now_ns)
        principal = account.through("jwt", f"{issuer.name}/{key.kid}", expires_ns)
        return _Verified(principal, expires_ns, key, issuer.keys)

    def _issuer_and_key(self, token: str) -> tuple[Issuer, VerifyKey]:
        """Return which key the token must prove to be signed with. Nothing read here is believed yet."""
        try:
            unverified = jwt.decode_complete(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise CredentialInvalid("JWT: malformed") from None
        header, name = unverified["header"], unverified["payload"].get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise CredentialInvalid("JWT: issuer unknown")
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
            raise CredentialInvalid("JWT: algorithm not allowed")
        if not isinstance(kind, str) or kind.lower() not in TOKEN_TYPES or "crit" in header:
            raise CredentialInvalid("JWT: of a type, or with a critical header, that is not for us")
        if not isinstance(kid, str) or not 1 <= len(kid) <= KID_CHARACTERS_MAX:
            raise CredentialInvalid("JWT: no key id")
        key = issuer.keys.get(kid)
        if key is None:
            issuer.keys.missed(kid)
            raise CredentialInvalid("JWT: key unknown")
        if key.algorithm != algorithm:
            raise CredentialInvalid("JWT: not the algorithm of its key")
        return issuer, key

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        if len(self._cache) >= self._cache_entries_max:
            self._cache.popitem(last=False)
        self._cache[digest] = verified


def _require_times(claims: Mapping[str, Any], issuer: Issuer, now_ns: int) -> int:
    """Check exp, iat and nbf of a token whose signature is good; return its exp in Unix nanoseconds."""
    leeway_ns = issuer.leeway_s * _NS_PER_S
    expires_ns, issued_ns = _time_ns(claims["exp"]), _time_ns(claims["iat"])
    begins_ns = _time_ns(claims["nbf"]) if "nbf" in claims else issued_ns
    if max(issued_ns, begins_ns) > now_ns + leeway_ns:
        raise CredentialInvalid("JWT: not valid yet")
    if not issued_ns < expires_ns <= issued_ns + issuer.lifetime_s_max * _NS_PER_S:
        raise CredentialInvalid("JWT: lifetime out of bounds")
    if now_ns >= expires_ns + leeway_ns:
        raise CredentialExpired
    return expires_ns


def _time_ns(value: object) -> int:
    """Return a NumericDate (RFC 7519 section 2) in nanoseconds. Fractions of a second are cut off."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CredentialInvalid("JWT: a time that is no number")
    if not 0 <= value < _SECONDS_MAX:  # NaN is in no range
        raise CredentialInvalid("JWT: a time out of range")
    return int(value) * _NS_PER_S

"""Which credential counts. The one place that turns what was presented into a principal.

Rules:
- Every header credential that is presented must be good, on its own: a wrong one is never outweighed by a right one.
- Several credentials must name one principal; two different ones are CredentialInvalid, so nobody can borrow the rights
  of one identity under the limits of another.
- When several agree, headers speak before the certificate and `authorization` before `x-api-key`: the caller chose the
  header for this call, the certificate belongs to the connection.
- A client certificate that names nobody here proves nothing and contradicts nothing: it is not enough by itself.
- Nothing presented is CredentialMissing. Identity comes from nowhere else.
- Lengths are bounded before any other work.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.auth.principal import Authenticator, Presented, Principal
from gateway.errors import CredentialInvalid, CredentialMissing

AUTHORIZATION_CHARACTERS_MAX = 8192
API_KEY_CHARACTERS_MAX = 256
CERTIFICATE_NAMES_MAX = 16


class Chain:
    """Asks each authenticator in turn; the first that knows the kind of credential decides."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = tuple(authenticators)

    def authenticate(self, presented: Presented, now_ns: int) -> Principal:
        """Return who is calling. CredentialMissing, CredentialInvalid or CredentialExpired otherwise."""
        authorization, api_key, names = presented.authorization, presented.api_key, presented.spiffe
        if authorization is not None and len(authorization) > AUTHORIZATION_CHARACTERS_MAX:
            raise CredentialInvalid("authorization: too long")
        if api_key is not None and len(api_key) > API_KEY_CHARACTERS_MAX:
            raise CredentialInvalid("x-api-key: too long")
        if len(names) > CERTIFICATE_NAMES_MAX:
            raise CredentialInvalid("certificate: too many names")
        if names or api_key is not None:
            return self._several(authorization, api_key, names, now_ns)
        if authorization is None:
            raise CredentialMissing
        return self._known(presented, now_ns)

    def _several(
        self, authorization: str | None, api_key: str | None, names: tuple[str, ...], now_ns: int
    ) -> Principal:
        """Judge each credential on its own, and let them agree."""
        found: Principal | None = None
        if authorization is not None:
            found = self._known(Presented(authorization=authorization), now_ns)
        if api_key is not None:
            found = _agreed(found, self._known(Presented(api_key=api_key), now_ns))
        certified = self._ask(Presented(spiffe=names), now_ns)
        if certified is not None:
            found = _agreed(found, certified)
        if found is None:
            raise CredentialInvalid("certificate: names nobody")
        return found

    def _known(self, presented: Presented, now_ns: int) -> Principal:
        principal = self._ask(presented, now_ns)
        if principal is None:
            raise CredentialInvalid("no kind of credential that is accepted here")
        return principal

    def _ask(self, presented: Presented, now_ns: int) -> Principal | None:
        for authenticator in self._authenticators:
            principal = authenticator.authenticate(presented, now_ns)
            if principal is not None:
                return principal
        return None


def _agreed(first: Principal | None, second: Principal) -> Principal:
    if first is not None and first.name != second.name:
        raise CredentialInvalid("two credentials name two principals")
    return first or second

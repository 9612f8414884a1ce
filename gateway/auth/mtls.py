"""Client certificates: names in, principal out. That the certificate is genuine was settled in the TLS handshake.

Rules:
- A certificate that carries a SPIFFE ID is that identity and nothing else: its DNS names do not count.
- A certificate without one is known by its DNS names. They are matched whole; a wildcard name matches nobody.
- A certificate with a SPIFFE URI that is no valid SPIFFE ID, or with several (X.509-SVID, section 2), has no name.
- The subject's common name never counts (RFC 9525, section 2).

Names are told apart by the property gRPC reports them under. `x509_subject_alternative_name` mixes DNS names, URIs and
addresses in one list, so a DNS name spelled like a URI would pass for one; it is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from gateway.auth.errors import IdentityRejected
from gateway.auth.principal import Account, Presented, Principal
from gateway.errors import CredentialInvalid

NAMES_MAX = 16  # of one certificate
NAME_CHARACTERS_MAX = 2048  # SPIFFE-ID, section 2.3

_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/[A-Za-z0-9._-]+)+")
_DNS = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")


def certificate_names(auth_context: Mapping[str, Iterable[bytes]]) -> tuple[str, ...]:
    """The names of a verified client certificate, from `grpc.ServicerContext.auth_context()`; () when there are none.

    Returns one SPIFFE ID, or lower-case DNS names; never both, and at most NAMES_MAX.
    """
    identities = _texts(auth_context.get("peer_spiffe_id", ()))
    if identities:
        return identities if len(identities) == 1 and _is_spiffe(identities[0]) else ()
    if any(uri.lower().startswith("spiffe:") for uri in _texts(auth_context.get("peer_uri", ()))):
        return ()
    # A DNS name spelled like a SPIFFE ID would be looked up as one, so only what can be a DNS name is taken.
    lowered = [name.lower() for name in _texts(auth_context.get("peer_dns", ()))]
    names = tuple([name for name in lowered if _DNS.fullmatch(name) is not None])
    return names if len(names) <= NAMES_MAX else ()


class Certificates:
    """Implements `Authenticator` for client certificates. IdentityRejected when a name is malformed or given twice.

    `names` maps a SPIFFE ID or a lower-case DNS name to its account. A certificate that names nobody is None, not an
    error: it got its holder through the handshake, and whoever presents another credential is known by that one.
    """

    def __init__(self, names: Iterable[tuple[str, Account]]) -> None:
        self._principals: dict[str, Principal] = {}
        for name, account in names:
            if not _is_spiffe(name) and _DNS.fullmatch(name) is None:
                raise IdentityRejected(name, "is neither a SPIFFE ID nor a lower-case DNS name")
            if name in self._principals:
                raise IdentityRejected(name, "is given to two principals")
            self._principals[name] = account.through("mtls", name, None)

    def authenticate(self, presented: Presented, now_ns: int) -> Principal | None:  # noqa: ARG002  its time was checked in the handshake
        found: Principal | None = None
        for name in presented.spiffe:
            principal = self._principals.get(name)
            if principal is None:
                continue
            if found is not None and found.name != principal.name:
                raise CredentialInvalid("certificate: names two principals")
            found = found or principal
        return found


def _is_spiffe(name: str) -> bool:
    """Say whether this is a SPIFFE ID of a workload: a trust domain and a path without empty or dot segments."""
    if len(name) > NAME_CHARACTERS_MAX or _SPIFFE.fullmatch(name) is None:
        return False
    return not {".", ".."}.intersection(name[len("spiffe://") :].split("/")[1:])


def _texts(values: Iterable[bytes]) -> tuple[str, ...]:
    return tuple([value.decode("utf-8", "replace") for value in values])

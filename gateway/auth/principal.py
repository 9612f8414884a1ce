"""What a caller presents, who that turns out to be, and what an authenticator promises.

Times are Unix nanoseconds of the wall clock, handed in by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Method = Literal["api_key", "jwt", "mtls", "none"]  # none: a public method, or protections are off


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller, together with how this call proved it."""

    name: str
    tenant: str
    priority_class: str
    lane: int  # 0 goes first; bound to the identity, never read from the request
    roles: frozenset[str]
    credential: str  # a key's id, a token's issuer and key id, a certificate's name; never a secret
    method: Method
    expires_ns: int | None  # when the credential stops being good: a stream that lives longer must look again


@dataclass(frozen=True, slots=True)
class Account:
    """A principal as the policy describes it, before any credential."""

    name: str
    tenant: str
    priority_class: str
    lane: int
    roles: frozenset[str]

    def through(self, method: Method, credential: str, expires_ns: int | None) -> Principal:
        """This account, proved by one credential."""
        return Principal(
            name=self.name,
            tenant=self.tenant,
            priority_class=self.priority_class,
            lane=self.lane,
            roles=self.roles,
            credential=credential,
            method=method,
            expires_ns=expires_ns,
        )


@dataclass(frozen=True, slots=True)
class Presented:
    """Everything an identity may come from. Whatever else a client sends, no field here holds it."""

    authorization: str | None = None
    api_key: str | None = None
    spiffe: tuple[str, ...] = ()  # from the verified client certificate: `mtls.certificate_names`


class Authenticator(Protocol):
    """One kind of credential.

    `authenticate` returns the principal, or None when what is presented is of another kind (or, for a certificate,
    names nobody here). A credential of its kind that is wrong raises CredentialInvalid; one that was good and has run
    out raises CredentialExpired, and only after the secret or signature proved right, so that a guesser learns nothing
    from the difference. It reads nothing but its arguments and its own tables, grants nothing that an earlier call
    presented, never blocks, and is called from one thread. `now_ns` is Unix time.
    """

    def authenticate(self, presented: Presented, now_ns: int) -> Principal | None: ...


def bearer(authorization: str | None) -> str | None:
    """The token of `Bearer <token>` (RFC 6750 section 2.1; the scheme in any case), None for anything else."""
    if authorization is None or authorization[:7].lower() != "bearer ":
        return None
    return authorization[7:]


NOTHING = Presented()
PUBLIC = Principal(
    name="(public)",
    tenant="(public)",
    priority_class="(public)",
    lane=3,
    roles=frozenset(),
    credential="(public)",
    method="none",
    expires_ns=None,
)
"""Who calls a method that the policy made public, without a credential."""

"""What can be wrong with the identities an operator configured. None of these is raised while a caller is answered.

    IdentitySetupError
    ├── IdentityRejected   a key, subject, certificate name or grant of the policy breaks a rule
    └── KeySetRejected     an issuer's JWKS cannot be used as it is

What a caller can do wrong has its own tree in `gateway.errors`.
"""

from __future__ import annotations


class IdentitySetupError(Exception):
    """The root: identities as configured, or as an issuer publishes them, cannot be used."""


class IdentityRejected(IdentitySetupError):
    """A configured identity breaks a rule. Carries which one and what is wrong; never a secret."""

    def __init__(self, subject: str, problem: str) -> None:
        super().__init__(f"{subject}: {problem}")
        self.subject = subject
        self.problem = problem


class KeySetRejected(IdentitySetupError):
    """A JWKS document, or the way it was served, breaks a rule."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

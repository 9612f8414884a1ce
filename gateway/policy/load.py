"""Reads, verifies and signs policy.yaml: its bytes to a checked `Policy`, or every problem that was found."""

from __future__ import annotations

from pathlib import Path

from gateway.config.document import PolicyRejected, fill, read_bounded
from gateway.config.parse import parse
from gateway.policy.checks import RULES
from gateway.policy.policy import Policy, PolicyRollback
from gateway.policy.signature import sign_policy, verify

POLICY_BYTES_MAX = 16 * 1024 * 1024
TOO_LARGE = "remove principals that nobody is, and revoked keys; 65,536 principals with a key each fit"


def parse_policy(data: bytes, file: Path) -> Policy:
    """The bytes of policy.yaml, unverified, to a checked Policy. Raises PolicyRejected with all that is wrong."""
    return fill(Policy, parse(data, file, PolicyRejected), RULES, PolicyRejected)


def load_policy(path: Path, public_key: Path, *, in_force: Policy | None = None) -> Policy:
    """Read, verify, parse and return the policy. `in_force` is the one that it shall replace.

    Raises PolicySignatureInvalid, PolicyRejected, or PolicyRollback when the revision is not above that in force
    (the very same policy again is no rollback).
    """
    data = read_bounded(path, POLICY_BYTES_MAX, PolicyRejected, TOO_LARGE)
    verify(data, path, public_key)
    policy = parse_policy(data, path)
    if in_force is not None and policy.revision <= in_force.revision and policy.digest != in_force.digest:
        problem = f"revision {policy.revision} does not replace revision {in_force.revision}, which is in force"
        raise PolicyRollback([f"{path}: revision: {problem}; raise `revision` and sign again"])
    return policy


def sign_checked(path: Path, private_key: Path, public_key: Path) -> Policy:
    """Sign the policy, once it is known to be one, with the key that the gateway will ask for. Returns it.

    Raises PolicyRejected, PolicySignatureInvalid, OSError; the signature that was there is then there still.
    """
    data = read_bounded(path, POLICY_BYTES_MAX, PolicyRejected, TOO_LARGE)
    policy = parse_policy(data, path)
    sign_policy(path, private_key, data=data, public_key=public_key)
    return policy

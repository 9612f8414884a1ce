"""Where the policy stands on disk, and the last good copy of it.

What was accepted is copied, with its signature, into the state directory before any worker uses it. Workers load that
copy, so a policy file that is broken while nobody looks does no harm; when the gateway starts and the file is refused,
the copy is what it starts with.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from gateway.document import FileRejected
from gateway.policy import load_policy

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.config import PolicySource
    from gateway.policy import Policy
    from ops.logging import Log

ACCEPTED = "accepted.yaml"
DRAFT = "draft.yaml"


def signature_of(policy_file: Path) -> Path:
    """Return where the detached signature of a policy file stands."""
    return policy_file.with_name(policy_file.name + ".sig")


def stamp(policy_file: Path) -> tuple[int, int]:
    """Return something that changes when the policy or its signature does."""
    try:
        return policy_file.stat().st_mtime_ns, signature_of(policy_file).stat().st_mtime_ns
    except OSError:
        return 0, 0


def draft(policy_file: Path, kept_in: Path) -> Path:
    """Copy the policy and its signature to where workers can look at it. Raises OSError."""
    copy = kept_in / DRAFT
    shutil.copyfile(policy_file, copy)
    shutil.copyfile(signature_of(policy_file), signature_of(copy))
    return copy


def accept(copy: Path) -> None:
    """Make a draft the accepted policy. A crash between the two renames leaves a pair that does not verify.

    Such a pair is refused like any other, and the policy file itself, which was just accepted, is there to start with.
    """
    accepted = copy.with_name(ACCEPTED)
    signature_of(copy).replace(signature_of(accepted))
    copy.replace(accepted)


def first_policy(source: PolicySource, kept_in: Path, log: Log) -> Policy:
    """Return the policy to start with: the file's, or the last good one when the file is refused.

    Raises:
        FileRejected: neither can be used.
    """
    accepted = kept_in / ACCEPTED
    last_good: Policy | None = None
    if accepted.exists():
        try:
            last_good = load_policy(accepted, source.public_key)
        except FileRejected as problem:
            log("policy-refused", level="error", file=accepted.name, problem=str(problem))
    try:
        policy = load_policy(source.file, source.public_key, in_force=last_good)
    except FileRejected as problem:
        if last_good is None:
            raise
        log("policy-refused", level="error", file=source.file.name, policy=last_good.digest, problem=str(problem))
        return last_good
    accept(draft(source.file, kept_in))
    return policy

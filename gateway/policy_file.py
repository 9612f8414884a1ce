"""Where the policy stands on disk, and the last good copy of it.

What was accepted is copied, with its signature, into the state directory before any worker uses it. Workers load that
copy, so a policy file that is broken while nobody looks does no harm; when the gateway starts and the file is refused,
the copy is what it starts with.

A copy can stop to verify when the policy's key is replaced. The same policy signed with the new key mends it: at a
reload, and before a worker is started.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.document import FileRejected
from gateway.policy import load_policy
from gateway.policy_signature import verify

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.config import PolicySource
    from gateway.policy import Policy
    from ops.logging import Log

ACCEPTED = "accepted.yaml"
DRAFT = "draft.yaml"
MENDED = "mended.yaml"


def signature_of(policy_file: Path) -> Path:
    """Return where the detached signature of a policy file stands."""
    return policy_file.with_name(policy_file.name + ".sig")


def stamp(policy_file: Path) -> tuple[int, int]:
    """Return something that changes when the policy or its signature does."""
    try:
        return policy_file.stat().st_mtime_ns, signature_of(policy_file).stat().st_mtime_ns
    except OSError:
        return 0, 0


def accept(copy: Path) -> None:
    """Make a draft the accepted policy. A crash between the two renames leaves a pair that does not verify.

    Such a pair is refused like any other, and the policy file itself, which was just accepted, is there to start with.
    """
    accepted = copy.with_name(ACCEPTED)
    signature_of(copy).replace(signature_of(accepted))
    copy.replace(accepted)


@dataclass(frozen=True, slots=True)
class Kept:
    """The policy's file and the last good copy of it, in `directory`."""

    source: PolicySource
    directory: Path

    @property
    def copy(self) -> Path:
        """Where the accepted policy stands."""
        return self.directory / ACCEPTED

    def draft(self, name: str = DRAFT) -> Path:
        """Copy the policy and its signature to where workers can look at it. Raises OSError."""
        copy = self.directory / name
        shutil.copyfile(self.source.file, copy)
        shutil.copyfile(signature_of(self.source.file), signature_of(copy))
        return copy

    def first(self, log: Log) -> Policy:
        """Return the policy to start with: the file's, or the last good one when the file is refused.

        Raises:
            FileRejected: neither can be used.
        """
        source = self.source
        last_good: Policy | None = None
        if self.copy.exists():
            try:
                last_good = load_policy(self.copy, source.public_key)
            except FileRejected as problem:
                log("policy-refused", level="error", file=self.copy.name, problem=str(problem))
        try:
            policy = load_policy(source.file, source.public_key, in_force=last_good)
        except FileRejected as problem:
            if last_good is None:
                raise
            log("policy-refused", level="error", file=source.file.name, policy=last_good.digest, problem=str(problem))
            return last_good
        accept(self.draft())
        return policy

    def refresh(self, in_force: Policy) -> None:
        """Copy the file again where it holds the policy in force: its signature may be that of a new key.

        Raises:
            FileRejected, OSError: the file cannot be used.
        """
        copy = self.draft(MENDED)  # a reload may be using the draft
        if load_policy(copy, self.source.public_key).digest == in_force.digest:
            accept(copy)

    def mend(self, in_force: Policy) -> None:
        """Before a worker loads the copy: when it does not verify any more, take it from the file, if that will do."""
        with contextlib.suppress(FileRejected, OSError):
            try:
                verify(self.copy.read_bytes(), self.copy, self.source.public_key)
            except (FileRejected, OSError):
                self.refresh(in_force)

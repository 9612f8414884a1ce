"""Where the policy stands on disk, and the last good copy of it.

What was accepted is copied, with its signature, into the state directory before any worker uses it. Workers load that
copy, so a policy file that is broken while nobody looks does no harm; when the gateway starts and the file is refused,
the copy is what it starts with.

A copy can stop to verify when the policy's key is replaced. The same policy signed with the new key mends it: at a
reload, and before a worker is started.

Those that were in force stay beside the copy, the newest `FORMER_MAX` of them, for whoever has to go back to one: the
audit log knows them by digest. Their content needs a higher revision then, and a new signature.

The state directory may be deleted, and the copy with it. So which revision was last in force is remembered beside the
log as well: otherwise whoever deletes it could bring back an older policy that was once signed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.config.document import FileRejected, PolicyRejected, read_bounded
from gateway.policy.load import load_policy
from gateway.policy.policy import PolicyRollback
from gateway.policy.signature import verify
from ops.process.durable import keep_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.config.config import PolicySource
    from gateway.policy.policy import Policy
    from ops.process.logging import Log

ACCEPTED = "accepted.yaml"
DRAFT = "draft.yaml"
MENDED = "mended.yaml"
FORMER = "former"
FORMER_MAX = 20
MEMORY_BYTES_MAX = 1024
UNSIGNED_NS = 10 * 1_000_000_000
ABSENT = 0


def signature_of(policy_file: Path) -> Path:
    """Return where the detached signature of a policy file stands."""
    return policy_file.with_name(policy_file.name + ".sig")


def stamp(policy_file: Path) -> tuple[int, int]:
    """Return when the policy and its signature were changed last; ABSENT for one that is not there."""
    return changed(policy_file), changed(signature_of(policy_file))


def changed(file: Path) -> int:
    """Return when a file was changed last, in nanoseconds since 1970."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return ABSENT


def awaits_signature(found: tuple[int, int], seen: tuple[int, int], now_ns: int) -> bool:
    """Say whether the policy was edited a moment ago and not signed since. Of what is `found`, `seen` was dealt with.

    A policy is edited first and signed afterwards. To refuse it in between would put a refusal into the log that nobody
    has to answer for; what is unsigned after `UNSIGNED_NS` is refused.
    """
    edited = found[0] != seen[0] and found[1] in (seen[1], ABSENT) and found[1] < found[0]
    return edited and 0 <= now_ns - found[0] < UNSIGNED_NS


def accept(copy: Path) -> None:
    """Make a draft the accepted policy. A crash between the two renames leaves a pair that does not verify.

    Such a pair is refused like any other, and the policy file itself, which was just accepted, is there to start with.
    """
    accepted = copy.with_name(ACCEPTED)
    signature_of(copy).replace(signature_of(accepted))
    copy.replace(accepted)


@dataclass(frozen=True, slots=True)
class Memory:
    """Which policy was last in force, in a small file that is durable before the policy is used.

    At the same revision it knows the policy by its meaning or by its bytes: a new build may give it another digest.
    """

    file: Path

    def keep(self, policy: Policy, copy: Path) -> None:
        """Remember the policy that stands at `copy`. Raises OSError."""
        fields = {"digest": policy.digest, "revision": policy.revision, "sha256": sha256_of(copy)}
        keep_file(self.file, json.dumps(fields).encode() + b"\n")

    def require_newest(self, policy: Policy, policy_file: Path) -> None:
        """Return if the policy, which stands at `policy_file`, is the one remembered or replaces it.

        Raises:
            PolicyRollback: it is older, or another one of the same revision.
            PolicyRejected: what is remembered cannot be read.
        """
        if not self.file.exists():
            return
        try:
            kept = json.loads(read_bounded(self.file, MEMORY_BYTES_MAX, PolicyRejected))
            revision, known = int(kept["revision"]), (kept["digest"], kept["sha256"])
        except (ValueError, KeyError, TypeError):
            advice = "restore it, or remove it if you are sure that the policy is your newest"
            raise PolicyRejected([f"{self.file}: does not say which policy was last in force; {advice}"]) from None
        the_same = policy.digest == known[0] or sha256_of(policy_file) == known[1]
        if policy.revision < revision or (policy.revision == revision and not the_same):
            problem = f"revision {policy.revision} does not replace revision {revision}, which was last in force"
            advice = f"see {self.file}; raise `revision` above it and sign again"
            raise PolicyRollback([f"{policy_file}: revision: {problem}; {advice}"])


def former_policies(directory: Path) -> dict[str, Path]:
    """Return the policies that were in force, by digest, from the directory of the accepted one. Raises OSError."""
    return {file.name.split(".")[1]: file for file in sorted((directory / FORMER).glob("*.*.yaml"))}


def keep_former(copy: Path, policy: Policy) -> None:
    """Put a policy among those that were in force, and let the oldest of too many go. Raises OSError."""
    directory = copy.parent / FORMER
    directory.mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(copy, directory / f"{policy.revision:016d}.{policy.digest}.yaml")
    for file in sorted(directory.glob("*.*.yaml"))[:-FORMER_MAX]:
        file.unlink()


def sha256_of(file: Path) -> str:
    """Return the digest of a file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Kept:
    """The policy's file, the last good copy of it, in `directory`, and the memory that outlives the copy."""

    source: PolicySource
    directory: Path
    memory: Memory

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

    def accept(self, copy: Path, policy: Policy) -> None:
        """Make a draft, which holds this policy, the accepted one. Raises OSError."""
        self.memory.keep(policy, copy)
        with contextlib.suppress(OSError):  # the policy is good without it
            keep_former(copy, policy)
        accept(copy)

    def first(self, log: Log, require: Callable[[Policy], None] = lambda _: None) -> Policy:
        """Return the policy to start with: the file's, or the last good one when the file is refused.

        `require` raises PolicyRejected for a policy that cannot be put in force for another reason.

        Raises:
            FileRejected: neither can be used.
            OSError: it cannot be kept.
        """
        source = self.source
        last_good: Policy | None = None
        if self.copy.exists():
            try:
                found = self._newest(self.copy)
                require(found)
                last_good = found
            except FileRejected as problem:
                log("policy-refused", level="error", file=self.copy.name, problem=str(problem))
        try:
            policy = self._newest(source.file, in_force=last_good)
            require(policy)
        except FileRejected as problem:
            if last_good is None:
                raise
            log("policy-refused", level="error", file=source.file.name, policy=last_good.digest, problem=str(problem))
            self.memory.keep(last_good, self.copy)
            return last_good
        self.accept(self.draft(), policy)
        return policy

    def _newest(self, file: Path, in_force: Policy | None = None) -> Policy:
        policy = load_policy(file, self.source.public_key, in_force=in_force)
        self.memory.require_newest(policy, file)
        return policy

    def refresh(self, in_force: Policy) -> None:
        """Copy the file again where it holds the policy in force: its signature may be that of a new key.

        Raises:
            FileRejected, OSError: the file cannot be used.
        """
        copy = self.draft(MENDED)  # a reload may be using the draft
        if load_policy(copy, self.source.public_key).digest == in_force.digest:
            self.accept(copy, in_force)

    def mend(self, in_force: Policy) -> None:
        """Before a worker loads the copy: when it does not verify any more, take it from the file, if that will do."""
        with contextlib.suppress(FileRejected, OSError):
            try:
                verify(self.copy.read_bytes(), self.copy, self.source.public_key)
            except (FileRejected, OSError):
                self.refresh(in_force)

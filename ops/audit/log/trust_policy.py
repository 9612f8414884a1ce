"""Which logs and witnesses a verifier trusts, and how many witnesses it takes: c2sp.org/tlog-policy.

```
log <vkey> [<url>]
witness <name> <vkey> [<url>]
group <name> all|any|<k> <member> ...
quorum <name>|none
```

Lines end in newlines; spaces and tabs separate; `#` begins a comment line. A name stands for a witness or a group, is
defined before it is used, and is a member once at most, so that no witness counts twice. Names are opaque octets.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ops.audit.errors import QuorumMissing, SignatureMissing, TrustPolicyError, VerifierKeyError
from ops.audit.log.checkpoint import Checkpoint, NoteKey, VerifierKey, open_note, parse_checkpoint, parse_vkey
from ops.audit.log.cosignature import CosignerKey, parse_cosigner
from ops.audit.log.epochs import keys_for

POLICY_BYTES_MAX = 1024 * 1024
GROUP_DEPTH_MAX = 32
NONE = "none"


@dataclass(frozen=True, slots=True)
class TrustedLog:
    """A log whose checkpoints are accepted, those of all its epochs. The name of its key is its origin."""

    key: VerifierKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class TrustedWitness:
    """A witness, by the name that the policy has for it. `url` is its submission prefix."""

    name: str
    key: CosignerKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Witnesses when `threshold` of its members do."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A checkpoint that the policy accepts, and the names of the witnesses that cosigned it."""

    checkpoint: Checkpoint
    witnesses: tuple[str, ...]


@dataclass(slots=True)
class TrustPolicy:
    """`quorum` is the name of a witness or a group, or `none`."""

    logs: list[TrustedLog] = field(default_factory=list)
    witnesses: dict[str, TrustedWitness] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    quorum: str = NONE

    def cosigned(self, keys: Iterable[NoteKey]) -> tuple[str, ...]:
        """The names of the witnesses among these keys, in the order of the policy."""
        known = set(keys)
        return tuple(name for name, witness in self.witnesses.items() if witness.key in known)

    def enough(self, witnesses: Iterable[str]) -> bool:
        """Whether these witnesses, by name, make the quorum."""
        present = set(witnesses)

        def witnessing(name: str) -> bool:
            group = self.groups.get(name)
            if group is None:
                return name in present
            return sum(map(witnessing, group.members)) >= group.threshold

        return self.quorum == NONE or witnessing(self.quorum)

    def open(self, note: bytes) -> Witnessed:
        """The checkpoint in a note, when one of the logs signed it and enough witnesses cosigned.

        Extension lines are allowed, and mean nothing.

        Raises:
            NoteError: malformed, not signed by a trusted log, or a known key with a bad signature.
            QuorumMissing: too few witnesses.
        """
        logs = keys_for(note, (log.key for log in self.logs))
        opened = open_note(note, [*logs, *(witness.key for witness in self.witnesses.values())])
        checkpoint = parse_checkpoint(opened.text, extensions=True)
        if not opened.signed_by_log(checkpoint.origin):
            raise SignatureMissing(f"no signature by the key of {checkpoint.origin}")
        witnesses = self.cosigned(key for key, _ in opened.signatures)
        if not self.enough(witnesses):
            raise QuorumMissing(
                f"cosigned by {', '.join(witnesses) or 'nobody'}, which is not the quorum {self.quorum}"
            )
        return Witnessed(checkpoint, witnesses)


def parse_trust_policy(data: bytes) -> TrustPolicy:
    """Read a policy file.

    Raises:
        TrustPolicyError: with the number of the line and what is wrong with it.
    """
    if len(data) > POLICY_BYTES_MAX:
        raise TrustPolicyError("the policy is too long")
    if any((byte < 0x20 and byte not in b"\t\n") or byte == 0x7F for byte in data):
        raise TrustPolicyError("the policy holds control characters other than tab and newline")
    reader = _Reader()
    # Names are octets; what is no UTF-8 in them is written out, so that it can be printed and be a metric's label.
    for number, line in enumerate(data.decode("utf-8", "backslashreplace").split("\n"), 1):
        words = line.replace("\t", " ").split(" ")
        words = [word for word in words if word]
        if not words or words[0].startswith("#"):
            continue
        try:
            reader.take(words)
        except (TrustPolicyError, VerifierKeyError) as error:
            raise TrustPolicyError(f"line {number}: {error}") from error
    if not reader.has_quorum:
        raise TrustPolicyError("there is no quorum line; `quorum none` asks for no witnesses")
    return reader.policy


def read_trust_policy(path: Path) -> TrustPolicy:
    """Read a policy file. OSError, or TrustPolicyError as `parse_trust_policy`."""
    return parse_trust_policy(path.read_bytes())


class _Reader:
    """Takes the lines of a policy, one at a time."""

    def __init__(self) -> None:
        self.policy = TrustPolicy()
        self.has_quorum = False
        self._seen: set[tuple[str, str | bytes]] = set()
        self._depths: dict[str, int] = {}  # of groups within groups

    def take(self, words: list[str]) -> None:
        match words:
            case ["log", vkey, *url] if len(url) <= 1:
                key = parse_vkey(vkey)
                self._once("log", key.public_key, "this log is there already")
                self.policy.logs.append(TrustedLog(key, *url))
            case ["witness", name, vkey, *url] if len(url) <= 1:
                witness = TrustedWitness(self._new(name), parse_cosigner(vkey), *url)
                self._once("witness", witness.key.public_key, "a witness with this key is there already")
                self.policy.witnesses[name] = witness
            case ["group", name, threshold, *members] if members:
                depth = 1 + max(self._depths.get(member, 0) for member in members)
                if depth > GROUP_DEPTH_MAX:
                    raise TrustPolicyError(f"group {name} is {depth} deep; {GROUP_DEPTH_MAX} at most")
                self.policy.groups[self._new(name)] = Group(_threshold(threshold, len(members)), tuple(members))
                self._depths[name] = depth
                for member in members:
                    self._known(member)
                    self._once("member", member, f"{member} is a member already")
            case ["quorum", name]:
                if self.has_quorum:
                    raise TrustPolicyError("there is a quorum line already")
                self.has_quorum = True
                self.policy.quorum = name if name == NONE else self._known(name)
            case _:
                raise TrustPolicyError(f"not a line of a policy: it begins with {words[0]!r}")

    def _new(self, name: str) -> str:
        if name == NONE or name in self.policy.witnesses or name in self.policy.groups:
            raise TrustPolicyError(f"the name {name} is taken")
        return name

    def _known(self, name: str) -> str:
        if name not in self.policy.witnesses and name not in self.policy.groups:
            raise TrustPolicyError(f"{name} is no witness or group of a line before")
        return name

    def _once(self, kind: str, item: str | bytes, problem: str) -> None:
        if (kind, item) in self._seen:
            raise TrustPolicyError(problem)
        self._seen.add((kind, item))


def _threshold(text: str, members: int) -> int:
    named: Mapping[str, int] = {"any": 1, "all": members}
    if text in named:
        return named[text]
    if not (text.isascii() and text.isdigit()) or len(text) > 6 or not 1 <= int(text) <= members or text[0] == "0":
        raise TrustPolicyError(f"a group is witnessed by any, all, or a number from 1 to {members} of its members")
    return int(text)

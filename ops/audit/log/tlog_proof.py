"""Receipts: one entry of a log with all that is needed to verify it offline (c2sp.org/tlog-proof, `.tlog-proof`).

```
c2sp.org/tlog-proof@v1
extra <base64>
index <n>
<base64 hash, from the leaf's sibling up to the child of the root> ...

<checkpoint, with the cosignatures that it has>
```

Our `extra` is the entry itself, so that a receipt needs no other file. It is not authenticated by being there: it is,
by the proof that leads from its hash to the root. Pure.
"""

import base64
from dataclasses import dataclass

from ops.audit.errors import ProofError
from ops.audit.log.checkpoint import NOTE_BYTES_MAX, decode64
from ops.audit.log.entry import ENTRY_BYTES_MAX
from ops.audit.log.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from ops.audit.log.trust_policy import TrustPolicy, Witnessed

HEADER = "c2sp.org/tlog-proof@v1"
HASHES_MAX = 63
INDEX_DIGITS_MAX = 19
PROOF_BYTES_MAX = NOTE_BYTES_MAX + 2 * ENTRY_BYTES_MAX + 64 * HASHES_MAX


@dataclass(frozen=True, slots=True)
class TlogProof:
    """An index, the inclusion proof of its leaf, and the checkpoint (a signed note) whose root it leads to."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def text(self) -> bytes:
        """What a `.tlog-proof` file holds."""
        extra = [] if self.extra is None else [f"extra {base64.b64encode(self.extra).decode()}"]
        hashes = [base64.b64encode(each).decode() for each in self.hashes]
        lines = [HEADER, *extra, f"index {self.index}", *hashes, "", ""]
        return "\n".join(lines).encode() + self.checkpoint

    def verify(self, policy: TrustPolicy, entry: bytes | None = None) -> Witnessed:
        """Verify that the log holds the entry, that of the receipt unless one is given.

        Raises:
            NoteError: the policy does not accept the checkpoint.
            ProofError: there is no entry, or the proof does not lead from it to the root.
        """
        data = self.extra if entry is None else entry
        if data is None:
            raise ProofError("the receipt holds no entry: bring the one that it is for")
        witnessed = policy.open(self.checkpoint)
        head = witnessed.checkpoint
        verify_inclusion(leaf_hash(data), self.index, head.size, self.hashes, head.root)
        return witnessed


def parse_proof(data: bytes) -> TlogProof:
    """Read a `.tlog-proof` file.

    Raises:
        ProofError: it is not one. What it proves is another matter.
    """
    if len(data) > PROOF_BYTES_MAX:
        raise ProofError("the receipt is too long")
    proof, gap, checkpoint = data.partition(b"\n\n")
    try:
        lines = proof.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise ProofError("the receipt is not text") from error
    if not gap or lines.pop(0) != HEADER:
        raise ProofError(f"a receipt begins with {HEADER} and holds a checkpoint")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = _decoded(lines.pop(0).removeprefix("extra "), "the extra data")
    index = _index(lines.pop(0) if lines else "")
    if len(lines) > HASHES_MAX:
        raise ProofError("the proof is too long")
    hashes = tuple(_decoded(line, "a hash of the proof") for line in lines)
    if any(len(each) != HASH_BYTES for each in hashes):
        raise ProofError("a hash of the proof has not 32 bytes")
    return TlogProof(index, hashes, checkpoint, extra)


def _index(line: str) -> int:
    decimal = line.removeprefix("index ")
    sound = line.startswith("index ") and decimal.isascii() and decimal.isdigit() and len(decimal) <= INDEX_DIGITS_MAX
    if not sound or str(int(decimal)) != decimal:
        raise ProofError("the receipt names no index")
    return int(decimal)


def _decoded(text: str, what: str) -> bytes:
    data = decode64(text)
    if data is None:
        raise ProofError(f"{what} is not base64")
    return data

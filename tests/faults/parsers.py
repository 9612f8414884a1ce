"""Every parser of the audit log, the errors that it may raise, and sound examples of what it reads.

Tried by hypothesis (`test_parsers.py`) and under libFuzzer (`fuzz_parsers.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ops.audit.errors import (
    EntryError,
    LogCorrupted,
    NoteError,
    ProofError,
    ProtocolError,
    TileError,
    TrustPolicyError,
    VerifierKeyError,
)
from ops.audit.log import entry
from ops.audit.log.checkpoint import (
    Checkpoint,
    open_checkpoint,
    open_note,
    parse_checkpoint,
    parse_skey,
    parse_vkey,
    sign_note,
)
from ops.audit.log.cosignature import COSIGN_ED25519, COSIGN_ML_DSA_44, Cosigner, parse_cosigner, parse_cosigner_secret
from ops.audit.log.merkle import Frontier, leaf_hash, verify_consistency, verify_inclusion
from ops.audit.log.shapes import Shapes
from ops.audit.log.tiles import frame_entry, join_pack, parse_path, split_bundle, split_hashes, split_pack
from ops.audit.log.tlog_proof import TlogProof, parse_proof
from ops.audit.log.trust_policy import parse_trust_policy
from ops.audit.store import protocol, ring
from ops.audit.store.appender import check_append
from ops.audit.store.segments import (
    FIRST_TRAILER,
    HEADER_BYTES,
    RECORDS,
    TRAILER,
    Header,
    Trailer,
    check_tail,
    frame,
    parse_header,
    scan,
)
from ops.audit.witnesses.witness import AddCheckpoint, parse_add_checkpoint
from tests.faults.recorder_process import KEY, ORIGIN
from tests.ops.audit.samples import captured, small

HERE = Path("segment")
ENTRY = small(1)
ROOT = leaf_hash(ENTRY)
HEAD = Checkpoint(ORIGIN, 1, ROOT)
COSIGNERS = [Cosigner(f"w{kind}.test/w", kind, ROOT) for kind in (COSIGN_ED25519, COSIGN_ML_DSA_44)]
COSIGNED = "".join(each.cosign(HEAD.text().encode(), 1_800_000_000) for each in COSIGNERS)
NOTE = sign_note(HEAD.text(), [KEY]) + COSIGNED.encode()
KEYS = [KEY.verifier, *(each.key for each in COSIGNERS)]
POLICY = "\n".join(
    [
        f"log {KEY.verifier} https://log.test/",
        *(f"witness w{number} {each.key}" for number, each in enumerate(COSIGNERS)),
        "group both all w0 w1",
        "quorum both",
        "",
    ]
).encode()
TRUST = parse_trust_policy(POLICY)
PROOF = TlogProof(0, (), NOTE, ENTRY).text()
REQUEST = AddCheckpoint(0, (), NOTE).body()
APPEND = protocol.append_message([ENTRY, captured(2, b"sealed")], [b"sealed"])


def segment() -> bytes:
    """One group in a segment, and room behind it."""
    header = Header(1, 0, FIRST_TRAILER, sha256(ORIGIN.encode()).digest(), Frontier()).pack()
    records = b"".join(frame(RECORDS, frame_entry(ENTRY), 1, HEADER_BYTES))
    trailer = Trailer(1, 0, ROOT, FIRST_TRAILER).pack()
    return header + records + b"".join(frame(TRAILER, trailer, 1, HEADER_BYTES + len(records))) + bytes(100)


def text(parse: Callable[[str], Any]) -> Callable[[bytes], Any]:
    return lambda data: parse(data.decode("utf-8", "replace"))


def scanned(data: bytes) -> None:
    check_tail(data, scan(data, HERE), HERE, 0)


def received(data: bytes) -> None:
    for records, pack in protocol.split_messages(data, 1 << 20)[0]:
        check_append(records, pack, Shapes())


def inclusion(data: bytes) -> None:
    hashes = [data[at : at + 32] for at in range(2, len(data), 32)]
    verify_inclusion(ROOT, *data[:2].ljust(2, b"\0"), hashes, ROOT)


def consistency(data: bytes) -> None:
    hashes = [data[at : at + 32] for at in range(2, len(data), 32)]
    verify_consistency(*data[:2].ljust(2, b"\0"), hashes, ROOT, ROOT)


@dataclass(frozen=True, slots=True)
class Parser:
    """What reads bytes, the errors it may raise, and sound examples."""

    name: str
    parse: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...]
    samples: tuple[bytes, ...]


PARSERS = (
    Parser("note", lambda data: open_note(data, KEYS), (NoteError,), (NOTE,)),
    Parser("checkpoint", lambda data: open_checkpoint(data, KEYS), (NoteError,), (NOTE,)),
    Parser("checkpoint's text", text(parse_checkpoint), (NoteError,), (HEAD.text().encode(),)),
    Parser("log's key", text(parse_vkey), (VerifierKeyError,), (str(KEY.verifier).encode(),)),
    Parser("log's secret", text(parse_skey), (VerifierKeyError,), (KEY.secret().encode(),)),
    Parser(
        "witness's key", text(parse_cosigner), (VerifierKeyError,), tuple(str(each.key).encode() for each in COSIGNERS)
    ),
    Parser(
        "witness's secret",
        text(parse_cosigner_secret),
        (VerifierKeyError,),
        tuple(each.secret().encode() for each in COSIGNERS),
    ),
    Parser("policy", parse_trust_policy, (TrustPolicyError,), (POLICY,)),
    Parser("quorum", TRUST.open, (NoteError,), (NOTE,)),
    Parser("receipt", lambda data: parse_proof(data).verify(TRUST), (ProofError, NoteError), (PROOF,)),
    Parser("witness's request", parse_add_checkpoint, (ProofError,), (REQUEST,)),
    Parser("inclusion proof", inclusion, (ProofError,), (bytes([3, 9]) + ROOT * 4,)),
    Parser("consistency proof", consistency, (ProofError,), (bytes([3, 9]) + ROOT * 4,)),
    Parser("entry", entry.check, (EntryError,), (ENTRY, captured(3, b"request", b"response"))),
    Parser("tile's path", text(parse_path), (TileError,), (b"tile/0/x001/234.p/7", b"tile/entries/000", b"blobs/000")),
    Parser("hash tile", split_hashes, (TileError,), (ROOT * 3,)),
    Parser("entry bundle", split_bundle, (TileError,), (frame_entry(ENTRY) * 2,)),
    Parser("payload pack", split_pack, (TileError,), (join_pack([b"one", b"two"]),)),
    Parser("segment's header", lambda data: parse_header(data, HERE), (LogCorrupted,), (segment()[:HEADER_BYTES],)),
    Parser("segment", scanned, (LogCorrupted,), (segment(),)),
    Parser("append", received, (ProtocolError, EntryError, TileError), (APPEND,)),
    Parser("replies", protocol.split_replies, (ProtocolError,), (protocol.reply(protocol.ACK, 1, 7),)),
    Parser("hello", protocol.split_hello, (ProtocolError,), (protocol.hello(ORIGIN, 1, 7, 1000),)),
    Parser("in-flight ring", ring.parse, (), (ring.MAGIC.ljust(ring.HEADER_BYTES + ring.SLOT_BYTES, b"\x01"),)),
)

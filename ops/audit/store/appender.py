"""The committer: groups of checked entries in, durable entries with indexes out.

The one writer of the tree. `commit` extends the frontier, writes the group and its trailer to the segment, syncs, and
only then hands the group to the edge for publishing. After `Poisoned` the object must not be used again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from ops.audit.errors import EntryError, EpochClosed
from ops.audit.log import entry
from ops.audit.log.merkle import Frontier
from ops.audit.log.schemas import Request
from ops.audit.log.shapes import Shapes
from ops.audit.log.tiles import frame_entry, split_pack
from ops.audit.store.edge import Edge
from ops.audit.store.segment_store import OpenSegment, SegmentStore
from ops.audit.store.segments import BLOBS, FRAME_BYTES, RECORDS, TRAILER, TRAILER_BYTES, Header, Trailer, frame

# What gateways write. Other kinds are the recorder's own word (genesis, heartbeats, what explains a silence or a lost
# record), or nobody writes them yet. A forged heartbeat would make a log tampered for ever, a gap excuse a silence.
GATEWAY_KINDS = frozenset(
    {
        "served",
        "refused",
        "failed",
        "config",
        "policy",
        "model",
        "release",
        "feedback",
        "evaluation",
        "admin",
        "isolation",
        "incident",
        "quarantine",
        "replay-result",
        "erasure",
        "hold",
    }
)


@dataclass(frozen=True, slots=True)
class Append:
    """Entries that were checked and hashed, ready to be committed together."""

    records: bytes  # framed entries, as in a bundle
    framed: Sequence[bytes]  # the same, cut
    leaves: Sequence[bytes]
    kinds: Sequence[str]
    pack: bytes  # payload ciphertexts
    blobs: Sequence[tuple[int, bytes]]  # (offset of the entry that names it, ciphertext)

    @property
    def nbytes(self) -> int:
        return len(self.records) + len(self.pack)


def check_append(records: bytes, pack: bytes, shapes: Shapes) -> Append:
    """Check framed entries that came from a gateway, and the payloads that came with them.

    `shapes` are those of entries that came before, and learn from these.

    Raises:
        EntryError: an entry that is not canonical or not a gateway's to write, or payloads other than those that the
            entries name.
    """
    append = _check(records, pack, shapes)
    if not GATEWAY_KINDS.issuperset(append.kinds):
        raise EntryError("an entry of a kind that gateways do not write")
    return append


def _check(records: bytes, pack: bytes, shapes: Shapes) -> Append:
    framed: list[bytes] = []
    leaves: list[bytes] = []
    kinds: list[str] = []
    named: list[tuple[int, bytes]] = []
    position, end = 0, len(records)
    while position < end:
        start = position + 2
        stop = start + int.from_bytes(records[position:start], "big")
        data = records[start:stop]
        kind = shapes.know(data)
        if not kind:
            checked = entry.check(data)
            kind = checked.kind
            named += [(len(framed), digest) for digest in entry.payload_hashes(checked)]
            if isinstance(checked, Request):
                shapes.learn(data, checked)
        framed.append(records[position:stop])
        leaves.append(sha256(b"\x00" + data).digest())
        kinds.append(kind)
        position = stop
    if position != end or not framed:
        raise EntryError("the entries do not fill their frame")
    return Append(records, framed, leaves, kinds, pack, _match(named, pack))


def _match(named: Sequence[tuple[int, bytes]], pack: bytes) -> list[tuple[int, bytes]]:
    """Give each payload to the entry that names it: exactly those, each once."""
    if not named and not pack:
        return []
    blobs = {sha256(blob).digest(): blob for blob in split_pack(pack)}
    if sorted(digest for _, digest in named) != sorted(blobs):
        raise EntryError("the payloads are not those that the entries name")
    return [(offset, blobs[digest]) for offset, digest in named]


def own_append(entries: Sequence[bytes]) -> Append:
    """The recorder's own entries, of any kind, checked like everybody's."""
    return _check(b"".join(frame_entry(each) for each in entries), b"", Shapes())


class Appender:
    """Used from one thread. `size` is the size of the durable tree; once it is `closed`, it has its last entry."""

    def __init__(
        self,
        store: SegmentStore,
        edge: Edge,
        frontier: Frontier,
        origin: str,
        *,
        number: int,
        previous: bytes,
        heartbeats: int,
    ) -> None:
        self._store = store
        self._edge = edge
        self._frontier = frontier
        self._origin_hash = sha256(origin.encode()).digest()
        self._previous = previous
        self.heartbeats = heartbeats
        self.closed = False
        self._segment = self._begin(number)

    @property
    def size(self) -> int:
        return self._frontier.size

    def _begin(self, number: int) -> OpenSegment:
        header = Header(number, self.heartbeats, self._previous, self._origin_hash, self._frontier.copy())
        return self._store.begin(header)

    def reserve(self, appends: Sequence[Append]) -> None:
        """Make sure the group has a segment to go to.

        Raises:
            LogFull: it does not, and nothing has changed.
            Poisoned: an I/O error.
        """
        frames = sum(len(each.records) + len(each.pack) + 2 * FRAME_BYTES for each in appends)
        if frames + TRAILER_BYTES > self._segment.room:
            full = self._segment
            self._segment = self._begin(full.number + 1)
            full.close()
            self._store.closed(full.number, self.size)

    def commit(self, appends: Sequence[Append], heartbeats: int = 0) -> None:
        """Make the group durable. The first entry gets index `size`, the rest follow in order.

        Raises:
            LogFull: as `reserve`.
            Poisoned: it is unknown what is durable.
            EpochClosed: there is an `epoch-close` entry already.
        """
        if self.closed:
            raise EpochClosed("nothing follows the entry that closed the epoch")
        self.reserve(appends)
        segment = self._segment
        first = index = self.size
        parts: list[bytes] = []
        offset = segment.offset
        framed: list[bytes] = []
        leaves: list[bytes] = []
        blobs: list[tuple[int, bytes]] = []
        for append in appends:
            for kind, payload in ((RECORDS, append.records), (BLOBS, append.pack)):
                if payload:
                    parts += frame(kind, payload, segment.number, offset)
                    offset += FRAME_BYTES + len(payload)
            framed += append.framed
            leaves += append.leaves
            blobs += [(index + within, blob) for within, blob in append.blobs]
            index += len(append.framed)
        grown = self._frontier.extend(leaves)
        root = self._frontier.root()
        self.heartbeats += heartbeats
        trailer = Trailer(first + len(leaves), self.heartbeats, root, self._previous)
        parts += frame(TRAILER, trailer.pack(), segment.number, offset)
        segment.commit(parts)
        # Commit point: the group is durable. Whatever happens now, recovery finds it.
        self._previous = trailer.hash
        self.closed = any("epoch-close" in append.kinds for append in appends)
        self._edge.add(grown, framed, blobs, trailer.size, root)

    def close(self) -> None:
        self._segment.close()

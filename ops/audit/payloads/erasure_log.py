"""What the log says of erasures and holds, for a key database that may be older: one that a backup brought back.

Rules:
1. The log wins. A key that it says was destroyed is destroyed; a hold that it says was placed is in force until it says
   that it was lifted. What it does not mention stays as it is.
2. How far it was read is written down in the key database when what was read has taken force. Another origin is read
   from its beginning.
3. Whoever may write entries may write nonsense: what is no reference, and what names no hold, is passed over.

A hold that comes from the log has no subject's name, only the pseudonym, by which it covers as well.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec import UnsetType

from ops.audit.errors import EntryError
from ops.audit.log import schemas
from ops.audit.log.entry import check
from ops.audit.payloads.erasure import Erasures
from ops.audit.payloads.erasure_rows import Hold
from ops.audit.reader.read import LogReader

PART = 16_384  # entries at a time
ReaderFrom = Callable[[str, int], LogReader]
_REFERENCE = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(slots=True)
class Said:
    """Hex references of keys that were destroyed; holds that are in force at the end, and ids of those lifted."""

    keys: list[str] = field(default_factory=list)
    placed: dict[str, Hold] = field(default_factory=dict)
    lifted: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Followed:
    """What a part of the log has changed: keys destroyed, holds placed or lifted. `more`: another part follows."""

    keys: int
    holds: int
    more: bool


def follow(erasures: Erasures, reader_from: ReaderFrom) -> Followed:
    """Let the next part of the log take force in the key database.

    Args:
        erasures: of the key database.
        reader_from: gives the epoch in which somebody reads on who came to this entry of this origin.

    Raises:
        KeyStoreError: the key database cannot be used.
        ReadError, NoteError, OSError: the log cannot be read.
    """
    origin, next_ = _mark(erasures)
    reader = reader_from(origin, next_)
    head = reader.checkpoint
    first = min(next_, head.size) if origin == head.origin else 0
    count = min(PART, head.size - first)
    if not count:
        return Followed(0, 0, more=False)
    said = said_in(reader.entries(first, count))
    holds = erasures.hold_named([*said.placed.values()], said.lifted)
    keys = erasures.destroy_named(said.keys, f"{head.origin} {first + count}")
    more = first + count < head.size or reader_from(*_mark(erasures)).checkpoint.origin != head.origin
    return Followed(keys, holds, more)


def _mark(erasures: Erasures) -> tuple[str, int]:
    """The origin that was read last, and up to which entry."""
    origin, _, next_ = erasures.mark().rpartition(" ")
    return origin, int(next_ or 0)


def said_in(entries: Sequence[bytes]) -> Said:
    """What entries of the log say, one after the other."""
    said = Said()
    for data in entries:
        if b'"kind":"erasure"' in data or b'"kind":"hold"' in data:
            try:
                entry = check(data)
            except EntryError:
                continue
            if isinstance(entry, schemas.Erasure):
                said.keys += filter(_REFERENCE.fullmatch, entry.keys)
            elif isinstance(entry, schemas.Hold):
                _take(said, entry)
    return said


def _take(said: Said, entry: schemas.Hold) -> None:
    if isinstance(entry.hold, UnsetType) or isinstance(entry.tenant, UnsetType):
        return
    if entry.action == "lifted":
        said.placed.pop(entry.hold, None)
        said.lifted.append(entry.hold)
        return
    pseudonym, request = ("" if isinstance(each, UnsetType) else each for each in (entry.subject, entry.request))
    said.placed[entry.hold] = Hold(
        id=entry.hold,
        tenant=entry.tenant,
        subject="",
        pseudonym=pseudonym,
        matter=entry.matter,
        administrator=entry.administrator,
        request=request,
        since_ns=int(entry.time_ns),
    )

"""What somebody may do to a published log, and what the verifier has to say about it.

A log is its files in memory (`Files`), so that thousands of tampered ones cost nothing to make. Each way to tamper
takes the files and a source of randomness, and gives the tampered files with the verdict that is due: the exit code,
and a pattern that one of the findings must match. Some show only against what an auditor kept (`remembered`) or by the
clock (`now_ns`): no directory can show about itself that there was a longer one.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from ops.audit.log.checkpoint import Checkpoint, SignerKey, sign_note
from ops.audit.log.merkle import fold, leaf_hash, tree_root
from ops.audit.log.tiles import (
    BLOBS,
    ENTRIES,
    TILE_WIDTH,
    frame_entry,
    hash_tiles_between,
    join_pack,
    parse_path,
    split_bundle,
    split_pack,
    tiles_between,
)
from ops.audit.verify.report import INCOMPLETE, STALE, TAMPERED
from tests.faults.recorder_process import KEY, ORIGIN
from tests.ops.audit.samples import small

OTHER = SignerKey(ORIGIN, bytes(range(32)))
Files = dict[str, bytes]

LEAF = r"entry \d+ does not match its leaf hash|the entries do not give the root"
ENTRY = r"entry \d+: not|entry \d+: time_ns|entry \d+: an entry|bundle ends inside|the bundle holds"
TREE = r"leaf hash of entry|does not follow from|the tiles do not give the root|the tile has \d+ bytes|differs from"
NOTE = r"the note |a checkpoint has|the size is|the signature by|no signature by|the first entry names the key"
PAYLOAD = r"a payload that no entry names|a payload is missing|pack ends inside"
FORK = r"a fork: another tree of size|rolled back: size"


@dataclass(frozen=True, slots=True)
class Log:
    """A clean log: its files, its entries, and the checkpoints that it published on its way."""

    files: Mapping[str, bytes]
    entries: tuple[bytes, ...]
    notes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Tampered:
    """Files to verify, and what is due: exit code and finding."""

    files: Files
    exit_code: int
    reason: str
    options: dict[str, object] = field(default_factory=dict)

    def right(self, found: list[str]) -> bool:
        return any(re.search(self.reason, each) for each in found)


Tamper = Callable[[Log, Random], Tampered | None]


def read_files(directory: Path) -> Files:
    return {
        each.relative_to(directory).as_posix(): each.read_bytes() for each in directory.rglob("*") if each.is_file()
    }


def build(entries: list[bytes], signer: SignerKey = KEY) -> Files:
    """A whole log of these entries, consistent in itself, as whoever holds the key can make one. Without payloads."""
    files: Files = {}
    levels = [[leaf_hash(each) for each in entries]]
    while len(levels[-1]) >= TILE_WIDTH:
        below = levels[-1]
        levels.append([fold(below[at : at + TILE_WIDTH]) for at in range(0, len(below) - TILE_WIDTH + 1, TILE_WIDTH)])
    for tile in hash_tiles_between(0, len(entries)):
        files[tile.path] = b"".join(levels[tile.level][tile.index * TILE_WIDTH :][: tile.width])
    for tile in tiles_between(ENTRIES, 0, len(entries)):
        files[tile.path] = b"".join(map(frame_entry, entries[tile.index * TILE_WIDTH :][: tile.width]))
    files["checkpoint"] = note(entries, signer)
    return files


def note(entries: list[bytes], *signers: SignerKey) -> bytes:
    root = tree_root(map(leaf_hash, entries))
    return sign_note(Checkpoint(ORIGIN, len(entries), root).text(), list(signers))


def reason_at(path: str) -> str:
    """What a changed byte of this file may be called."""
    if path == "checkpoint":
        return NOTE
    level = parse_path(path).level
    return {ENTRIES: f"{LEAF}|{ENTRY}|differs from", BLOBS: PAYLOAD}.get(level, TREE)


def _pick(log: Log, random: Random, level: int) -> tuple[str, list[bytes]]:
    """A bundle that the checkpoint names, and its entries."""
    tile = random.choice(list(tiles_between(level, 0, len(log.entries))))
    return tile.path, split_bundle(log.files[tile.path])


def _with(log: Log, path: str, data: bytes) -> Files:
    return {**log.files, path: data}


def _bundle(log: Log, random: Random, change: Callable[[list[bytes]], list[bytes]], reason: str) -> Tampered:
    path, entries = _pick(log, random, ENTRIES)
    return Tampered(_with(log, path, b"".join(map(frame_entry, change(entries)))), TAMPERED, reason)


def flip(log: Log, random: Random) -> Tampered:
    """One bit of one file that the checkpoint vouches for."""
    path = random.choice(sorted(log.files))
    data = bytearray(log.files[path])
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return Tampered(_with(log, path, bytes(data)), TAMPERED, reason_at(path))


def drop(log: Log, random: Random) -> Tampered:
    def change(entries: list[bytes]) -> list[bytes]:
        at = random.randrange(len(entries))
        return [*entries[:at], *entries[at + 1 :]]

    return _bundle(log, random, change, r"the bundle holds \d+ entries, not")


def duplicate(log: Log, random: Random) -> Tampered | None:
    """One entry twice, another gone, so that the count is right."""

    def change(entries: list[bytes]) -> list[bytes]:
        at = random.randrange(len(entries) - 1)
        return [*entries[: at + 1], *entries[at:-1]] if at < len(entries) - 2 else [entries[0], *entries[:-1]]

    return _bundle(log, random, change, LEAF) if len(log.entries) % TILE_WIDTH != 1 else None


def insert(log: Log, random: Random) -> Tampered:
    def change(entries: list[bytes]) -> list[bytes]:
        at = random.randrange(len(entries) + 1)
        return [*entries[:at], small(random.randrange(10**6)), *entries[at:]]

    return _bundle(log, random, change, r"the bundle holds \d+ entries, not|does not match its leaf hash")


def swap(log: Log, random: Random) -> Tampered | None:
    def change(entries: list[bytes]) -> list[bytes]:
        one, two = random.sample(range(len(entries)), 2)
        entries[one], entries[two] = entries[two], entries[one]
        return entries

    return _bundle(log, random, change, LEAF) if len(log.entries) % TILE_WIDTH != 1 else None


def respell(log: Log, random: Random) -> Tampered:
    """The same JSON, written otherwise."""

    def change(entries: list[bytes]) -> list[bytes]:
        at = random.randrange(len(entries))
        entries[at] = entries[at].replace(b'":', b'": ', 1)
        return entries

    return _bundle(log, random, change, rf"not canonical|{LEAF}")


def forge_with_tiles(log: Log, random: Random) -> Tampered:
    """Another entry, with all tiles made to fit, by somebody without the key."""
    entries = list(log.entries)
    entries[random.randrange(1, len(entries))] = small(random.randrange(10**6))
    files = {**log.files, **build(entries)}
    files["checkpoint"] = log.files["checkpoint"]
    return Tampered(files, TAMPERED, r"do not give the root of the checkpoint")


def swap_blobs(log: Log, random: Random) -> Tampered | None:
    """A payload in the place of another, or one that nobody named."""
    packs = [path for path in log.files if path.startswith("blobs/")]
    if not packs:
        return None
    path = random.choice(packs)
    blobs = split_pack(log.files[path])
    blobs[random.randrange(len(blobs))] = random.randbytes(40)
    return Tampered(_with(log, path, join_pack(blobs)), TAMPERED, PAYLOAD)


def remove_payload(log: Log, random: Random) -> Tampered | None:
    packs = [path for path in log.files if path.startswith("blobs/")]
    if not packs:
        return None
    path = random.choice(packs)
    return Tampered({each: log.files[each] for each in log.files if each != path}, INCOMPLETE, "a payload is missing")


def remove_file(log: Log, random: Random) -> Tampered:
    needed = [tile.path for level in (ENTRIES, 0) for tile in tiles_between(level, 0, len(log.entries))]
    path = random.choice([*needed, "checkpoint"])
    return Tampered({each: log.files[each] for each in log.files if each != path}, INCOMPLETE, r"is missing")


def cut_bundle(log: Log, random: Random) -> Tampered:
    path, _ = _pick(log, random, ENTRIES)
    data = log.files[path]
    return Tampered(_with(log, path, data[: random.randrange(len(data))]), TAMPERED, f"{ENTRY}|{LEAF}")


def truncate(log: Log, random: Random) -> Tampered | None:
    """An earlier checkpoint put back: its tree is whole, only what was seen since gives it away."""
    if len(log.notes) < 2:
        return None
    old = random.choice(log.notes[:-1])
    return Tampered(_with(log, "checkpoint", old), TAMPERED, "rolled back", {"remembered": log.notes[-1]})


def truncate_and_continue(log: Log, random: Random) -> Tampered:
    """Cut off and written on with the real key: a fork of what an auditor remembers."""
    keep = random.randrange(1, len(log.entries))
    more = random.randrange(0, 2 * (len(log.entries) - keep))
    entries = [*plain(log)[:keep], *(small(500_000 + each) for each in range(more))]
    return Tampered(build(entries), TAMPERED, FORK, {"remembered": note(plain(log), KEY)})


def rewrite_history(log: Log, random: Random) -> Tampered:
    """One entry changed, everything made and signed again with the real key, as long as it was."""
    entries = plain(log)
    entries[random.randrange(1, len(entries))] = small(random.randrange(10**6))
    return Tampered(build(entries), TAMPERED, FORK, {"remembered": note(plain(log), KEY)})


def plain(log: Log) -> list[bytes]:
    """The entries with those that name payloads replaced: what can be built again without them."""
    return [each if b'"payload"' not in each else small(at) for at, each in enumerate(log.entries)]


def sign_with_another_key(log: Log, random: Random) -> Tampered:
    text = log.files["checkpoint"].decode().partition("\n\n")[0] + "\n"
    return Tampered(_with(log, "checkpoint", sign_note(text, [OTHER])), TAMPERED, "the first entry names the key")


def strip_signatures(log: Log, random: Random) -> Tampered:
    text = log.files["checkpoint"].decode().partition("\n\n")[0]
    return Tampered(_with(log, "checkpoint", (text + random.choice(("\n", "\n\n", "\n\n\n"))).encode()), TAMPERED, NOTE)


def respell_note(log: Log, random: Random) -> Tampered:
    """The text of a checkpoint in another spelling, signed by the real key."""
    origin, size, root = log.files["checkpoint"].decode().split("\n")[:3]
    spellings = (
        f"{origin}\n0{size}\n{root}\n",
        f"{origin}\n+{size}\n{root}\n",
        f"{origin}\n{size} \n{root}\n",
        f"{origin}\n{size}\n{root.rstrip('=')}\n",
        f"{origin}\n{size}\n{root}\nextension\n",
        f"{origin}\n{size}\n{root}\n\n",
        f"{origin} \n{size}\n{root}\n",
    )
    return Tampered(_with(log, "checkpoint", sign_note(random.choice(spellings), [KEY])), TAMPERED, NOTE)


def respell_signature(log: Log, random: Random) -> Tampered:
    """The signature line in another spelling of the same bytes."""
    text, _, line = log.files["checkpoint"].decode().rstrip("\n").partition("\n\n")
    dash, name, encoded = line.split(" ")
    spelled = (
        f"{dash} {name}  {encoded}\n",
        f"{dash} {name} {encoded.rstrip('=')}\n",
        f"- {name} {encoded}\n",
        f"{dash} {name} {encoded}\r\n",
        f"{dash} {name} {encoded}",
        f"{dash} {name} {b64encode(b64decode(encoded) + bytes(1)).decode()}\n",
    )
    return Tampered(_with(log, "checkpoint", f"{text}\n\n{random.choice(spelled)}".encode()), TAMPERED, NOTE)


def stale_head(log: Log, random: Random) -> Tampered:
    """Nothing is published any more: a log that was stopped, or kept from whoever looks."""
    options = {"now_ns": 1_900_000_000_000_000_000, "stale_after_s": 15.0}
    return Tampered(dict(log.files), STALE, "older than 15 s", options)


def other_width(log: Log, random: Random) -> Tampered | None:
    """A narrower tile of an earlier checkpoint, changed: it must be a prefix of what replaced it."""
    size = len(log.entries)
    names = {tile.path for tile in hash_tiles_between(0, size)}
    narrow = [path for path in log.files if path.startswith("tile/0/") and ".p/" in path and path not in names]
    if not narrow:
        return None
    path = random.choice(narrow)
    data = bytearray(log.files[path])
    data[random.randrange(len(data))] ^= 1
    return Tampered(_with(log, path, bytes(data)), TAMPERED, "differs from")


WAYS: tuple[Tamper, ...] = (
    flip,
    drop,
    duplicate,
    insert,
    swap,
    respell,
    forge_with_tiles,
    swap_blobs,
    remove_payload,
    remove_file,
    cut_bundle,
    truncate,
    truncate_and_continue,
    rewrite_history,
    sign_with_another_key,
    strip_signatures,
    respell_note,
    respell_signature,
    stale_head,
    other_width,
)

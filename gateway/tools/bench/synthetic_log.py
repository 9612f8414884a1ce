"""An audit log of any size, written as fast as this machine can, for timing what reads it.

Rules: every byte comes from the functions that the recorder uses (entries, tree, tiles, notes), so a verifier has
exactly the work it would have; only the waiting for the disk is left out. Entries are those of ordinary served
requests, about one KiB, each with its own id, time, scores and timings; heartbeats come as often as at 4,000
requests/s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ops.audit.log.checkpoint import Checkpoint, SignerKey, sign_note
from ops.audit.log.entry import VERSION, canonical
from ops.audit.log.merkle import fold, leaf_hashes, tree_root
from ops.audit.log.tiles import ENTRIES, TILE_WIDTH, Tile, frame_entry, hash_tiles_between, tiles_between
from ops.audit.store.own_entries import OwnEntries

BUILD = "stockade 0.1.0"
RECORD_NS = 250_000
HEARTBEAT_MS = 5_000
HEARTBEAT_RECORDS = HEARTBEAT_MS * 1_000_000 // RECORD_NS

_ID, _TIME, _P, _SCORE, _INFER = "<id>", "<time>", 999_001, 999_002, 999_003
"""Marks in the template entry, in the order of the keys they stand for: id, p, score, time, infer time."""


def _template() -> tuple[bytes, ...]:
    """A served request's entry, cut where each record differs."""
    digest = "5a" * 32
    entry = canonical(
        {
            "auth": {"credential": "kiosk-7-a", "method": "api_key", "principal": "7f" * 16, "tenant": "store-7"},
            "batch": {"id": 41_000, "padded": 24, "position": 7, "rows": 24, "size": 24},
            "build": BUILD,
            "config": digest,
            "decision": "harden",
            "gateway": "gateway.example.org/0",
            "id": _ID,
            "kind": "served",
            "limits": [
                {"decision": "admit", "rule": "principal:requests", "tokens": 3999},
                {"decision": "admit", "rule": "tenant:requests", "tokens": 3999},
            ],
            "method": "/inference.GRPCInferenceService/ModelInfer",
            "model": {"digest": digest, "engine": "inprocess", "name": "kiosk", "version": "1"},
            "peer": "ipv4:192.0.2.17:40112",
            "policy": digest,
            "reason": "OK",
            "rows": 1,
            "screens": [
                {
                    "digest": digest,
                    "mode": "enforce",
                    "name": "evidence",
                    "p_micro": _P,
                    "score_micro": _SCORE,
                    "technique": "AML.T0015",
                    "threshold_micro": 5_000_000,
                    "verdict": "pass",
                }
            ],
            "status": 0,
            "time_ns": _TIME,
            "timings_us": {"admit": 21, "auth": 14, "decode": 38, "infer": _INFER, "queue": 800, "total": 3100},
            "v": VERSION,
        }
    )
    parts = []
    for mark in (_ID, _P, _SCORE, _TIME, _INFER):
        before, _, entry = entry.partition(str(mark).encode())
        parts.append(before)
    return (*parts, entry)


def entries(count: int, origin: str, vkey: str, start_ns: int) -> Iterator[bytes]:
    """`count` entries of a log: genesis, then served requests with heartbeats between them."""
    clock_ns = start_ns
    number = 0
    own = OwnEntries(BUILD, lambda: clock_ns, lambda: number.to_bytes(16, "big"), HEARTBEAT_MS)
    head, after_id, after_p, after_score, after_time, tail = _template()
    yield own.genesis(origin, vkey)
    for number in range(1, count):
        clock_ns = start_ns + number * RECORD_NS
        if number % HEARTBEAT_RECORDS == 0:
            yield own.heartbeat(number // HEARTBEAT_RECORDS, number)
            continue
        spread = number * 2_654_435_761 & 0xFFFF_FFFF  # Knuth's multiplicative hash: no two neighbours alike
        yield b"%b%032x%b%d%b%d%b%d%b%d%b" % (
            *(head, number, after_id, spread % 1_000_000, after_p, spread % 4_000_000),
            *(after_score, clock_ns, after_time, 300 + spread % 1000, tail),
        )


def write_log(
    directory: Path, count: int, signer: SignerKey, start_ns: int, progress: Callable[[int], None]
) -> Checkpoint:
    """Write a whole log and return its head. `progress` is called with the number of entries written."""
    leaves: list[bytes] = []
    stream = entries(count, signer.name, str(signer.verifier), start_ns)
    for tile in tiles_between(ENTRIES, 0, count):
        bundle = [next(stream) for _ in range(tile.width)]
        leaves += leaf_hashes(bundle)
        _write(directory, tile, b"".join(map(frame_entry, bundle)))
        progress(len(leaves))
    levels = [leaves]
    while len(levels[-1]) >= TILE_WIDTH:
        below = levels[-1]
        full = range(0, len(below) - TILE_WIDTH + 1, TILE_WIDTH)
        levels.append([fold(below[first : first + TILE_WIDTH]) for first in full])
    for tile in hash_tiles_between(0, count):
        first = tile.index * TILE_WIDTH
        _write(directory, tile, b"".join(levels[tile.level][first : first + tile.width]))
    head = Checkpoint(signer.name, count, tree_root(leaves))
    (directory / "checkpoint").write_bytes(sign_note(head.text(), [signer]))
    return head


def _write(directory: Path, tile: Tile, data: bytes) -> None:
    path = directory / tile.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

"""What a log takes on disk, by what it is made of."""

from __future__ import annotations

from pathlib import Path


def log_bytes(directory: Path) -> dict[str, int]:
    """Bytes of entries, hash tiles and payloads of a public log, whole tiles only; how many files and entry bundles.

    Narrower copies of a tile (`.p/`) go when the tile is full, so they are no part of what a request costs.
    """
    found = {"entries_bytes": 0, "tiles_bytes": 0, "payloads_bytes": 0, "files": 0, "bundles": 0}
    for path in directory.rglob("*"):
        parts = path.relative_to(directory).parts
        if any(part.endswith(".p") for part in parts) or not path.is_file():
            continue
        if parts[0] == "blobs":
            kind = "payloads_bytes"
        elif parts[0] == "tile":
            kind = "entries_bytes" if parts[1] == "entries" else "tiles_bytes"
        else:
            continue
        found[kind] += path.stat().st_size
        found["files"] += 1
        found["bundles"] += kind == "entries_bytes"
    return found

"""What somebody with access to the disk might do to the log: turn a refusal into something else, with one byte."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

STATUS = re.compile(rb'"status":(\d+)')


def flip_one_byte(log: Path) -> str:
    """Change one bit of a recorded status, so that the record still reads like one. Returns what was done.

    Only the Merkle tree can tell: the entry stays well-formed. Raises ValueError for a log without requests.
    """
    for bundle in sorted(path for path in (log / "tile" / "entries").rglob("*") if path.is_file()):
        data = bytearray(bundle.read_bytes())
        found = STATUS.search(data)
        if found:
            at = found.end() - 1
            was = chr(data[at])
            data[at] ^= 1
            bundle.write_bytes(data)
            return f"byte {at} of {bundle.relative_to(log)}, a status {was} into {chr(data[at])}"
    raise ValueError("the log holds no request")

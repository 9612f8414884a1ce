"""Where the bundles of a directory are."""

from __future__ import annotations

import os
from pathlib import Path

from serving.errors import BundleRejected, Rejection

BUNDLES_MAX = 1024


def find_bundles(root: Path) -> tuple[Path, ...]:
    """Return the directories `root/<name>/<version>`, sorted; nothing is read. Links are not followed.

    Raises:
        BundleRejected: the root cannot be listed, or holds more than 1,024.
    """
    found: list[Path] = []
    try:
        for name in sorted(_directories(root)):
            found.extend(sorted(_directories(name)))
    except OSError as error:
        raise BundleRejected(Rejection.UNREADABLE, root.name) from error
    if len(found) > BUNDLES_MAX:
        raise BundleRejected(Rejection.COUNT, root.name, f"more than {BUNDLES_MAX} bundles")
    return tuple(found)


def _directories(parent: Path) -> list[Path]:
    with os.scandir(parent) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]

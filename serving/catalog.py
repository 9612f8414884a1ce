"""Which models there are: names, versions, and which one a request means. Immutable; a reload builds a new one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from serving.bundle import Bundle
from serving.errors import BundleDuplicate, BundleRejected, ModelUnknown, Rejection

__all__ = ["Catalog", "find_bundles"]

BUNDLES_MAX = 1024


class Catalog:
    """Bundles by name and version. An empty version means the highest; the gateway's policy may pin another."""

    def __init__(self, bundles: Iterable[Bundle]) -> None:
        """Raise BundleDuplicate when two bundles share a name and a version."""
        self._bundles: dict[tuple[str, str], Bundle] = {}
        versions: dict[str, list[str]] = {}
        for bundle in bundles:
            key = (bundle.name, bundle.version)
            if key in self._bundles:
                raise BundleDuplicate(*key)
            self._bundles[key] = bundle
            versions.setdefault(bundle.name, []).append(bundle.version)
        self._versions = {name: tuple(sorted(versions[name], key=int)) for name in sorted(versions)}

    def resolve(self, name: str, version: str = "") -> Bundle:
        """Return the bundle, or raise ModelUnknown."""
        wanted = version or self._versions.get(name, ("",))[-1]
        try:
            return self._bundles[name, wanted]
        except KeyError:
            raise ModelUnknown(name, version) from None

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(self._versions)

    def versions(self, name: str) -> tuple[str, ...]:
        """The versions of a model, lowest first, or ModelUnknown."""
        try:
            return self._versions[name]
        except KeyError:
            raise ModelUnknown(name, "") from None

    def __iter__(self) -> Iterator[Bundle]:
        return iter(self._bundles.values())

    def __len__(self) -> int:
        return len(self._bundles)


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

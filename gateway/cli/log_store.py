"""Logs in object stores, as the command line names them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ops.audit.object_store import Place, open_store, read_credentials
from ops.audit.sources import DirectorySource, StoreSource

if TYPE_CHECKING:
    import argparse

    from ops.audit.object_store import Inspected
    from ops.audit.sources import Source

__all__ = ["opened", "source_at"]


def opened(url: str, options: argparse.Namespace) -> Inspected:
    """Open a store with the credentials of the command line. Raises StoreError, OSError."""
    credentials = {} if options.credentials is None else read_credentials(options.credentials)
    return open_store(Place(url, options.endpoint, options.region, credentials))


def source_at(place: Path | str, options: argparse.Namespace) -> Source:
    """Return what lies at a path or a URL, to be restored from. Raises StoreError, OSError."""
    return DirectorySource(place) if isinstance(place, Path) else StoreSource(opened(place, options), place)

"""Logs in object stores, as the command line names them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops.audit.copies.object_store import Place, open_store, read_credentials
from ops.audit.copies.sources import DirectorySource, StoreSource
from ops.audit.log.epochs import EPOCHS, place_of

if TYPE_CHECKING:
    from ops.audit.copies.object_store import Inspected
    from ops.audit.copies.sources import Source


def opened(url: str, options: Any) -> Inspected:
    """Open a store with the credentials of the command line. Raises StoreError, OSError."""
    credentials = {} if options.credentials is None else read_credentials(options.credentials)
    return open_store(Place(url, options.endpoint, options.region, credentials))


def source_at(place: Path | str, options: Any, epoch: int = 1) -> Source:
    """Return an epoch of the log at a path or a URL, to be restored from. Raises StoreError, OSError."""
    if isinstance(place, Path):
        return DirectorySource(place_of(place, epoch))
    url = place if epoch == 1 else f"{place.rstrip('/')}/{EPOCHS}/{epoch:04d}"
    return StoreSource(opened(url, options), url)

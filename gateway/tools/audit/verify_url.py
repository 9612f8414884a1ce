"""`stockade audit verify` of a log in an object store: fetched into a directory that is removed again, and verified."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console

from gateway.tools.audit.log_store import opened
from gateway.tools.audit.verify import bar, fail
from gateway.tools.audit.verify import run as verify
from ops.audit.copies.sources import fetch_epochs
from ops.audit.errors import ReadError, StoreError
from ops.audit.verify.report import INCOMPLETE

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Verify a directory, a receipt, or what is at a URL; returns the exit code of the specification."""
    url = options.directory
    if isinstance(url, Path):
        return verify(options)
    try:
        store = opened(url, options)
        with TemporaryDirectory(prefix="stockade-verify-") as fetched:
            with bar(Console(stderr=options.json), "fetching") as advance:
                fetch_epochs(store, Path(fetched), advance)
            options.directory = Path(fetched)
            return verify(options)
    except ReadError as problem:
        return fail(f"{url}: {problem}", INCOMPLETE)
    except (StoreError, OSError) as problem:
        return fail(f"{url}: {problem}")

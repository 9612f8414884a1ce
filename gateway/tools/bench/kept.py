"""Figures that a stopped run of a bench has measured already, a JSON file each: the next run goes on behind them.

A file counts only for what it was measured of: a program of the same version, the same settings and data. What is there
of anything else, or is no such file, is measured again and written over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Kept:
    """Where figures are kept, and what they are of; without a directory nothing is, and everything is measured."""

    directory: Path | None
    about: Mapping[str, str | int | bool]

    def __call__(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return what is kept under a name, or else measure it and keep it. What is measured must be plain JSON."""
        if self.directory is None:
            return measure()
        file = self.directory / f"{name}.json"
        try:
            there = json.loads(file.read_bytes())
            if there["about"] == self.about:
                return there["found"]
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            pass
        found = measure()
        self.directory.mkdir(parents=True, exist_ok=True)
        staged = file.with_suffix(".part")
        staged.write_text(json.dumps({"about": dict(self.about), "found": found}) + "\n")
        staged.replace(file)  # from here on a stopped run goes on behind this
        return found

"""What `stockade check` says of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or deserves a look. `where` is a key of the configuration, or a file."""

    level: Level
    where: str
    problem: str

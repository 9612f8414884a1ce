"""What a gateway wants backed up. The gateway makes a `Plan` of its configuration; nothing here reads one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ops.audit.log.checkpoint import VerifierKey
from ops.backup.errors import SourceRefused


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to be kept under `name`.

    `file` has to be there. `state` is a file that comes and goes. `tree` is every file below a directory; a missing one
    is empty. `keys` is the key database, a copy of which lives for seven days.
    """

    name: str
    path: Path
    kind: Literal["file", "state", "tree", "keys"] = "file"

    def files(self) -> Iterator[tuple[str, Path]]:
        """Each file with its path in the backup. Raises SourceRefused: what has to be there is not."""
        if self.kind == "tree":
            for path in sorted(self.path.rglob("*")) if self.path.is_dir() else ():
                if path.is_file():
                    yield f"{self.name}/{path.relative_to(self.path).as_posix()}", path
        elif self.path.is_file():
            yield self.name, self.path
        elif self.kind == "file":
            raise SourceRefused(f"{self.path} is not there, and no gateway starts without it")


@dataclass(frozen=True, slots=True)
class LogSource:
    """A published log, or one of its epochs: where it is, whose it is, and what its parts are called in the backup
    (`BackedLog`). `dropped`: its entries are not here any more.
    """

    path: Path
    vkey: VerifierKey
    directory: str
    state_directory: str
    memory: str
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Sources in the order in which they are read; the log comes last, so that nothing is ahead of it."""

    sources: tuple[Source, ...]
    log: LogSource | None = None
    with_keys: bool = False

"""Everything a backup raises: `BackupError` and below it."""

from collections.abc import Sequence


class BackupError(Exception):
    """The root. The message is for the person at the terminal."""


class RepositoryRefused(BackupError):
    """A directory that is no repository, or a backup that is not in it."""


class RepositoryBusy(BackupError):
    """Somebody else writes into the repository."""


class BackupKeyRefused(BackupError):
    """Not a key, or not the key of this repository."""


class SourceRefused(BackupError):
    """Something of the gateway cannot be backed up as it is. The backups before are as they were."""


class LogMoved(BackupError):
    """A tile at the right edge of the log was replaced while it was read: begin again. It never leaves `create`."""


class BackupDamaged(BackupError):
    """What was stored does not open, or is not what was stored. `problems` has one line each, at least one."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems[0])
        self.problems = tuple(problems)


class RestoreRefused(BackupError):
    """The target holds something already, or a name in the backup leads out of it. Nothing was put in its place."""

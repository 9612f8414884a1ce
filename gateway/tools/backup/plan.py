"""What belongs to a backup of a gateway: everything that its configuration names, and what it has learned.

Left out: private keys (unless they are asked for), what can be made anew (`state_dir` but for the policies that were in
force, segments and lock of the recorder, whose entries are in the published log a second later), and whatever the
configuration does not name, such as `clients/`.

Files below the configuration's directory keep their place in it; others go below `outside/`, by their whole path.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from gateway.config.place import place_of
from gateway.policy.load import parse_policy
from ops.audit.errors import VerifierKeyError
from ops.audit.log.checkpoint import parse_vkey
from ops.backup.create import LogSource, Plan, Source
from ops.backup.errors import SourceRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.config.config import Config

OUTSIDE = "outside"
NOT_STATE = ("appender.flock", "lock.sqlite", "sealed", "spare", "reserve")  # of the recorder: made anew
PASSING = (".new", ".key", "-wal", "-shm", "-journal")


def plan_of(file: Path, config: Config, *, with_keys: bool) -> Plan:
    """Make the plan of the gateway with this configuration file, an absolute path.

    Raises:
        SourceRefused: a name that cannot be kept apart, or a log's key that is none.
        PolicyRejected, OSError: a file that says what belongs to it cannot be read.
    """
    names = _Names(file.parent)
    audit, place = config.audit, place_of(config)
    secrets = {path for _, path in config.secret_files()}
    handled = {audit.directory, audit.state_directory, audit.key_database, config.state_dir, config.bundles.directory}
    named = [path for path in _paths(config) if path not in handled and path != config.bundles.approvals]
    kept = [path for path in named if with_keys or path not in secrets]
    policy = config.policy.file
    kept += [policy.with_name(policy.name + ".sig"), *_issuers(policy)]
    memory = audit.signing_key.with_suffix(".signed")
    sources = [Source(names.of(path), path) for path in dict.fromkeys([file, *kept])]
    sources += [
        Source(names.of(config.bundles.directory), config.bundles.directory, "tree"),
        Source(names.of(config.bundles.evidence), config.bundles.evidence, "tree"),
        Source(names.of(place.policies), place.policies, "tree"),
        Source(names.of(place.cosigned), place.cosigned, "state"),
        Source(names.of(memory), memory, "state"),
        Source(names.of(audit.key_database), audit.key_database, "keys"),
    ]
    taken = {each.path for each in sources} | secrets
    sources += [Source(names.of(path), path, "state") for path in _learned(place.memory.parent) if path not in taken]
    try:
        vkey = parse_vkey(audit.vkey.read_text().strip())
    except (VerifierKeyError, UnicodeDecodeError) as error:
        raise SourceRefused(f"{audit.vkey} is not the public key of a log: {error}") from error
    log = LogSource(audit.directory, vkey, names.of(audit.directory), names.of(audit.state_directory), names.of(memory))
    return Plan(tuple(_keys_last(sources)), log, with_keys)


class _Names:
    """Where files go in a backup."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def of(self, path: Path) -> str:
        path = path.absolute()
        if not path.is_relative_to(self._home):
            return f"{OUTSIDE}{path.as_posix()}"
        name = path.relative_to(self._home).as_posix()
        if name.partition("/")[0] == OUTSIDE:
            raise SourceRefused(f"{path}: what lies in a directory {OUTSIDE} would be taken for a file from elsewhere")
        return name


def _paths(value: object) -> Iterator[Path]:
    """Every path that a configuration holds."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _paths(getattr(value, name))
    elif isinstance(value, dict):
        for each in value.values():
            yield from _paths(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _paths(each)


def _issuers(policy: Path) -> Iterator[Path]:
    """Files that the policy names: keys of issuers."""
    for issuer in parse_policy(policy.read_bytes(), policy).issuers.values():
        if issuer.jwks_url is None:
            yield policy.parent / issuer.url_or_file


def _learned(directory: Path) -> list[Path]:
    """What lies in the directory of the gateway's memory and is no part of the recorder."""
    there = directory.iterdir() if directory.is_dir() else ()
    files = (path for path in there if path.is_file() and not path.is_symlink())
    return sorted(path for path in files if not path.name.startswith(NOT_STATE) and not path.name.endswith(PASSING))


def _keys_last(sources: Iterable[Source]) -> list[Source]:
    """The key database after the stores, so that no store names a key that is not there."""
    return sorted(sources, key=lambda each: each.kind == "keys")

"""Reads stockade.yaml: its bytes to a checked `Config`, or every problem that was found."""

import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gateway.config.config import Config
from gateway.config.document import ConfigRejected, Document, Fault, fill, read_bounded
from gateway.config.parse import parse
from gateway.config.profiles import laid_under
from gateway.config.rules import RULES

CONFIG_BYTES_MAX = 256 * 1024
SECRET_MODE_FORBIDDEN = 0o037  # others: nothing; the group: reading at most


def parse_config(data: bytes, file: Path, profile: str | None = None) -> Config:
    """The bytes of stockade.yaml to a checked Config. Raises ConfigRejected with every problem found."""
    return _filled(parse(data, file, ConfigRejected), profile)


def load_config(path: Path, profile: str | None = None) -> Config:
    """Reads, checks and returns stockade.yaml. Raises ConfigRejected, also when others can read a secret it names.

    `profile` counts before the one that the file names.
    """
    data = read_bounded(path, CONFIG_BYTES_MAX, ConfigRejected)
    document = parse(data, path, ConfigRejected)
    config = _filled(document, profile)
    if faults := list(_exposed_secrets(config)):
        raise ConfigRejected(document.messages(faults))
    return config


def _filled(document: Document, profile: str | None) -> Config:
    if isinstance(document.value, dict) and "principals" in document.value:
        near = document.file.with_name("stockade.yaml")
        advice = f"name the configuration that it belongs to instead, such as {near}"
        raise ConfigRejected([document.message(Fault((), f"is a policy; {advice}"))])
    document = replace(document, value=laid_under(document.value, profile))
    return fill(Config, document, RULES, ConfigRejected)


def _exposed_secrets(config: Config) -> Iterator[Fault]:
    for at, path in config.secret_files():
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            continue  # a recorder's key is out of a worker's sight; `stockade check` reports what is missing
        if mode & SECRET_MODE_FORBIDDEN:
            yield Fault(at, f"{path.name} has mode {mode:04o}, so others can use the secret; run `chmod 600 {path}`")

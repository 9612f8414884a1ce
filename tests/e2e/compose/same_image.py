"""Whether two images hold the same: `same_image.py IMAGE IMAGE`, on the engine that DOCKER_HOST names.

Two builds of one tree from one base must agree in every file: its path, kind, mode, owner, size and bytes, or where a
link leads. Times count for what is ours, /opt/stockade; elsewhere they are told and forgiven. Layers differ by times
alone too: what a layer deletes has the time of the build. Exit code 1, and what differs, when they do not agree.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from typing import IO

OURS = "opt/stockade"
OF_THE_CONTAINER = {
    ".dockerenv",
    "dev/console",
    "dev",
    "etc",
    "etc/hostname",
    "etc/hosts",
    "etc/mtab",
    "etc/resolv.conf",
}
"""What the engine puts into every container; its time is the container's."""
SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of an image, but for its time."""

    kind: bytes
    mode: int
    owner: tuple[int, int]
    content: str
    """SHA-256 of its bytes, or where it leads."""


def entries_of(stream: IO[bytes]) -> tuple[dict[str, Entry], dict[str, float]]:
    """Return files and their times (seconds), by path, of a tar stream."""
    files: dict[str, Entry] = {}
    times: dict[str, float] = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            content = member.linkname
            if member.isreg() and (reader := archive.extractfile(member)) is not None:
                content = hashlib.file_digest(reader, "sha256").hexdigest()  # type: ignore[arg-type]  # the stub of `tarfile` promises less than there is
            files[member.name] = Entry(member.type, member.mode, (member.uid, member.gid), content)
            times[member.name] = member.mtime
    return files, times


def read_image(image: str) -> tuple[dict[str, Entry], dict[str, float]]:
    """Return what is in an image's root, all layers applied."""
    container = docker("create", image)
    try:
        with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export:
            assert export.stdout is not None
            return entries_of(export.stdout)
    finally:
        docker("rm", container)


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def layers_of(image: str) -> list[str]:
    return list(json.loads(docker("image", "inspect", image))[0]["RootFS"]["Layers"])


def differences(
    one: tuple[dict[str, Entry], dict[str, float]], other: tuple[dict[str, Entry], dict[str, float]]
) -> tuple[list[str], list[str]]:
    """Return the paths that differ in what counts, and those that differ in their time alone."""
    (files, times), (files_other, times_other) = one, other
    differ = [path for path in files.keys() | files_other.keys() if files.get(path) != files_other.get(path)]
    later = {path for path in files.keys() & files_other.keys() if times[path] != times_other[path]} - OF_THE_CONTAINER
    counts = {path for path in later if path == OURS or path.startswith(f"{OURS}/")}
    return sorted({*differ, *counts}), sorted(later - counts - set(differ))


def main(image: str, other: str) -> int:
    """Compare, and say what was found."""
    one, two = read_image(image), read_image(other)
    differ, later = differences(one, two)
    same = sum(a == b for a, b in zip(layers_of(image), layers_of(other), strict=True))
    total = len(layers_of(image))
    sys.stderr.write(
        f"{image}, built twice: {len(one[0])} files, {len(differ)} differ; {same} of {total} layers are one\n"
    )
    for path in differ[:SHOWN_MAX]:
        sys.stderr.write(f"  differs: {path}: {one[0].get(path)} {two[0].get(path)}\n")
    if later:
        shown = ", ".join(later[:SHOWN_MAX])
        sys.stderr.write(f"  {len(later)} differ in their time alone: {shown}\n")
    return 1 if differ or not one[0].keys() & {OURS} else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

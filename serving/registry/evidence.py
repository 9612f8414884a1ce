"""The evidence of one version, as it lies beside the bundles: `evaluation.json`, and `APPROVER.json` for each approver.

A bundle's directory stays exactly what was signed, so evidence has a directory of its own, `approvals/NAME/VERSION/`.
Rules: the directory and the files in it are opened without following links, are regular files, bounded, and read once.
What is not a file of ours is told, never skipped: it is for whoever decides (`serving.registry.proof`).
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.registry.approval import APPROVAL_BYTES_MAX, parse_approval
from serving.registry.errors import EvidenceRejected
from serving.registry.evaluation import EVALUATION_BYTES_MAX, digest_of, parse_evaluation

if TYPE_CHECKING:
    from pathlib import Path

    from serving.registry.approval import Approval
    from serving.registry.evaluation import Evaluation

EVALUATION_FILE = "evaluation.json"
FILES_MAX = 64
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\.json")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What lies there. `digest` is the evaluation's, "" where there is none; `problems` are of files, with their names.

    `approvals` are by the name of their file without its ending; nobody has checked whose they are.
    """

    digest: str = ""
    evaluation: Evaluation | None = None
    approvals: tuple[tuple[str, Approval], ...] = ()
    problems: tuple[str, ...] = ()


def directory_of(approvals: Path, model: str, version: str) -> Path:
    """Return where the evidence of a version lies."""
    return approvals / model / version


def read_evidence(directory: Path) -> Evidence:
    """Return the evidence that lies in a directory; none where there is no directory.

    Raises:
        EvidenceRejected: the directory cannot be read.
    """
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return Evidence()
    except OSError as problem:
        raise EvidenceRejected(f"{directory}: cannot be read ({problem.strerror})") from None
    try:
        names = sorted(name for name in os.listdir(handle) if name.endswith(".json"))  # noqa: PTH208 - by its handle
        if len(names) > FILES_MAX:
            raise EvidenceRejected(f"{directory}: holds more than {FILES_MAX} files")
        return _evidence(handle, names)
    except OSError as problem:
        raise EvidenceRejected(f"{directory}: cannot be read ({problem.strerror})") from None
    finally:
        os.close(handle)


def _evidence(handle: int, names: list[str]) -> Evidence:
    digest, evaluation = "", None
    approvals: list[tuple[str, Approval]] = []
    problems: list[str] = []
    for name in names:
        if not FILE_NAME.fullmatch(name):
            problems.append(f"{name!a}: is not the name of an approver")
            continue
        try:
            if name == EVALUATION_FILE:
                data = _read(handle, name, EVALUATION_BYTES_MAX)
                digest = digest_of(data)
                evaluation = parse_evaluation(data)
            else:
                approvals.append((name.removesuffix(".json"), parse_approval(_read(handle, name, APPROVAL_BYTES_MAX))))
        except EvidenceRejected as problem:
            problems.append(f"{name}: {problem}")
    return Evidence(digest, evaluation, tuple(approvals), tuple(problems))


def _read(directory: int, name: str, bytes_max: int) -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer.
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise EvidenceRejected("is not a regular file")
            return file.read(bytes_max + 1)
    except OSError as problem:
        raise EvidenceRejected(f"cannot be read ({problem.strerror})") from None


def write_file(file: Path, data: bytes) -> None:
    """Put a file of evidence in its place, whole or not at all. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.new")
    beside.write_bytes(data)
    beside.replace(file)

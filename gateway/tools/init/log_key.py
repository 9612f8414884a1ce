"""`stockade keys log`: the key of a new log.

A log has one name and one key for its whole life. A host that joins gets both, and so does whoever begins a new log.
"""

from __future__ import annotations

import os
from pathlib import Path

from gateway.config.values import valid_origin
from ops.audit.log.checkpoint import SignerKey

SEED_BYTES = 32


def make_log_key(origin: str, seed: bytes, out: Path) -> str:
    """Write the private key to `out`, mode 0600, and its public half beside it as .vkey. Returns that half.

    Raises:
        ValueError: `origin` is not one.
        OSError: the disk said no, or one of the files is there already; nothing was overwritten.
    """
    signer = SignerKey(valid_origin(origin), seed)
    write_pair(out, signer.secret(), str(signer.verifier))
    return str(signer.verifier)


def write_pair(out: Path, secret: str, vkey: str) -> None:
    """Write a private key to `out`, mode 0600, and its public half beside it as .vkey.

    Raises:
        OSError: the disk said no, or one of the files is there already; nothing was overwritten.
    """
    public = out.with_suffix(".vkey")
    _write(public, vkey, 0o644)
    try:
        _write(out, secret, 0o600)
    except OSError:
        public.unlink()  # half a pair is no use
        raise


def _write(path: Path, line: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{line}\n")

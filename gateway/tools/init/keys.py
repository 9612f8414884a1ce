"""`stockade keys add`: a new API key, in a file of its own, and what to put into the policy for it.

The key is written once and kept nowhere else. Its id must be new: two keys of one id would be one principal's or the
other's, and the gateway refuses a policy that has both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.config.document import PolicyRejected, read_bounded
from gateway.config.load import load_config
from gateway.policy.load import POLICY_BYTES_MAX, parse_policy
from gateway.tools.init.files import issue_api_key

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from gateway.tools.init.pki import RandomBytes


@dataclass(frozen=True, slots=True)
class Added:
    """A new key: where it is, and its entry for the policy. `unchecked` says why its id was not looked for there."""

    id: str
    file: Path
    expires: datetime
    entry: str
    unchecked: str = ""

    def as_json(self) -> dict[str, Any]:
        """For machines. Holds no secret."""
        return {"id": self.id, "file": str(self.file), "expires": f"{self.expires:%Y-%m-%d}", "entry": self.entry}


def add_key(config_file: Path, key_id: str, out: Path, expires: datetime, random_bytes: RandomBytes) -> Added:
    """Make a key and write it to `out`, with mode 0600.

    Raises:
        FileRejected: the configuration cannot be used.
        ValueError: `key_id` cannot be one, or is taken.
        OSError: a file cannot be used, or `out` is there already.
    """
    source = load_config(config_file).policy
    key, entry = issue_api_key(source.pepper.read_bytes(), key_id, expires, random_bytes)
    unchecked = ""
    try:
        policy = parse_policy(read_bounded(source.file, POLICY_BYTES_MAX, PolicyRejected), source.file)
    except PolicyRejected as problem:  # it may be half-edited: that is when keys are added
        unchecked = str(problem)
    else:
        for principal, known in policy.api_keys():
            if known.id == key_id:
                raise ValueError(f"{key_id} is the id of a key of {principal} already; give this one an id of its own")
    handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(key + "\n")
    return Added(key_id, out, expires, entry, unchecked)

"""The policy in a directory of `stockade init`, changed and signed again: for benches and the lab, which may do so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from gateway.policy.signature import sign_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

UNMET_LIMITS: Mapping[str, Any] = {
    "requests": "1000000/s",
    "request_burst": 10_000_000,
    "cost": "1000000/s",
    "cost_burst": 10_000_000,
    "in_flight": 100_000,
}
"""What no load meets, and is counted all the same."""


def rewrite_policy(home: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Have `change` work on the policy in place, and sign what comes of it."""
    path = home / "policy.yaml"
    policy: dict[str, Any] = yaml.safe_load(path.read_text())
    change(policy)
    path.write_text(yaml.safe_dump(policy, sort_keys=False))
    sign_policy(path, home / "keys" / "policy.key")

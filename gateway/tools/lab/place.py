"""A gateway's directory for the lab: what `stockade init` gives, with many accounts and the policy under test.

The accounts stand in tenants of `per_tenant` each; every account has an API key. Their limits cannot be met by an
attack's load, so that what is refused is refused by screens. The operator's part of the policy is left as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import yaml

from gateway.tools.init.files import issue_api_key
from gateway.tools.init.init import API_KEY_DAYS, Ports, init_directory
from gateway.tools.rewrite import UNMET_LIMITS, rewrite_policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

BARE: Mapping[str, Any] = {"screens": {}, "watch": None, "budget": None, "harden": None, "output": None}
"""Laid over a model's policy: nothing is screened, hardened or kept back."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """API keys by tenant, in order."""

    keys: tuple[tuple[str, ...], ...]


def model_policy(base: Mapping[str, Any], version: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's part of the policy for the lab: keys that are None are left out.

    The verdict is revealed, for the lab to count by; no attack sees it (defenses/lab/counted.py).
    """
    merged = {**base, "serve": version, "reveal_verdict": True, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def make_place(
    home: Path,
    bundles: Path,
    model: str,
    policy: Mapping[str, Any],
    *,
    tenants: int,
    per_tenant: int,
    random_bytes: Callable[[int], bytes],
    now: datetime,
) -> Accounts:
    """Make a directory that `stockade serve` starts from, serving one model under `policy`.

    Raises:
        InitRefused: there is something at `home` already.
    """
    ports = Ports(data=0, metrics=0, admin=0, data_mtls=0)
    init_directory(home, now=now, random_bytes=random_bytes, ports=ports, bundles=bundles)
    _bring_bundle(home, bundles, model, str(policy["serve"]))
    pepper = (home / "keys" / "pepper").read_bytes()
    expires = now + timedelta(days=API_KEY_DAYS)
    names = {
        f"lab-{number:04}": [f"lab-{number:04}-{place}" for place in range(per_tenant)] for number in range(tenants)
    }
    issued = {
        tenant: {name: issue_api_key(pepper, name, expires, random_bytes) for name in members}
        for tenant, members in names.items()
    }

    def change(whole: dict[str, Any]) -> None:
        entries = {tenant: {name: entry for name, (_, entry) in row.items()} for tenant, row in issued.items()}
        _add_accounts(whole, entries)
        whole["limits"]["lab"] = dict(UNMET_LIMITS)
        whole["models"] = {model: dict(policy)}
        for grants in whole["roles"].values():
            for grant in grants:
                if grant.get("models"):
                    grant["models"] = ["*"]

    rewrite_policy(home, change)
    return Accounts(tuple(tuple(key for key, _ in row.values()) for row in issued.values()))


def _bring_bundle(home: Path, bundles: Path, model: str, version: str) -> None:
    target = home / "bundles" / model / version
    if not target.exists():
        shutil.copytree(bundles / model / version, target)
    for other in (home / "bundles").glob("*/*"):
        if other != target:  # what is not served is not loaded either
            shutil.rmtree(other)


def _add_accounts(policy: dict[str, Any], accounts: Mapping[str, Mapping[str, str]]) -> None:
    """Write accounts, by tenant and name their entries of `api_keys`, into the policy."""
    for tenant, entries in accounts.items():
        policy["tenants"][tenant] = {"limits": "lab", "class": "standard"}
        for name, entry in entries.items():
            policy["principals"][name] = {
                "tenant": tenant,
                "roles": ["predictor"],
                "limits": "lab",
                "api_keys": [yaml.safe_load(entry)],
            }

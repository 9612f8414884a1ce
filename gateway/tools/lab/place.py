"""A gateway's directory for the lab: what `stockade init` gives, with many accounts and the policy under test: the
models of a policy file, or what `stockade init` writes.

The accounts stand in tenants of `per_tenant` each; every account has an API key. Their limits cannot be met by an
attack's load, so that what is refused is refused by screens. The operator's part of the policy is left as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import safetensors
import yaml

from defenses.accounts import similarity
from gateway.policy.load import POLICY_BYTES_MAX
from gateway.tools.init.files import Ports, issue_api_key
from gateway.tools.init.init import API_KEY_DAYS, init_directory
from gateway.tools.rewrite import UNMET_LIMITS, rewrite_policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

WATCH = {
    "mode": "enforce",
    "steps": [{"alpha": 0.0001, "answer": "neighbour"}, {"alpha": 0.00001, "answer": "cool_down"}],
}
"""How a version is watched that brings the calibration for it, where the policy under test says nothing of it.

A search comes to 0.0001 little later than to 0.01: its evidence grows with each question. Of a thousand innocent
accounts eight ever come to 0.01, one or two to 0.0001 (docs/explanation/accounts.md).
"""
RULES = Path(__file__).resolve().parent.parent / "init" / "templates" / "rules.yaml"

BARE: Mapping[str, Any] = {"screens": {}, "watch": None, "budget": None, "harden": None, "output": None}
"""Laid over a model's policy: nothing is screened, hardened or kept back."""


def policy_under_test(file: Path | None) -> Mapping[str, Any]:
    """Return `models` of a policy: of `file`, or of what `stockade init` writes."""
    if file is None:
        text = "models:\n" + Template(RULES.read_text()).safe_substitute()
    else:
        with file.open() as opened:
            text = opened.read(POLICY_BYTES_MAX)
    try:
        return dict(yaml.safe_load(text)["models"])
    except (yaml.YAMLError, TypeError, KeyError, ValueError) as problem:
        raise ValueError(f"{file}: is no policy with a map of `models`") from problem


def watched(policy: Mapping[str, Any], bundle: Path) -> dict[str, Any]:
    """Return a model's part of the policy, with WATCH where it says nothing of one and the bundle can be watched."""
    with safetensors.safe_open(bundle / "calibration.safetensors", "numpy") as arrays:
        can = any(name.startswith(f"{similarity.NAME}.") for name in arrays.keys())  # noqa: SIM118  it is no mapping
    return {"watch": WATCH, **policy} if can else dict(policy)


@dataclass(frozen=True, slots=True)
class Accounts:
    """API keys by tenant, in order."""

    keys: tuple[tuple[str, ...], ...]


def model_policy(base: Mapping[str, Any], version: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's part of the policy for the lab: keys that are None are left out.

    The verdict is revealed, for the lab to count by; no attack sees it (defenses/lab/evasion/query.py).
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

"""The policy that the lab attacks: the models of a policy file, or what `stockade init` writes."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import safetensors
import yaml

from defenses.accounts import similarity
from gateway.policy.load import POLICY_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

WATCH = {
    "mode": "enforce",
    "steps": [{"alpha": 0.0001, "answer": "neighbour"}, {"alpha": 0.00001, "answer": "cool_down"}],
}
"""How a version is watched that brings the calibration for it, where the policy under test says nothing of it.

A search comes to 0.0001 little later than to 0.01: its evidence grows with each question. Of a thousand innocent
accounts eight ever come to 0.01, one or two to 0.0001 (docs/explanation/accounts.md).
"""
RULES = Path(__file__).resolve().parent.parent / "init" / "templates" / "rules.yaml"


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

"""The policy that the lab attacks: the models of a policy file, or what `stockade init` writes."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import yaml

from gateway.policy.policy import POLICY_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["policy_under_test"]

RULES = Path(__file__).resolve().parent.parent / "templates" / "rules.yaml"


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

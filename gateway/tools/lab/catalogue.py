"""The experiments of `stockade lab` by name, as experiments.toml has them. Methods load when their experiment runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

from defenses.lab.attack import Experiment

TABLE: Final = Path(__file__).with_name("experiments.toml")


def catalogue() -> dict[str, Experiment]:
    """Return every experiment by name, in the order of the table."""
    table = tomllib.loads(TABLE.read_text())
    return {row[0]: _experiment(table["methods"], *row) for row in table["experiments"]["rows"]}


def _experiment(
    methods: dict[str, list[str]], name: str, method: str, summary: str, parameters: dict[str, Any], *more: Any
) -> Experiment:
    where, family, technique, knowledge = methods[method]
    version = re.search(r"/kiosk-(\d+)", name)
    columns: dict[str, Any] = {"knowledge": knowledge, "version": version[1] if version else "1", "attack": name}
    for differing in more:
        columns |= differing
    return Experiment(name, family, summary, where, parameters, technique, **columns)

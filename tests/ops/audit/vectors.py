"""The frozen vectors."""

import json
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parents[2] / "vectors" / "audit"


def vector(name: str) -> Any:
    return json.loads((DIRECTORY / f"{name}.json").read_text())

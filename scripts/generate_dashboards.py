#!/usr/bin/env python3
"""Writes ops/grafana/dashboards/ from scripts/dashboards/; with --check, says which files are out of date."""

import argparse
import json
import sys
from pathlib import Path

from dashboards import BOARDS

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "ops/grafana/dashboards"


def written() -> dict[Path, str]:
    """Every file with its content."""
    return {
        TARGET / f"{name}.json": json.dumps(board, indent=2, ensure_ascii=False) + "\n"
        for name, board in BOARDS.items()
    }


def main() -> int:
    """Returns the exit code: with --check, 1 when a file is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = [path for path, text in written().items() if not path.is_file() or path.read_text("utf-8") != text]
    if check:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(ROOT)} is out of date; run make dashboards\n")
        return 1 if stale else 0
    for path, text in written().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

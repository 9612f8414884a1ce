#!/usr/bin/env python3
"""Makes docs/img/dashboards-*.png: a real gateway, some minutes of traffic, a real Prometheus, Grafana's components.

    python scripts/render_dashboards.py --minutes 6

Wants Debian's prometheus, chromium, fonts-inter, nodejs and npm, and the Python packages playwright and pillow.
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.dashboards.drawing import BOARDS, shrink, studio  # noqa: E402  needs the path
from tests.dashboards.stage import staged  # noqa: E402  needs the path

SETTLE_S = 12.0  # until rates have the whole of their interval


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6, help="of traffic (default: 6)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/img", help="folder for the pictures")
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as name, staged(Path(name), scrape_s=3) as stage:
        sys.stdout.write(f"{stage.play(seconds)} calls\n")
        shown = seconds - SETTLE_S
        with studio(stage, Path(name)) as drawing:
            for board in sorted(path.stem for path in BOARDS.glob("*.json")):
                picture = arguments.out / f"dashboards-{board}.png"
                drawing.draw(board, picture, seconds=shown)
                shrink(picture)
                sys.stdout.write(f"{picture} {picture.stat().st_size // 1000} KB\n")
    for complaint in drawing.complaints:
        sys.stderr.write(f"{complaint}\n")
    return 1 if drawing.complaints else 0


if __name__ == "__main__":
    sys.exit(main())

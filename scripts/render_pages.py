#!/usr/bin/env python3
"""Makes docs/img/demo.png and docs/img/scorecard.png: pages of ours as a browser shows them.

    make demo && python scripts/render_pages.py
    python scripts/render_pages.py scorecard

Wants Debian's chromium, and the Python packages playwright and pillow.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.dashboards.drawing import browsing, shrink  # noqa: E402  needs the path

WIDTH_PX = 1000
PAGES = {"demo": ROOT / "out/demo.html", "scorecard": ROOT / "docs/scorecard/index.html"}
# The scorecard goes on for long: its picture ends below the last target that was missed.
END = """() => {
  const missed = [...document.querySelectorAll("tr:has(b.bad)")];
  return Math.ceil((missed.pop() ?? document.documentElement).getBoundingClientRect().bottom);
}"""


def main() -> None:
    """Draw those that are named, or both."""
    with browsing(width_px=WIDTH_PX, scale=1) as page:
        for name in sys.argv[1:] or PAGES:
            page.goto(PAGES[name].as_uri())
            picture = ROOT / f"docs/img/{name}.png"
            clip = {"x": 0, "y": 0, "width": WIDTH_PX, "height": page.evaluate(END)}
            page.screenshot(path=picture, clip=clip, full_page=True)
            shrink(picture)
            sys.stdout.write(f"{picture} {picture.stat().st_size // 1000} KB\n")


if __name__ == "__main__":
    main()

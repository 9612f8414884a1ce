"""Dashboards as pictures: Grafana's components, bundled by esbuild, drawn by Chromium from what Prometheus says.

The packages are npm's, in a folder outside of the repository: `STOCKADE_DASHBOARD_PACKAGES`, else one in ~/.cache.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tests.dashboards.stage import JOB, ROOT, Stage

SOURCES = ROOT / "scripts/dashboards"
BOARDS = ROOT / "ops/grafana/dashboards"
WIDTH_PX = 1280
SCALE = 1.5
INSTALL_S = 400
IMAGE_COLORS = 256
PAGE = """<!doctype html>
<meta charset="utf-8">
<link rel="stylesheet" href="page.css">
<style>button { background: none; border: 0; color: inherit; font: inherit; padding: 0; }</style>
<div id="board"></div>
<script src="page.js"></script>
"""


@cache
def packages() -> Path:
    """The node_modules with the versions of package.json, installed unless they are there."""
    named = os.environ.get("STOCKADE_DASHBOARD_PACKAGES")
    place = Path(named) if named else Path.home() / ".cache/stockade/dashboards"
    wanted = (SOURCES / "package.json").read_text("utf-8")
    mark = place / ".complete"
    if not mark.is_file() or mark.read_text("utf-8") != wanted:
        place.mkdir(parents=True, exist_ok=True)
        (place / "package.json").write_text(wanted, "utf-8")
        # --legacy-peer-deps: Grafana's packages name peers that only a whole Grafana needs.
        options = ("--legacy-peer-deps", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        subprocess.run(["npm", "install", *options], cwd=place, check=True, timeout=INSTALL_S)
        mark.write_text(wanted, "utf-8")
    return place / "node_modules"


def node(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program of ours that uses the packages."""
    program = shutil.which("node")
    assert program, "node is not installed (Debian: nodejs, npm)"
    environment = os.environ | {"NODE_PATH": str(packages())}
    command = [program, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def bundled(target: Path) -> Path:
    """Write the page, its script with all that it needs, and its styles; return the page."""
    script = target / "page.js"
    loaders = [f"--loader:.{kind}=dataurl" for kind in ("svg", "woff2", "ttf")]
    options = [
        "--bundle",
        "--minify",
        "--jsx=automatic",
        "--log-level=error",
        '--define:process.env.NODE_ENV="production"',
    ]
    done = node(packages() / "esbuild/bin/esbuild", SOURCES / "page.jsx", f"--outfile={script}", *options, *loaders)
    assert done.returncode == 0, done.stderr
    html = target / "page.html"
    html.write_text(PAGE, "utf-8")
    return html


class Studio:
    """A browser page that draws dashboards. What the page complains about is kept in `complaints`."""

    def __init__(self, page: Any, html: Path, stage: Stage) -> None:
        self._page = page
        self._html = html
        self._stage = stage
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def draw(self, name: str, picture: Path, *, seconds: float) -> None:
        """Draw what a dashboard shows of the last `seconds`. A query without data is an error of the browser's."""
        board = json.loads((BOARDS / f"{name}.json").read_text("utf-8"))
        step = max(self._stage.scrape_s, round(seconds / 240))
        to = int(self._stage.ended_s) // step * step
        variables = {"$__rate_interval": self._stage.rate_interval, "$__range": f"{round(seconds)}s"}
        setting = {
            "prometheus": self._stage.prometheus,
            "from": to - int(seconds) // step * step,
            "to": to,
            "step": step,
            "width": WIDTH_PX,
            "variables": list((variables | {"$job": JOB, "$model": ".+"}).items()),
        }
        self._page.goto(self._html.as_uri())
        height = self._page.evaluate("([board, setting]) => window.draw(board, setting)", [board, setting])
        self._page.set_viewport_size({"width": WIDTH_PX, "height": height})
        canvases = sum(panel["type"] == "timeseries" for panel in board["panels"])
        self._page.wait_for_function(f"document.querySelectorAll('canvas').length >= {canvases}", timeout=20_000)
        self._page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        picture.write_bytes(self._page.screenshot())

    def texts(self) -> str:
        """All words on the page."""
        return re.sub(r"\s+", " ", self._page.inner_text("#board"))


@contextmanager
def browsing(*, width_px: int, scale: float) -> Iterator[Any]:
    """A page of a browser, for as long as the block runs."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    assert program, "chromium is not installed (Debian: chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            context = browser.new_context(
                viewport={"width": width_px, "height": 900},
                device_scale_factor=scale,
                timezone_id="UTC",
                locale="en-US",
            )
            yield context.new_page()
        finally:
            browser.close()


@contextmanager
def studio(stage: Stage, directory: Path) -> Iterator[Studio]:
    """A browser that draws dashboards, for as long as the block runs."""
    html = bundled(directory)
    with browsing(width_px=WIDTH_PX, scale=SCALE) as page:
        yield Studio(page, html, stage)


def shrink(picture: Path) -> None:
    """Fewer colours: a third of the bytes, and nobody sees it."""
    from PIL import Image

    with Image.open(picture) as image:
        image.convert("RGB").quantize(IMAGE_COLORS, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":  # so that no test waits for a registry
    packages()

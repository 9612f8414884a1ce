"""The rooms of the source tree and the imports between them, for tests/test_house.py and docs/img/rooms.svg.

A room is a module or a package directly in one of the four packages. The order of the rooms stands in pyproject.toml,
as layers of import-linter. Imports under TYPE_CHECKING count.

    python scripts/house.py [--check]     writes docs/img/rooms.svg, or says that it is not what the imports are
"""

from __future__ import annotations

import ast
import sys
import tomllib
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gateway", "serving", "defenses", "ops")
PICTURE = ROOT / "docs/img/rooms.svg"

Graph = dict[str, set[str]]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return every module of the four packages by its dotted name."""
    files = (path for package in PACKAGES for path in sorted((root / package).rglob("*.py")))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports(root: Path = ROOT) -> Graph:
    """Return which module imports which others of ours, wherever in it the statement stands."""
    known = modules(root)
    graph: Graph = {}
    for name, path in known.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for dotted in names:
                imported = dotted
                while imported and imported not in known:
                    imported = imported.rpartition(".")[0]
                if imported and imported != name:
                    graph[name].add(imported)
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or not (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def order() -> dict[str, list[list[str]]]:
    """Return the layers of each package, top first; rooms of one layer do not import each other."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return {
        contract["containers"][0]: [[room.strip() for room in layer.split("|")] for layer in contract["layers"]]
        for contract in contracts
        if contract["type"] == "layers"
    }


def exceptions() -> list[str]:
    """Return the imports that are allowed against the order."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return [ignored for contract in contracts for ignored in contract.get("ignore_imports", [])]


def arrows(graph: Graph) -> set[tuple[str, str]]:
    """Return which room imports from which other of the same package."""
    found: set[tuple[str, str]] = set()
    for name, others in graph.items():
        for other in others:
            here, there = name.split(".")[:2], other.split(".")[:2]
            if here != there and here[0] == there[0] and len(here) == len(there) == 2:
                found.add((".".join(here), ".".join(there)))
    return found


class Box(NamedTuple):
    """Where a room is drawn."""

    x: int
    y: int


BOX_WIDTH, BOX_HEIGHT, GAP, COLUMN, TOP = 112, 28, 16, 300, 64


def picture(graph: Graph) -> str:
    """Return the rooms in their order, with the imports between them, as SVG."""
    boxes: dict[str, Box] = {}
    parts: list[str] = []
    height = 0
    for column, (package, layers) in enumerate(order().items()):
        x = 16 + column * COLUMN
        parts.append(f'<text class="package" x="{x}" y="40">{package}</text>')
        y = TOP
        for layer in layers:
            for room in layer:
                boxes[f"{package}.{room}"] = Box(x, y)
                y += BOX_HEIGHT + (2 if room != layer[-1] else GAP)
        height = max(height, y)
    for room, other in sorted(arrows(graph)):
        if room in boxes and other in boxes:
            parts.append(_arrow(boxes[room], boxes[other], f"{room} imports {other}"))
    for room, (x, y) in boxes.items():
        name = room.split(".")[1]
        parts.append(f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="4"/>')
        parts.append(f'<text x="{x + 8}" y="{y + 18}">{escape(name)}</text>')
    width = 16 + COLUMN * len(order())
    style = (
        "text{font:13px sans-serif;fill:#1c2733}.package{font-size:17px;font-weight:bold}"
        "rect{fill:#eef3f8;stroke:#7f95aa}"
        "path{fill:none;stroke:#3d6fa5;stroke-opacity:.4;stroke-width:1.5}.up{stroke:#c0392b;stroke-opacity:1}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    title = "<title>The rooms of each package in their order; every import between rooms points down</title>"
    return "\n".join([head, title, f"<style>{style}</style>", *parts, "</svg>", ""])


def _arrow(source: Box, target: Box, label: str) -> str:
    """Return a bow on the right of the column; one that points up is red."""
    x, y1, y2 = source.x + BOX_WIDTH, source.y + BOX_HEIGHT // 2 + 6, target.y + BOX_HEIGHT // 2 - 6
    bend = min(150, 24 + abs(y2 - y1) // 4)
    kind = ' class="up"' if y2 < y1 else ""
    return f'<path{kind} d="M{x},{y1} C{x + bend},{y1} {x + bend},{y2} {x},{y2}"><title>{escape(label)}</title></path>'


def main(arguments: list[str]) -> int:
    """Write the picture, or say whether it is current. Returns the exit code."""
    drawn = picture(imports())
    if "--check" not in arguments:
        PICTURE.write_text(drawn, encoding="utf-8")
        return 0
    if PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == drawn:
        return 0
    sys.stderr.write(f"{PICTURE} does not show the imports as they are; run `python scripts/house.py`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

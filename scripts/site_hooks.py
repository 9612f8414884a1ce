"""What `make docs` needs beyond mkdocs.yml. MkDocs calls these functions; nothing here is run by hand.

Pages link to files of the repository as a forge resolves them (`../../ops/runbooks/StockadeDown.md`), and MkDocs knows
only docs/. So runbooks and the pages of the root become pages of the site (`PAGES`), each link to one of them is
rewritten to where it is on the site, and a link to any other file of the repository keeps its text alone, unless
`repo_url` is set in mkdocs.yml. Headings get the anchors that a forge gives them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
RUNBOOKS = sorted(path.name for path in ROOT.glob("ops/runbooks/*.md"))
PAGES = {
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "docs/scorecard/index.html": "scorecard/plots.html",  # the scorecard's README.md becomes index.html
    **{f"ops/runbooks/{name}": f"runbooks/{name}" for name in RUNBOOKS},
}
"""What is elsewhere on the site than in docs/: paths in the repository, and on the site."""

# A link of Markdown, `[text](target)`, or an image; the text may hold one pair of brackets, as an image in a link does.
LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\[\]]*\](?:\([^()]*\))?)*\])\((?P<target>[^()\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*?$", re.MULTILINE | re.DOTALL)


def slug(heading: str, _separator: str) -> str:
    """The anchor that a forge gives to a heading, as tests/test_docs.py has it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def runbook_nav(entries: list[Any]) -> Iterator[Any]:
    """The navigation with the runbooks in the place of the empty list that is named so."""
    for entry in entries:
        if isinstance(entry, dict):
            ((name, value),) = entry.items()
            if name == "Runbooks":
                value = [PAGES[f"ops/runbooks/{runbook}"] for runbook in RUNBOOKS]
            elif isinstance(value, list):
                value = list(runbook_nav(value))
            yield {name: value}
        else:
            yield entry


def on_config(config: MkDocsConfig) -> None:
    config.nav = list(runbook_nav(config.nav or []))
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug


def on_files(files: Files, config: MkDocsConfig) -> None:
    for source, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = source_of(page)

    def replaced(link: re.Match[str]) -> str:
        target, mark, anchor = link["target"].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = place_of(path)
        if place is not None and files.get_file_from_path(place) is not None:
            relative = posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or ".")
            return f"{link['text']}({relative}{mark}{anchor})"
        if (ROOT / path).is_dir() or ((ROOT / path).exists() and place is None):
            if config.repo_url:
                return f"{link['text']}({config.repo_url.rstrip('/')}/blob/main/{path}{mark}{anchor})"
            return link["text"].removeprefix("!")[1:-1]
        return link[0]  # leads nowhere: strict mode says so

    return outside_fences(markdown, lambda text: LINK.sub(replaced, text))


def source_of(page: Page) -> str:
    """The path in the repository of what a page is made from."""
    assert page.file.abs_src_path is not None, "every page is made from a file"
    return Path(page.file.abs_src_path).relative_to(ROOT).as_posix()


def place_of(path: str) -> str | None:
    """Where a file of the repository is on the site; None: it is not there."""
    if path == "README.md":
        return "index.md"
    return PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)


def outside_fences(markdown: str, change: Any) -> str:
    """The text with what is outside of code blocks changed."""
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])

"""`stockade bench peers`: which peers are installed, and how to install them."""

from __future__ import annotations

import argparse
import subprocess

from rich.console import Console
from rich.markup import escape

from gateway.tools.bench import h2load, peers


def run(options: argparse.Namespace) -> int:
    """The verb. Returns 0; 1 when something is missing or could not be installed; 2 for an unknown name."""
    out = Console(highlight=False, soft_wrap=True)
    names = options.only or tuple(peers.PEERS)
    if unknown := sorted(set(names) - set(peers.PEERS)):
        out.print(f"no peer is called {escape(', '.join(unknown))}; there are {', '.join(peers.PEERS)}")
        return 2
    root = options.install or peers.default_root()
    if options.install:
        for name in names:
            try:
                peers.install(root, name, out.print)
            except (subprocess.CalledProcessError, OSError) as problem:
                out.print(f"[red]{name}:[/red] {escape(str(problem))}")
                return 1
    complete = True
    for name in names:
        sentence = peers.missing(root, name)
        complete &= sentence is None
        out.print(escape(sentence) if sentence else f"{name}: {peers.versions(root, name)}")
    if sentence := h2load.missing():
        out.print(escape(sentence))
    return 0 if complete and sentence is None else 1

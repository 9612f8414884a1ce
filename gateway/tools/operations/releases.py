"""`stockade models compare`: what a running gateway has counted of the versions under release.

Exit codes: 0 done; 2 it cannot be asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.control.release.view import as_json, render
from gateway.tools.operator import OperatorFailed, status
from gateway.tools.terminal import fail, out, print_json

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Show how the versions do."""
    try:
        releases = status(options.file, options.identity, options.ca).releases
    except OperatorFailed as problem:
        return fail(problem)
    if options.json:
        print_json([as_json(release) for release in releases])
    else:
        render(releases, out)
    return 0

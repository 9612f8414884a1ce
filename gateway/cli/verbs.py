"""How verbs are added to the command line, and loaded when they run: `stockade --help` stays fast."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    """Add a verb with its one-line help."""
    added: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    added.set_defaults(run=run)
    return added


def group(verbs: Any, name: str, text: str) -> Any:
    """Add a verb that has verbs of its own."""
    return verbs.add_parser(name, help=text, description=text).add_subparsers(metavar="VERB", required=True)


def lazy(module: str, function: str = "run") -> Callable[[argparse.Namespace], int]:
    """Return what imports `module` when it is called, and calls this function of it."""

    def run(options: argparse.Namespace) -> int:
        code: int = getattr(import_module(module), function)(options)
        return code

    return run


def named(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """Return what imports `module` when it is called, and has its `run_verb` run the verb of this name."""

    def run(options: argparse.Namespace) -> int:
        code: int = import_module(module).run_verb(name, options)
        return code

    return run


def reaching(parser: argparse.ArgumentParser) -> None:
    """Add what is needed to ask a running gateway over its admin port."""
    parser.add_argument("file", type=Path, metavar="FILE", help="stockade.yaml")
    parser.add_argument(
        "--identity", type=Path, metavar="PREFIX", help="PREFIX.crt and PREFIX.key (default: clients/operator.tls)"
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="who signed the server's certificate, PEM (default: tls.client_ca)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def reason(parser: argparse.ArgumentParser) -> None:
    """Add why something is done, which stands in the audit log."""
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why; it stands in the audit log")

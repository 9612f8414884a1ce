"""`stockade ray`."""

from __future__ import annotations

from pathlib import Path

from gateway.cli.arguments import FILE, JSON, group, option, seconds, tool

app = group("the Serve applications that run the models of a gateway with `engine.kind: ray`")


@tool(app, "config", "gateway.tools.ray:run_config")
def config(file: Path = FILE) -> None:
    """Print them as a plain Serve config file."""


@tool(app, "deploy", "gateway.tools.ray:run_deploy")
def deploy(
    file: Path = FILE,
    prune: bool = option("--prune", "remove applications of the namespace that are of no bundle here", False),
    timeout: float = option("--timeout SECONDS", "how long to wait (180)", 180.0, seconds),
    json: bool = JSON,
) -> None:
    """Deploy or update them, one replica after the other, and wait."""


@tool(app, "status", "gateway.tools.ray:run_status")
def status(file: Path = FILE, json: bool = JSON) -> None:
    """Show them, their replicas, and whether they hold these bundles."""

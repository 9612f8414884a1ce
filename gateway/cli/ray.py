"""`stockade ray`."""

from __future__ import annotations

from typing import Annotated

from gateway.cli.arguments import File, Json, group, option, seconds, tool

app = group("the Serve applications that run the models of a gateway with `engine.kind: ray`")


@tool(app, "config", "gateway.tools.ray:run_config")
def config(file: File) -> None:
    """Print them as a plain Serve config file."""


@tool(app, "deploy", "gateway.tools.ray:run_deploy")
def deploy(
    file: File,
    prune: Annotated[
        bool, option("--prune", help="remove applications of the namespace that are of no bundle here")
    ] = False,
    timeout: Annotated[
        float, option("--timeout", read=seconds, metavar="SECONDS", help="how long to wait (180)")
    ] = 180.0,
    json: Json = False,
) -> None:
    """Deploy or update them, one replica after the other, and wait."""


@tool(app, "status", "gateway.tools.ray:run_status")
def status(file: File, json: Json = False) -> None:
    """Show them, their replicas, and whether they hold these bundles."""

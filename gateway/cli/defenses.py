"""`stockade defenses`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from gateway.cli.arguments import (
    Bundle,
    Json,
    Loose,
    SigningKey,
    TrustedKey,
    among,
    decimal,
    group,
    option,
    tool,
    whole,
)

app = group("have the screens know your benign traffic")
SCREENS = ("accounts", "budget", "trigger", "feedback")


@tool(app, "calibrate", "gateway.tools.registry.calibrate:run_calibrate", cls=Loose)
def calibrate(
    directory: Bundle,
    *,
    version: Annotated[str, option("--version", metavar="VERSION", help="what the new version is called")],
    out: Annotated[Path, option("--out", metavar="DIR", help="it is written to DIR/MODEL/VERSION")],
    data: Annotated[
        Path | None,
        option(
            "--data",
            metavar="FILE",
            help="safetensors of benign rows the model did not learn from, with `labels` if known (default: what the"
            " recipe kept back)",
        ),
    ] = None,
    only: Annotated[
        list[str],
        option("--only", read=among(*SCREENS), metavar="WHAT...", help=f"of {', '.join(SCREENS)}"),
    ] = [],
    duplicates: Annotated[
        float,
        option(
            "--duplicates",
            read=decimal(0.001, 0.5),
            metavar="SHARE",
            help="of an account's questions that are about what it just asked about, seen again (default 0.05)",
        ),
    ] = 0.05,
    burst: Annotated[
        float,
        option("--burst", read=decimal(1, 6), metavar="MEAN", help="how often it is seen again on average (default 3)"),
    ] = 3.0,
    returns: Annotated[
        float | None,
        option(
            "--returns",
            read=decimal(0, 0.05),
            metavar="SHARE",
            help="of an account's questions that are about a thing it asked about 64 questions ago or before (default:"
            " nobody knows, and nothing is concluded from returns)",
        ),
    ] = None,
    in_flight: Annotated[
        int,
        option(
            "--in-flight",
            read=whole(1, 64),
            metavar="N",
            help="questions that an account asks without waiting for the answers; they come in another order (default"
            " 16)",
        ),
    ] = 16,
    seed: Annotated[int, option("--seed", metavar="N", help="of the split, and of all chance (default 0)")] = 0,
    signing_key: SigningKey,
    trusted_key: TrustedKey = None,
    json: Json = False,
) -> None:
    """Write a version of a bundle whose screens know your benign traffic."""

"""`stockade defenses`."""

from __future__ import annotations

from pathlib import Path

from gateway.cli.arguments import (
    BUNDLE,
    JSON,
    SIGNING_KEY,
    TRUSTED_KEY,
    Loose,
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
    directory: Path = BUNDLE,
    version: str = option("--version VERSION", "what the new version is called"),
    out: Path = option("--out DIR", "it is written to DIR/MODEL/VERSION"),
    data: Path | None = option(
        "--data FILE",
        "safetensors of benign rows the model did not learn from, with `labels` if known (default: what the"
        " recipe kept back)",
        None,
    ),
    only: list[str] = option("--only WHAT...", f"of {', '.join(SCREENS)}", [], among(*SCREENS)),
    duplicates: float = option(
        "--duplicates SHARE",
        "of an account's questions that are about what it just asked about, seen again (default 0.05)",
        0.05,
        decimal(0.001, 0.5),
    ),
    burst: float = option("--burst MEAN", "how often it is seen again on average (default 3)", 3.0, decimal(1, 6)),
    returns: float | None = option(
        "--returns SHARE",
        "of an account's questions that are about a thing it asked about 64 questions ago or before (default:"
        " nobody knows, and nothing is concluded from returns)",
        None,
        decimal(0, 0.05),
    ),
    in_flight: int = option(
        "--in-flight N",
        "questions that an account asks without waiting for the answers; they come in another order (default 16)",
        16,
        whole(1, 64),
    ),
    seed: int = option("--seed N", "of the split, and of all chance (default 0)", 0),
    signing_key: Path = SIGNING_KEY,
    trusted_key: Path | None = TRUSTED_KEY,
    json: bool = JSON,
) -> None:
    """Write a version of a bundle whose screens know your benign traffic."""

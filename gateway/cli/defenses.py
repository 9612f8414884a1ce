"""The arguments of `stockade defenses`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.verbs import named, verb
from gateway.tools.arguments import decimal, whole

if TYPE_CHECKING:
    import argparse

SCREENS = ("accounts", "budget", "trigger", "feedback")


def add_verbs(defenses: Any) -> None:
    """Add the verbs to `stockade defenses`."""
    calibrate = verb(
        defenses,
        "calibrate",
        named("gateway.tools.registry.verbs", "calibrate"),
        "write a version of a bundle whose screens know your benign traffic",
    )
    calibrate.add_argument("directory", type=Path, metavar="DIR", help="the bundle, such as bundles/kiosk/2")
    calibrate.add_argument("--version", required=True, metavar="VERSION", help="what the new version is called")
    calibrate.add_argument("--out", type=Path, required=True, metavar="DIR", help="it is written to DIR/MODEL/VERSION")
    calibrate.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="safetensors of benign rows the model did not learn from, with `labels` if known (default: what the "
        "recipe kept back)",
    )
    calibrate.add_argument("--only", nargs="+", choices=SCREENS, metavar="WHAT", help=f"of {', '.join(SCREENS)}")
    callers_habits(calibrate)
    calibrate.add_argument("--seed", type=int, default=0, help="of the split, and of all chance (default 0)")
    calibrate.add_argument("--signing-key", type=Path, required=True, metavar="FILE", help="made where there is none")
    calibrate.add_argument("--trusted-key", type=Path, metavar="FILE", help="who signed it (default: the project)")
    calibrate.add_argument("--json", action="store_true", help="print what was signed as JSON")


def callers_habits(calibrate: argparse.ArgumentParser) -> None:
    """Add what is known of how benign accounts ask."""
    calibrate.add_argument(
        "--duplicates",
        type=decimal(0.001, 0.5),
        default=0.05,
        metavar="SHARE",
        help="of an account's questions that are about what it just asked about, seen again (default 0.05)",
    )
    calibrate.add_argument(
        "--burst",
        type=decimal(1, 6),
        default=3.0,
        metavar="MEAN",
        help="how often it is seen again on average (default 3)",
    )
    calibrate.add_argument(
        "--returns",
        type=decimal(0, 0.05),
        metavar="SHARE",
        help="of an account's questions that are about a thing it asked about 64 questions ago or before (default: "
        "nobody knows, and nothing is concluded from returns)",
    )
    calibrate.add_argument(
        "--in-flight",
        type=whole(1, 64),
        default=16,
        metavar="N",
        help="questions that an account asks without waiting for the answers; they come in another order (default 16)",
    )

"""How far the canaries of a host are, in a small file that is durable before anybody acts by it.

It stands beside the log, as the memory of the policy's revision does, and not in the state directory, which may be
deleted: what was rolled back stays so. The host writes it, workers read it when they start. It is not signed, and needs
not be: it can only choose among the shares that the signed policy names (`gateway.models.compile_release`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

from gateway.config.document import PolicyRejected, read_bounded
from gateway.models.canary import Phase
from gateway.models.compile_release import Standing
from ops.process.durable import keep_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RELEASES = "releases.json"
BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a canary is: which one (`fingerprint`), its phase and step, the share it answers, and why it is over."""

    fingerprint: str
    version: str
    phase: Phase
    step: int
    share: float
    reason: str


def read_reached(file: Path) -> dict[str, Reached]:
    """Return how far the canaries are, by model; nothing where there is no file.

    Raises:
        PolicyRejected: the file is not one of ours. Nobody guesses whether something was rolled back.
    """
    if not file.exists():
        return {}
    try:
        found = json.loads(read_bounded(file, BYTES_MAX, PolicyRejected))
        return {model: reached_of(fields) for model, fields in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        advice = "restore it, or remove it: canaries then begin again, those that were rolled back too"
        raise PolicyRejected([f"{file}: does not say how far the canaries are; {advice}"]) from None


def reached_of(fields: Mapping[str, Any]) -> Reached:
    """Return one canary as it was written. Raises ValueError, KeyError or TypeError."""
    phase = fields["phase"]
    if phase not in get_args(Phase):
        raise ValueError(phase)
    return Reached(
        str(fields["fingerprint"]),
        str(fields["version"]),
        phase,
        int(fields["step"]),
        float(fields["share"]),
        str(fields["reason"]),
    )


def write_reached(file: Path, reached: Mapping[str, Reached]) -> None:
    """Write it down, durably. Raises OSError."""
    text = json.dumps({model: asdict(one) for model, one in reached.items()}, sort_keys=True)
    keep_file(file, text.encode() + b"\n")


def standings(reached: Mapping[str, Reached]) -> dict[str, Standing]:
    """Return what workers need to know of it."""
    return {
        model: Standing(one.fingerprint, one.share, running=one.phase == "running") for model, one in reached.items()
    }

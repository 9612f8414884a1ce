"""All experiments of the lab: those of the defenses, and those that join them with what only serving has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from defenses.lab.attack import Experiment, Lab, Trial
from defenses.lab.catalogue import EXPERIMENTS
from gateway.tools.lab.backdoors import backdoor_experiments
from gateway.tools.lab.feedback import feedback_experiments

if TYPE_CHECKING:
    from collections.abc import Mapping

CLASSES = 10


def catalogue() -> Mapping[str, Experiment]:
    """Return every experiment by name."""
    own = [
        Experiment(
            f"whitebox/kiosk-{version}/eps-{radius}/auto-attack",
            "evasion",
            f"AutoAttack (by ART) within L-inf {radius} on the classifier of kiosk {version}; judged afterwards",
            _auto_attack(version, radius),
        )
        for version, radius in (("2", 0.1),)
    ]
    return {**EXPERIMENTS, **{one.name: one for one in (*own, *backdoor_experiments(), *feedback_experiments())}}


def _auto_attack(version: str, radius: float) -> Any:
    def run(lab: Lab, seed: int) -> list[Trial]:
        from defenses.lab.evasion.auto_attacked import auto_attacked
        from defenses.lab.evasion.whitebox_trials import static_of
        from serving.train.kiosk.robustness import LogitsRatio

        attack = auto_attacked(lab.size, LogitsRatio())
        return static_of("kiosk", version, radius, "AutoAttack", attack)(lab, seed)

    return run

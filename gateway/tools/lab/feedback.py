"""The lab's experiments of feedback by name; what they do is in `feedback_trials`, which loads when one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from defenses.lab.attack import Experiment, Lab, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.tools.lab.feedback_trials import Liars

SUMMARIES: Mapping[Liars, str] = {
    "none": "kiosk 2 learns from labels in which nobody lies: what the gate costs, and what labels are worth",
    "flips": "a tenth of the principals label every row as the next class, as often as the honest do",
    "flood": "the same, ten times as often: what an update without caps falls to",
    "plausible": "they know rows, thresholds and caps, and say what passes and moves the head most",
    "pair": "the same, all for one confusion",
}


def feedback_experiments() -> list[Experiment]:
    """Return the experiments: nobody lies, and each kind of liars."""
    return [Experiment(f"feedback/{liars}", "poisoning", text, later(liars)) for liars, text in SUMMARIES.items()]


def later(liars: Liars) -> Any:
    """Return the run of these liars."""

    def run(lab: Lab, seed: int) -> list[Trial]:
        from gateway.tools.lab.feedback_trials import feedback_trials  # noqa: PLC0415  it loads the recipes

        found: list[Trial] = feedback_trials(liars)(lab, seed)
        return found

    return run

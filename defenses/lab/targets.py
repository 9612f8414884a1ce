"""What the defenses are to reach, from docs/threat-model.md: the goal, and the floor below which they are no defense.

Written before anything was measured, and not moved since. A control is a target too: where it does not fail, the
attack is too weak to prove anything.
"""

from __future__ import annotations

from typing import Final

from defenses.lab.scorecard import Target

__all__ = ["TARGETS"]

_WHITEBOX = "whitebox/kiosk-2"

TARGETS: Final[tuple[Target, ...]] = (
    Target(
        "control: kiosk 1 without screens falls to PGD-40 (L-inf 0.1)",
        "whitebox/kiosk-1/eps-0.1/all",
        "at least",
        0.9,
        defended=False,
    ),
    Target(
        "evasion of kiosk 2 within L-inf 0.1, adaptive, of images answered right",
        f"{_WHITEBOX}/eps-0.1/fpr-1/right",
        "at most",
        0.10,
        0.20,
        knowledge="adaptive white box",
    ),
    Target(
        "evasion of kiosk 2 within L-inf 0.1, adaptive, of all images",
        f"{_WHITEBOX}/eps-0.1/fpr-1/all",
        "at most",
        0.10,
        0.20,
        knowledge="adaptive white box",
    ),
    Target(
        "evasion of kiosk 2 within L-inf 0.1, static PGD-40, of images answered right",
        f"{_WHITEBOX}/eps-0.1/fpr-1/right",
        "at most",
        0.01,
        knowledge="static white box, PGD-40",
    ),
    Target(
        "evasion of kiosk 2 within L-inf 0.2, adaptive, of images answered right",
        f"{_WHITEBOX}/eps-0.2/fpr-1/right",
        "at most",
        0.20,
        knowledge="adaptive white box",
    ),
    Target(
        "evasion of kiosk 2 within L-inf 0.2, adaptive, of all images",
        f"{_WHITEBOX}/eps-0.2/fpr-1/all",
        "at most",
        0.20,
        knowledge="adaptive white box",
    ),
)

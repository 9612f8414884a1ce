"""What the defenses are to reach, from docs/explanation/threat-model.md: the goal, and the floor below which they are
no defense.

Written before anything was measured, and not moved since. A control is a target too: where it does not fail, the
attack is too weak to prove anything.
"""

from __future__ import annotations

from typing import Final

from defenses.lab.scorecard import Target

_WHITEBOX = "whitebox/kiosk-2"
_BACKDOORED = "poisoned the training set"


def _backdoor(name: str, told: str, aim: float, floor: float) -> tuple[Target, ...]:
    """Return the control, what the trigger screen finds, and the inspection, of one attack."""
    return (
        Target(
            f"control: {told} turns marked rows into the target",
            f"backdoor/{name}/trigger",
            "at least",
            0.9,
            knowledge=_BACKDOORED,
            defended=False,
        ),
        Target(
            f"marked rows of {told} that the trigger screen finds at a measured 1 % of false alarms",
            f"backdoor/{name}/trigger",
            "at least",
            aim,
            floor,
            measure="tpr",
            knowledge=_BACKDOORED,
        ),
        Target(f"models with {told} that pass the inspection", f"backdoor/{name}/inspection", "at most", 0.0),
    )


_QUERY = "query/kiosk-3"
_BEFORE = "before_action_median"


def _by_asking() -> tuple[Target, ...]:
    """Return what is aimed at against attacks that only ask, and what it may cost those who attack nothing."""
    long = {"square": "Square", "hop-skip-jump": "HopSkipJump", "boundary": "Boundary"}
    long |= {"zoo": "ZOO", "sign-opt": "SignOPT"}
    short = {
        "fresh": "FRESH in 1,000 questions",
        "square-patches": "Square behind patches in 1,000 questions",
        "fresh-patches": "FRESH behind patches in 1,000 questions",
        "oars-nes": "OARS (NES) in 1,000 questions",
        "oars-square": "OARS (Square) in 1,000 questions",
        "square-sybils-ten-tenants": "Square by 10 Sybils in ten tenants in 1,000 questions",
        "square-between-90": "Square in 1,000 questions, between nine times as many innocent ones",
        "square-rotating-1000": "Square for 1,000 images in turn, 150 questions each",
        "square-rotating-3000": "Square for 3,000 images in turn, 100 questions each",
        "square-drip": "Square for 6 images in turn, 150 questions each, between 98.5 % innocent ones",
    }
    habits = {"duplicates-0": "", "duplicates-5": ", 5 % near duplicates"}
    control = "control: kiosk 1 without screens falls to Square (L-inf 0.1)"
    return (
        Target(control, "query/kiosk-1/square", "at least", 0.9, defended=False),
        *(
            Target(f"{what} in 5,000 questions", f"{_QUERY}/{name}", "at most", 0.01, 0.05)
            for name, what in long.items()
        ),
        *(
            Target(
                f"answers that {what} has before the first action, median",
                f"{_QUERY}/{name}",
                "at most",
                10,
                25,
                measure=_BEFORE,
                percent=False,
            )
            for name, what in long.items()
        ),
        *(Target(what, f"{_QUERY}/{name}", "at most", 0.04, 0.10) for name, what in short.items()),
        *(
            Target(f"innocent accounts ever acted upon{how}", f"benign/kiosk-3/{habit}", "at most", 0.001, 0.005)
            for habit, how in habits.items()
        ),
    )


def _feedback() -> tuple[Target, ...]:
    """Return what ten updates may cost where a tenth of the principals lie, in points of accuracy."""
    told = {
        "flips": ("label every row as the next class", 0.5, 1.0),
        "flood": ("do so ten times as often", 0.5, 1.0),
        "plausible": ("say what passes and moves the head most", 2.0, None),
        "pair": ("do so for one confusion", 2.0, None),
    }
    what = "points of accuracy lost to feedback of which a tenth of the principals {}"
    control = "control: points of accuracy lost without the gate to a tenth of the principals that flood"
    return (
        Target(control, "feedback/flood", "at least", 10, measure="drop_points", defended=False, percent=False),
        *(
            Target(what.format(lies), f"feedback/{liars}", "at most", aim, floor, measure="drop_points", percent=False)
            for liars, (lies, aim, floor) in told.items()
        ),
    )


def _inference() -> tuple[Target, ...]:
    """Return what may be learned of the training rows. The gap is what the label alone tells."""
    membership = {"lira": "LiRA", "quantile": "quantile regression", "label-only/gap": "the label alone"}
    return (
        *(
            Target(
                f"area under the curve of membership by {told}, kiosk {version}",
                f"membership/kiosk-{version}/{attack}",
                "at most",
                0.53,
                0.56,
                measure="auc",
                percent=False,
            )
            for version in ("1", "2")
            for attack, told in membership.items()
        ),
        *(
            Target(
                f"members of kiosk {version} that LiRA names where one in 1,000 others is",
                f"membership/kiosk-{version}/lira",
                "at most",
                0.002,
            )
            for version in ("1", "2")
        ),
        Target("classes of kiosk 1 read from images made by asking", "inversion/kiosk-1/nes", "at most", 0.15),
        *(
            Target(
                f"classes of kiosk {version} read from images made with its weights",
                f"inversion/kiosk-{version}/miface",
                "at most",
                0.15,
                defended=False,
            )
            for version in ("1", "2")
        ),
    )


def _extraction() -> tuple[Target, ...]:
    """Return how many times the answers a copy has to take that agrees in nine of ten images."""
    ratio, where = "answers_ratio_at_90_percent", "extraction/kiosk-3/natural"
    return (
        Target(
            "times the answers for a copy of 90 % agreement from natural images, all that is told",
            f"{where}/soft",
            "at least",
            20,
            5,
            measure=ratio,
            percent=False,
        ),
        Target(
            "times the answers for a copy of 90 % agreement from natural images, the class alone",
            f"{where}/label",
            "at least",
            3,
            measure=ratio,
            percent=False,
        ),
    )


def _drift() -> tuple[Target, ...]:
    """Return how often drift may be seen that is not there, and be seen late: half of the runs have 200 rows."""
    return (
        Target("streams of 100,000 benign rows in which drift is seen", "drift/kiosk-2/none", "at most", 0.01),
        *(
            Target(
                f"streams of {shift} images in which drift is seen after more than 200 rows",
                f"drift/kiosk-2/{shift}/sudden",
                "at most",
                0.5,
            )
            for shift in ("dim", "noisy", "blurred", "moved")
        ),
    )


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
    *_backdoor("badnets", "BadNets", 0.90, 0.80),
    *_backdoor("blend", "blend", 0.90, 0.80),
    *_backdoor("wanet", "WaNet", 0.70, 0.50),
    *_backdoor("adap-blend", "Adap-Blend", 0.50, 0.50),
    Target("clean models that the inspection refuses", "backdoor/none/inspection", "at most", 0.0),
    *_by_asking(),
    *_feedback(),
    *_inference(),
    *_extraction(),
    *_drift(),
)

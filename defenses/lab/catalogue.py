"""The experiments of `stockade lab run` by name. Those that need `serving` stand in gateway/tools/lab/catalogue.py.

Modules of attacks load when their experiment runs, so that listing them needs no extra.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

from defenses.lab.attack import Experiment, Lab, Trial

Run = Callable[[Lab, int], list[Trial]]

PLANS = {
    "square": "Square",
    "hop-skip-jump": "HopSkipJump (by ART)",
    "boundary": "Boundary (by ART)",
    "sign-opt": "SignOPT (by ART)",
    "zoo": "ZOO (by ART)",
    "nes": "NES",
    "fresh": "FRESH: independent blocks at the edge of the ball",
    "fresh-wide": "FRESH, asking outside the ball, at 0.16",
    "fresh-wider": "FRESH, asking outside the ball, at 0.25",
    "square-patches": "Square, each question behind two patches at new places",
    "fresh-patches": "FRESH, each question behind two patches at new places",
    "oars-nes": "NES under OARS, which sees where screens act",
    "oars-square": "Square under OARS, which sees where screens act",
    "oars-nes-leaks": "NES under OARS, with what leaks",
    "oars-nes-blocks-leaks": "NES in blocks under OARS, with what leaks",
    "oars-square-leaks": "Square under OARS, with what leaks",
    "square-sybils-one-tenant": "Square by 10 accounts of one tenant",
    "square-sybils-ten-tenants": "Square by 10 accounts of ten tenants",
    "fresh-sybils-one-tenant": "FRESH by 10 accounts of one tenant",
    "fresh-sybils-ten-tenants": "FRESH by 10 accounts of ten tenants",
    "square-between-50": "Square, every other question an innocent one",
    "square-between-90": "Square, nine of ten questions innocent",
}
"""Searches by asking, by name, and what they are."""

COMPARED = ("square", "fresh")
VARIANTS = ("steps", "consistent", "consistent-steps")


def later(module: str, function: str, *arguments: object) -> Run:
    """Return a run that imports `module` when it begins and calls `function(*arguments)` there for what to run."""

    def run(lab: Lab, seed: int) -> list[Trial]:
        made: Run = getattr(import_module(f"defenses.lab.{module}"), function)(*arguments)
        return made(lab, seed)

    return run


def direct(module: str, function: str) -> Run:
    """Return a run that is `function` of `module`, imported when it begins."""

    def run(lab: Lab, seed: int) -> list[Trial]:
        made: Run = getattr(import_module(f"defenses.lab.{module}"), function)
        return made(lab, seed)

    return run


def _whitebox(version: str, radius: float) -> list[Experiment]:
    where = f"whitebox/kiosk-{version}/eps-{radius}"
    target = ("kiosk", version, radius)
    return [
        Experiment(
            f"{where}/static",
            "evasion",
            f"PGD-40 within L-inf {radius} on the classifier of kiosk {version}; judged by its screens afterwards",
            later("evasion.whitebox_trials", "static_of", *target),
        ),
        Experiment(
            f"{where}/adaptive",
            "evasion",
            f"PGD within L-inf {radius} on the whole pipeline of kiosk {version}, screens in the loss, worst case",
            later("evasion.whitebox_trials", "adaptive_of", *target),
        ),
    ]


def _inference(version: str) -> list[Experiment]:
    target = ("kiosk", version)
    membership, inversion = f"membership/kiosk-{version}", f"inversion/kiosk-{version}"
    return [
        Experiment(
            f"{membership}/lira",
            "inference",
            f"LiRA: was a row among those kiosk {version} learned from, by shadow models",
            later("inference.membership_trials", "lira_of", *target),
        ),
        Experiment(
            f"{membership}/quantile",
            "inference",
            "the same by one regressor of scores, without shadow models",
            later("inference.membership_trials", "quantile_of", *target),
        ),
        Experiment(
            f"{membership}/label-only",
            "inference",
            "the same by labels alone: of the row, of noisy copies, of moved copies",
            later("inference.membership_trials", "label_only_of", *target),
        ),
        Experiment(
            f"{inversion}/miface",
            "inference",
            f"MIFace: images that kiosk {version} is sure of, made from nothing, with its weights",
            later("inference.inversion_trials", "miface_of", *target),
        ),
        Experiment(
            f"{inversion}/nes",
            "inference",
            "the same by answers alone, 10,000 of them for an image",
            later("inference.inversion_trials", "evolution_of", *target),
        ),
    ]


def _drift(version: str) -> Experiment:
    return Experiment(
        f"drift/kiosk-{version}",
        "availability",
        f"false alarms of the drift detectors of kiosk {version}, and how soon they see sudden and slow shifts",
        later("drift_trials", "drift_of", "kiosk", version),
    )


def _sponge(version: str) -> Experiment:
    return Experiment(
        f"sponge/kiosk-{version}",
        "availability",
        f"rows whose values could make kiosk {version} slow: processor time against benign rows",
        later("sponge_trials", "sponge_of", "kiosk", version),
    )


def _extraction(version: str) -> list[Experiment]:
    where = f"extraction/kiosk-{version}"
    thieves = {
        "natural/soft": "natural images, all that is told",
        "natural/label": "natural images, the class alone",
        "augmented/label": "150 natural images moved along the copy's slopes, the class alone",
        "foreign/soft": "handwritten digits, all that is told",
        "synthetic/soft": "images of random shapes, all that is told",
    }
    return [
        Experiment(
            f"{where}/first-day",
            "extraction",
            f"what one account gets of kiosk {version} on its first day, before it has to prove work",
            later("extraction.first_day", "first_day_of", "kiosk", version),
        ),
        *(
            Experiment(
                f"{where}/{thief}",
                "extraction",
                f"a copy of kiosk {version} from {what}; what it costs, on a clock of its own",
                later("extraction.theft", "theft_of", thief, "kiosk", version),
            )
            for thief, what in thieves.items()
        ),
        Experiment(
            f"{where}/ways",
            "extraction",
            f"ways to answer that should make copies of kiosk {version} dearer, and what they cost who is honest",
            later("extraction.ways", "ways_of", "kiosk", version),
        ),
    ]


def _queries(version: str) -> list[Experiment]:
    return [*_asking(version), *_in_turn(version), *_transfers(version), *_compared(version)]


def _asking(version: str) -> list[Experiment]:
    return [
        Experiment(
            f"query/kiosk-{version}/{name}",
            "evasion",
            f"{what} on kiosk {version} as the policy serves it",
            later("evasion.query_plans", "query_of", name, "kiosk", version),
        )
        for name, what in PLANS.items()
    ]


def _in_turn(version: str) -> list[Experiment]:
    return [
        Experiment(
            f"query/kiosk-{version}/{name}",
            "evasion",
            f"Square on kiosk {version} for {what}",
            later("evasion.query_plans", "in_turn_of", name, "kiosk", version),
            seeds=seeds,
        )
        for name, what, seeds in (
            ("square-rotating-1000", "1,000 images in turn, by one account", 3),
            ("square-rotating-3000", "3,000 images in turn, by one account", 1),
            ("square-drip", "6 images in turn between 98.5 % innocent questions, by one account", 3),
        )
    ]


def _transfers(version: str) -> list[Experiment]:
    return [
        Experiment(
            f"query/kiosk-{version}/transfer",
            "evasion",
            f"PGD-40 on a model of the attacker's own, kiosk 1; kiosk {version} is asked once an image",
            later("evasion.transfer", "transfer_of", "1", "kiosk", version),
        ),
        Experiment(
            f"query/kiosk-{version}/transfer-robust",
            "evasion",
            f"PGD-40 on a robust network that the attacker taught; kiosk {version} is asked once an image",
            later("evasion.transfer", "robust_transfer_of", "kiosk", version),
        ),
    ]


def _compared(version: str) -> list[Experiment]:
    """Return what is held against the policy: no screens at all, and other ways to watch."""
    return [
        *(
            Experiment(
                f"query/kiosk-{version}/{name}/robust",
                "evasion",
                f"{PLANS[name]} on kiosk {version} without screens: what the model alone withstands",
                later("evasion.query_plans", "query_of", name, "kiosk", version, False),
            )
            for name in COMPARED
        ),
        *(
            Experiment(
                f"query/kiosk-{version}/{name}/{variant}",
                "evasion",
                f"{PLANS[name]} on kiosk {version} with another watch: {variant}",
                later("evasion.query_plans", "query_of", name, "kiosk", version, True, variant),
            )
            for name in COMPARED
            for variant in VARIANTS
        ),
    ]


def _benign(version: str) -> list[Experiment]:
    habits = {
        "duplicates-0": "nothing asked twice",
        "duplicates-5": "5 % near duplicates in bursts",
        "duplicates-5-mixed": "5 % near duplicates, unlike those the watch was calibrated for",
        "duplicates-20": "20 % near duplicates, more than the watch was calibrated for",
    }
    return [
        Experiment(
            f"benign/kiosk-{version}/{habit}",
            "benign",
            f"1,000 innocent accounts of kiosk {version} with 1,000 questions each: {what}",
            later("benign_trials", "benign_of", habit, "kiosk", version),
        )
        for habit, what in habits.items()
    ]


_ALL = [
    Experiment(
        "whitebox/kiosk-1/eps-0.1/control",
        "evasion",
        "PGD-40 within L-inf 0.1 on kiosk 1 without screens: has to succeed",
        later("evasion.whitebox_trials", "control_of", "kiosk", "1", 0.1),
    ),
    *_whitebox("1", 0.1),
    *_whitebox("2", 0.1),
    *_whitebox("2", 0.2),
    Experiment(
        "membership/overfitted/lira",
        "inference",
        "LiRA against a network that was taught for long on few rows: has to succeed",
        direct("inference.membership_trials", "overfitted"),
    ),
    Experiment(
        "query/kiosk-1/square/control",
        "evasion",
        "Square on kiosk 1 without screens: has to succeed",
        later("evasion.query_plans", "query_of", "square", "kiosk", "1", False),
    ),
    *_queries("3"),
    *_benign("3"),
    *_inference("1"),
    *_inference("2"),
    *_extraction("3"),
    _drift("1"),
    _drift("2"),
    _sponge("1"),
    _sponge("2"),
]

EXPERIMENTS: Mapping[str, Experiment] = {experiment.name: experiment for experiment in _ALL}

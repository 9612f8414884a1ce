"""The experiments of `stockade lab` as data: one table, a row an experiment.

Rows of one method stand in a Group; a row is the end of a name, what it does, and the parameters of the method. METHODS
says where a method is, its family and its MITRE ATLAS technique. A method loads when its experiment runs, so that
listing them needs no extra. `kiosk-N` in a name is the model version that is attacked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from defenses.lab.attack import Experiment

METHODS: Final = {
    "control": ("defenses.lab.evasion.whitebox_trials:control", "evasion", "AML.T0015"),
    "static": ("defenses.lab.evasion.whitebox_trials:static", "evasion", "AML.T0015"),
    "adaptive": ("defenses.lab.evasion.whitebox_trials:adaptive", "evasion", "AML.T0015"),
    "asking": ("defenses.lab.evasion.query_trials:by_asking", "evasion", "AML.T0043.001"),
    "in turn": ("defenses.lab.evasion.query_trials:in_turn", "evasion", "AML.T0043.001"),
    "transfer": ("defenses.lab.evasion.query_trials:transfer", "evasion", "AML.T0043.002"),
    "benign": ("defenses.lab.benign:benign", "benign", ""),
    "overfitted": ("defenses.lab.inference.membership_trials:overfitted", "inference", "AML.T0024.000"),
    "lira": ("defenses.lab.inference.membership_trials:lira", "inference", "AML.T0024.000"),
    "quantile": ("defenses.lab.inference.membership_trials:quantile", "inference", "AML.T0024.000"),
    "label-only": ("defenses.lab.inference.membership_trials:label_only", "inference", "AML.T0024.000"),
    "miface": ("defenses.lab.inference.inversion:by_weights", "inference", "AML.T0024.001"),
    "nes": ("defenses.lab.inference.inversion:by_asking", "inference", "AML.T0024.001"),
    "first-day": ("defenses.lab.extraction.service:first_day", "extraction", "AML.T0024.002"),
    "theft": ("defenses.lab.extraction.theft:theft", "extraction", "AML.T0024.002"),
    "ways": ("defenses.lab.extraction.ways:ways", "extraction", "AML.T0024.002"),
    "drift": ("defenses.lab.drift:drift", "availability", "AML.T0031"),
    "sponge": ("defenses.lab.sponge:sponge", "availability", "AML.T0034"),
    "trigger": ("gateway.tools.lab.backdoors:trigger", "poisoning", "AML.T0018"),
    "inspection": ("gateway.tools.lab.backdoors:inspection", "poisoning", "AML.T0018"),
    "feedback": ("gateway.tools.lab.feedback:feedback", "poisoning", "AML.T0020"),
}
LONG, SHORT = {"budget": 5_000}, {"budget": 1_000}  # questions an image
SQUARE: Final = {"search": "square", "budget": 1_000}
BLACK_BOX: Final = "black box"
STATIC, ADAPTIVE = "static white box, PGD-40", "adaptive white box"
MEMBERS: Final = "black box, rows of the same pool"
POISONED: Final = "poisoned the training set"


class Group(NamedTuple):
    """Rows of one method: by the end of the name, what stands in the summary's place, and the parameters."""

    method: str
    name: str
    summary: str
    rows: Mapping[str, tuple[str, Mapping[str, Any]]]
    knowledge: str = BLACK_BOX


def _asking(rows: dict[str, tuple[str, dict[str, Any]]], knowledge: str = BLACK_BOX) -> Group:
    """Return searches by questions; a search is named as its row unless the row says another."""
    named = {name: (what, {"search": name, **parameters}) for name, (what, parameters) in rows.items()}
    return Group("asking", "query/kiosk-3/", "{} on kiosk 3 as the policy serves it", named, knowledge)


def _whitebox(version: str, radius: float) -> tuple[Group, Group]:
    name, bound = f"whitebox/kiosk-{version}/eps-{radius}/", {"radius": radius}
    of_classifier = f"{{}} the classifier of kiosk {version}; judged by its screens afterwards"
    of_pipeline = f"{{}} the whole pipeline of kiosk {version}, screens in the loss, worst case"
    return (
        Group("static", name, of_classifier, {"static": (f"PGD-40 within L-inf {radius} on", bound)}, STATIC),
        Group("adaptive", name, of_pipeline, {"adaptive": (f"PGD within L-inf {radius} on", bound)}, ADAPTIVE),
    )


def _inference(version: str) -> tuple[Group, ...]:
    member, inverse = f"membership/kiosk-{version}/", f"inversion/kiosk-{version}/"
    lira = f"LiRA: was a row among those kiosk {version} learned from, by shadow models"
    quantile = "the same by one regressor of scores, without shadow models"
    labels = "the same by labels alone: of the row, of noisy copies, of moved copies"
    miface = f"MIFace: images that kiosk {version} is sure of, made from nothing, with its weights"
    nes = "the same by answers alone, 10,000 of them for an image"
    return (
        Group("lira", member, "{}", {"lira": (lira, {})}, MEMBERS),
        Group("quantile", member, "{}", {"quantile": (quantile, {})}, MEMBERS),
        Group("label-only", member, "{}", {"label-only": (labels, {})}, MEMBERS),
        Group("miface", inverse, "{}", {"miface": (miface, {})}, "white box"),
        Group("nes", inverse, "{}", {"nes": (nes, {})}),
    )


def _backdoor(name: str, what: str) -> tuple[Group, Group]:
    found, let_in = f"{what}; what the trigger screen finds", f"{what}; is the model let in"
    parameters = {"backdoor": name}
    return (
        Group("trigger", f"backdoor/{name}/", "{}", {"trigger": (found, parameters)}, POISONED),
        Group("inspection", f"backdoor/{name}/", "{}", {"inspection": (let_in, parameters)}, POISONED),
    )


GROUPS: Final[tuple[Group, ...]] = (
    Group(
        "control",
        "whitebox/kiosk-1/eps-0.1/",
        "{} without screens: has to succeed",
        {"control": ("PGD-40 within L-inf 0.1 on kiosk 1", {"radius": 0.1})},
        STATIC,
    ),
    *_whitebox("1", 0.1),
    *_whitebox("2", 0.1),
    *_whitebox("2", 0.2),
    Group(
        "overfitted",
        "membership/overfitted/",
        "{} against a network that was taught for long on few rows: has to succeed",
        {"lira": ("LiRA", {})},
        MEMBERS,
    ),
    Group(
        "asking",
        "query/kiosk-1/square/",
        "{} on kiosk 1 without screens: has to succeed",
        {"control": ("Square", SQUARE | LONG | {"defended": False})},
    ),
    _asking(
        {
            "square": ("Square", LONG),
            "hop-skip-jump": ("HopSkipJump (by ART)", LONG),
            "boundary": ("Boundary (by ART)", LONG),
            "sign-opt": ("SignOPT (by ART)", LONG),
            "zoo": ("ZOO (by ART)", LONG),
            "fresh": ("FRESH: independent blocks at the edge of the ball", SHORT),
            "square-patches": ("Square, each question behind two patches at new places", SHORT),
            "fresh-patches": ("FRESH, each question behind two patches at new places", SHORT),
        }
    ),
    _asking(
        {
            "oars-nes": ("NES under OARS, which sees where screens act", SHORT | {"sees_actions": True}),
            "oars-square": ("Square under OARS, which sees where screens act", SHORT | {"sees_actions": True}),
        },
        "black box, sees actions",
    ),
    _asking(
        {
            "square-sybils-one-tenant": ("Square by 10 accounts of one tenant", SQUARE | {"accounts": 10}),
            "square-sybils-ten-tenants": (
                "Square by 10 accounts of ten tenants",
                SQUARE | {"accounts": 10, "tenants": 10},
            ),
            "square-between-50": ("Square, every other question an innocent one", SQUARE | {"innocent": 0.5}),
            "square-between-90": ("Square, nine of ten questions innocent", SQUARE | {"innocent": 0.9}),
        }
    ),
    Group(
        "in turn",
        "query/kiosk-3/",
        "Square on kiosk 3 for {}, by one account",
        {
            "square-rotating-1000": ("1,000 images in turn", SQUARE | {"images": 1_000, "budget": 150}),
            "square-rotating-3000": ("3,000 images in turn", SQUARE | {"images": 3_000, "budget": 100}),
            "square-drip": (
                "6 images in turn between 98.5 % innocent questions",
                SQUARE | {"images": 6, "budget": 150, "groups": 3, "innocent": 0.985},
            ),
        },
    ),
    Group(
        "transfer",
        "query/kiosk-3/",
        "PGD-40 on a {}; kiosk 3 is asked once an image",
        {
            "transfer": ("model of the attacker's own, kiosk 1", {"own": "1"}),
            "transfer-robust": ("robust network that the attacker taught", {"own": None}),
        },
        "black box, a model of its own",
    ),
    Group(
        "benign",
        "benign/kiosk-3/",
        "1,000 innocent accounts of kiosk 3 with 1,000 questions each: {}",
        {
            "duplicates-0": ("nothing asked twice", {"duplicates": 0.0}),
            "duplicates-5": ("5 % near duplicates in bursts", {"duplicates": 0.05}),
            "duplicates-5-mixed": (
                "5 % near duplicates, unlike those the watch was calibrated for",
                {"duplicates": 0.05, "burst_mean": 5.0, "mixed": True},
            ),
            "duplicates-20": (
                "20 % near duplicates, more than the watch was calibrated for",
                {"duplicates": 0.20},
            ),
        },
        "innocent",
    ),
    *_inference("1"),
    *_inference("2"),
    Group(
        "first-day",
        "extraction/kiosk-3/",
        "what one account gets of {}, before it has to prove work",
        {"first-day": ("kiosk 3 on its first day", {})},
    ),
    Group(
        "theft",
        "extraction/kiosk-3/",
        "a copy of kiosk 3 from {}; what it costs, on a clock of its own",
        {
            "natural/soft": ("natural images, all that is told", {"source": "natural"}),
            "natural/label": ("natural images, the class alone", {"source": "natural", "labels_only": True}),
            "augmented/label": (
                "150 natural images moved along the copy's slopes, the class alone",
                {"source": "augmented", "labels_only": True},
            ),
            "foreign/soft": ("handwritten digits, all that is told", {"source": "foreign"}),
            "synthetic/soft": ("images of random shapes, all that is told", {"source": "synthetic"}),
        },
    ),
    Group(
        "ways",
        "extraction/kiosk-3/",
        "ways to answer that should make copies of {}, and what they cost who is honest",
        {"ways": ("kiosk 3 dearer", {})},
    ),
    Group(
        "drift",
        "drift/",
        "false alarms of the drift detectors of {}, and how soon they see sudden and slow shifts",
        {"kiosk-1": ("kiosk 1", {}), "kiosk-2": ("kiosk 2", {})},
        "none: the world changes",
    ),
    Group(
        "sponge",
        "sponge/",
        "rows whose values could make {} slow: processor time against benign rows",
        {"kiosk-1": ("kiosk 1", {}), "kiosk-2": ("kiosk 2", {})},
        "static",
    ),
    *_backdoor("badnets", "a 3 x 3 patch in 5 % of the training rows (BadNets)"),
    *_backdoor("blend", "a pattern blended at 20 % into 5 % of the training rows (Chen et al.)"),
    *_backdoor("wanet", "a warp by half a pixel on average in 10 % of the training rows (WaNet)"),
    *_backdoor("adap-blend", "halves of a faint pattern, with regularising rows (Adap-Blend)"),
    Group(
        "inspection",
        "backdoor/none/",
        "{}; is it refused",
        {"inspection": ("a clean model", {"backdoor": None})},
        "no attack",
    ),
    Group(
        "feedback",
        "feedback/",
        "{}",
        {
            "none": (
                "kiosk 2 learns from labels in which nobody lies: what the gate costs, and what labels are worth",
                {"liars": "none"},
            ),
            "flips": (
                "a tenth of the principals label every row as the next class, as often as the honest do",
                {"liars": "flips"},
            ),
            "flood": ("the same, ten times as often: what an update without caps falls to", {"liars": "flood"}),
        },
        "static",
    ),
    Group(
        "feedback",
        "feedback/",
        "{}",
        {
            "plausible": (
                "they know rows, thresholds and caps, and say what passes and moves the head most",
                {"liars": "plausible"},
            ),
            "pair": ("the same, all for one confusion", {"liars": "pair"}),
        },
        ADAPTIVE,
    ),
)
SEEDS: Final = {"query/kiosk-3/square-rotating-3000": 1}
"""How many seeds a full run takes where it is not three."""
VERSIONS: Final = {"feedback": "2"}
"""Of methods whose experiments do not name the model version."""


def catalogue() -> dict[str, Experiment]:
    """Return every experiment by name."""
    found = (_experiment(group, end) for group in GROUPS for end in group.rows)
    return {one.name: one for one in found}


def _experiment(group: Group, end: str) -> Experiment:
    name, (what, parameters) = f"{group.name}{end}", group.rows[end]
    method, family, technique = METHODS[group.method]
    version = re.search(r"/kiosk-(\d+)", name)
    return Experiment(
        name,
        family,
        group.summary.format(what),
        method,
        parameters,
        technique=technique,
        knowledge=group.knowledge,
        version=version[1] if version else VERSIONS.get(group.method, "1"),
        attack=re.sub(r"(?<=eps-...)/(static|adaptive)$|/control$", "", name),
        seeds=SEEDS.get(name, 3),
    )

"""Thefts of a model: ask, train a copy, see how often the copy says what the victim says, and what that has cost.

A thief is a source of queries and what he reads of the answers (all that is told, or the class alone). He asks in order
and trains a copy from nothing at each mark, so one theft is one curve of agreement against answers.

What it costs, defended (S1 refuses, answers are hardened, the query budget counts) and not:
    answers        rows answered
    account-days   their price in days' allowances: with one account so many days, with so many accounts about one
    accounts       that have to be opened, at least, to be done within a day and stay within full answers; an account's
                   first day holds two allowances (what it starts with, and what comes in)
Undefended one account is done within a day: at the rates that policies allow, a model is stolen in minutes. So the
ratio of cost is answers needed over answers needed without the defence, and beside it the accounts; both are said,
since against a thief who asks natural images for their class alone only the second moves.

Where queries come from; rows are float32 (n, side, side) in [0, 1] and come from the generator alone:
- natural: images from where the victim's own came from, without their labels. The strongest thief: nothing about his
  queries is strange (in-distribution theft; nothing but rates and accounts stands in his way).
- foreign: real images of something else (handwritten digits from scikit-learn, moved, scaled and in other contrasts),
  as Knockoff Nets ask ("Knockoff Nets", Orekondy, Schiele, Fritz, CVPR 2019, arXiv 1812.02766).
- synthetic: dead leaves, overlapping ellipses and rectangles of random greys, for a thief without any images (Baradad
  et al., "Learning to See by Looking at Noise", NeurIPS 2021, section 3).
- augmented: a few natural images, then steps from them along the signs of the copy's own slopes (Jacobian-based
  augmentation; Papernot et al., "Practical Black-Box Attacks", Asia CCS 2017, section 4.2). Made round by round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from defenses.lab.attack import Finding, Run, Split
from defenses.lab.extraction.service import Bill, Defence, Service, open_defence
from defenses.lab.extraction.surrogate import Recipe, agreement, slopes_of, train_copy

Images = NDArray[np.float32]

HELD_OUT_ROWS: Final = 2_000
MARKS: Final = (100, 300, 1_000, 3_000)
SEED_ROWS: Final = 150  # natural images that the augmenting thief begins with
STEP: Final = 0.1  # of a pixel, that he moves them by
CHUNK_ROWS: Final = 256
TARGETS: Final = (0.60, 0.70, 0.80, 0.85, 0.90, 0.95)
FIRST_DAY: Final = 2.0  # allowances that an account's first day holds
BLANKS_MAX: Final = 50  # times as many as he needs, before a thief whose rows are refused gives up
FOREIGN_SOURCE: Final = "UCI Optical Recognition of Handwritten Digits (CC BY 4.0), from scikit-learn"
LEAVES: Final = (3, 12)
DIGIT_LEVEL_MAX: Final = 16.0


def foreign(count: int, side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw handwritten digits, each in a size, place, contrast and ground of its own."""
    import sklearn.datasets  # noqa: PLC0415  it comes with ART, and takes a second

    digits = sklearn.datasets.load_digits().images / DIGIT_LEVEL_MAX
    rows = np.empty((count, side, side), np.float32)
    rows[:] = 0.0
    for row in rows:
        digit = digits[rng.integers(len(digits))]
        size = int(rng.integers(side // 2, side + 1))
        places = np.linspace(0.0, digit.shape[0] - 1.0, size)
        down, right = rng.integers(0, side - size + 1, 2)
        row[down : down + size, right : right + size] = _enlarged(digit, places) * rng.uniform(0.5, 1.0)
        if rng.random() < 0.25:
            np.subtract(1.0, row, out=row)
    return rows


def synthetic(count: int, side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw dead leaves: a dark or grey ground, and on it ellipses and rectangles that hide each other."""
    down, right = np.mgrid[0:side, 0:side].astype(np.float32)
    rows = np.empty((count, side, side), np.float32)
    for row in rows:
        row[:] = rng.uniform(0.0, 1.0) if rng.random() < 0.3 else 0.0
        for _ in range(rng.integers(*LEAVES)):
            y, x = rng.uniform(0.0, side, 2)
            height, width = rng.uniform(1.0, side / 2.5, 2)
            away = np.abs((down - y) / height), np.abs((right - x) / width)
            inside = np.hypot(*away) < 1.0 if rng.random() < 0.5 else np.maximum(*away) < 1.0
            row[inside] = rng.uniform(0.0, 1.0)
        noise = rng.normal(0.0, rng.uniform(0.0, 0.05), row.shape)
        np.clip(row + noise, 0.0, 1.0, out=row)
    return rows


def _enlarged(image: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Read a square image between its pixels, at `places` along both axes."""
    grid = np.arange(len(image))
    down = np.array([np.interp(places, grid, column) for column in image.T])
    across = np.array([np.interp(places, grid, line) for line in down.T])
    return np.asarray(np.clip(across, 0.0, 1.0))


DRAWN: Final = {"foreign": foreign, "synthetic": synthetic}


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a theft stood after so many answers: rows of the held-out images on which the copy agrees, and the bill."""

    answers: int
    agreed: int
    bill: Bill
    days: float


def steal(
    run: Run, source: str, defence: Defence | None, *, labels_only: bool = False, marks: Sequence[int], recipe: Recipe
) -> list[Mark]:
    """Carry out one theft; one mark for each of `marks` (ascending), fewer where the rows are all refused."""
    model = run.victim()
    held_out = run.rows(Split.TEST, HELD_OUT_ROWS).rows
    victim = np.asarray(model.outputs(held_out)["probabilities"]).argmax(axis=1).astype(np.int64)
    service = Service(model, defence)
    rng = np.random.default_rng([run.seed, 0x7EF])
    rows, targets = np.empty((0, *held_out.shape[1:]), np.float32), np.empty((0, model.classes), np.float32)
    found: list[Mark] = []
    copy = None
    draw = _source(run, source, marks[-1], rng)
    for mark in marks:
        while len(rows) < mark and service.bill.asked < BLANKS_MAX * mark:
            wanted = min(CHUNK_ROWS, mark - len(rows))
            asked = draw(wanted)
            if source == "augmented":
                asked = _moved(asked, rng) if copy is None else _augmented(copy, rows, targets, wanted, rng)
            answers = service.ask(asked)
            told = answers.probabilities[answers.answered]
            rows = np.concatenate([rows, asked[answers.answered]])
            targets = np.concatenate([targets, _class_alone(told) if labels_only else told])
        if len(rows) < mark:
            break
        copy = train_copy(rows, targets, recipe, seed=run.seed)
        found.append(Mark(mark, agreement(copy, held_out, victim), replace(service.bill), service.waited_days))
        run.tell(len(found), len(marks))
    return found


def reached(points: Sequence[tuple[float, float]], target: float) -> float | None:
    """Return where a rising curve of (cost, agreement) reaches a target: on a line in the logarithm of the cost.

    None where it does not.
    """
    for (before, low), (after, high) in pairwise(points):
        if low < target <= high:
            share = (target - low) / (high - low)
            return math.exp(math.log(before) + share * (math.log(after) - math.log(before)))
    return points[0][0] if points and points[0][1] >= target else None


def theft(run: Run, *, source: str, labels_only: bool = False) -> list[Finding]:
    """Steal a model, undefended and defended. `labels_only`: the thief reads the class alone."""
    marks, recipe = ((100, 300), Recipe(steps=40)) if run.smoke else (MARKS, Recipe())
    defence = open_defence(run)
    open_door, guarded = (
        steal(run, source, each, labels_only=labels_only, marks=marks, recipe=recipe) for each in (None, defence)
    )
    settings = {
        "source": source,
        "labels_only": labels_only,
        "until": "full",
        "success": "images on which the copy agrees after the last mark",
        "steps": recipe.steps,
        "units_per_day": round(defence.budget.units, 1),
        "seed_rows": SEED_ROWS,
    }
    return [
        Finding(
            HELD_OUT_ROWS,
            found[-1].agreed if found else 0,
            _costs(found) | (_ratios(open_door, guarded) if defended else {}),
            settings,
            {"agreement": _curve(found)},
            defended=defended,
        )
        for found, defended in ((open_door, False), (guarded, True))
    ]


def _costs(found: Sequence[Mark]) -> dict[str, float]:
    if not found:
        return {"answers": 0.0}
    last = found[-1]
    costs = {
        "answers": float(last.answers),
        "asked": float(last.bill.asked),
        "refused_share": last.bill.refused / max(1, last.bill.asked),
        "price_units_per_answer": last.bill.price_units / last.answers,
        "account_days": last.bill.account_days,
        "accounts_within_a_day": float(math.ceil(last.bill.account_days / FIRST_DAY)),
        "days_with_one_account": last.days,
        "proof_hashes": 0.0,  # none is wanted within full answers
    }
    for target in TARGETS:
        answers = reached(_curve(found), target)
        if answers is not None:
            costs[f"answers_to_{round(target * 100)}_percent"] = answers
    return costs


def _ratios(open_door: Sequence[Mark], guarded: Sequence[Mark]) -> dict[str, float]:
    """How many times the answers, and how many account-days and accounts, each target costs that both reach."""
    ratios = {}
    days = [(max(mark.bill.account_days, 1e-9), mark.agreed / HELD_OUT_ROWS) for mark in guarded]
    for target in TARGETS:
        without, with_it, cost = (
            reached(_curve(open_door), target),
            reached(_curve(guarded), target),
            reached(days, target),
        )
        if without is not None and with_it is not None and cost is not None:
            percent = round(target * 100)
            ratios[f"answers_ratio_at_{percent}_percent"] = with_it / without
            ratios[f"account_days_to_{percent}_percent"] = cost
            ratios[f"accounts_within_a_day_at_{percent}_percent"] = float(math.ceil(cost / FIRST_DAY))
    return ratios


def _curve(found: Sequence[Mark]) -> list[tuple[float, float]]:
    return [(float(mark.answers), mark.agreed / HELD_OUT_ROWS) for mark in found]


def _source(run: Run, source: str, count: int, rng: np.random.Generator) -> Callable[[int], Images]:
    """Return what draws the next rows of a source; of natural ones there are `count` and a tenth."""
    if source in DRAWN:
        side = run.rows(Split.TEST, 1).rows.shape[1]
        return lambda wanted: DRAWN[source](wanted, side, rng)
    if source == "augmented":
        few = run.rows(Split.TRAIN, SEED_ROWS).rows
        return lambda wanted: few[rng.integers(0, len(few), wanted)]
    known = iter(run.rows(Split.TRAIN, count + count // 10).rows)
    return lambda wanted: np.stack([next(known) for _ in range(wanted)])


def _moved(rows: Images, rng: np.random.Generator) -> Images:
    """Move each image by a pixel or two: what the augmenting thief does before he has a copy."""
    moves = rng.integers(-2, 3, (len(rows), 2)).tolist()
    return np.stack([np.roll(row, move, (0, 1)) for row, move in zip(rows, moves, strict=True)])


def _augmented(
    copy: nn.Module, asked: Images, targets: NDArray[np.float32], wanted: int, rng: np.random.Generator
) -> Images:
    """Move earlier queries along the signs of the copy's slopes for the classes that were answered."""
    chosen = rng.integers(0, len(asked), wanted)
    slopes = slopes_of(copy, asked[chosen], targets[chosen].argmax(axis=1))
    ways = rng.choice(np.array([-1.0, 1.0], np.float32), (wanted, 1, 1))
    return np.asarray(np.clip(asked[chosen] + np.float32(STEP) * ways * slopes, 0.0, 1.0), np.float32)


def _class_alone(told: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.eye(told.shape[1])[told.argmax(axis=1)], np.float32)

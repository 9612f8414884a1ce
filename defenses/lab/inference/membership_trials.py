"""Membership measured: the kiosk as it answers, without hardening, and an overfitted control that has to leak.

Members are rows the weights were learned from, others rows of the same pool that no weight ever saw. A trial counts the
members whose score exceeds that of all but one in a thousand of the others; area and rate at one in a hundred stand in
its metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.budget.hardening import HardeningRule, harden
from defenses.budget.intervals import clopper_pearson
from defenses.lab.attack import ROWS_PER_ASK_MAX, Answers, Lab, Oracle, Refused, Sample, Size, Split, Trial
from defenses.lab.inference.membership import (
    confidence_of_answers,
    confidence_of_logits,
    likelihood_ratio,
    quantile_score,
    steadiness,
    told,
)
from defenses.lab.inference.shadow import ShadowRecipe, logits_of, train_regressor, train_shadow
from defenses.lab.inference.shadows import Shadows, mirrored, plan_of, shadows_of, under_attack

FAMILY: Final = "inference"
TECHNIQUE: Final = "AML.T0024.000"
RATE: Final = 0.001
RATES: Final = (0.001, 0.01)
HARDENED: Final = HardeningRule(top_k=3, temperature=1.0, decimals=3)
COPIES: Final = 100
LABEL_ROWS = {Size.SMOKE: 10, Size.FULL: 250}
NOISE: Final = (0.05, 0.1, 0.2, 0.3)
PUBLIC_ROWS = {Size.SMOKE: 200, Size.FULL: 10_000}
REGRESSOR = {
    Size.SMOKE: ShadowRecipe(epochs=1, batch_rows=64, rate_max=0.004),
    Size.FULL: ShadowRecipe(epochs=15, rate_max=0.004),
}

Run = Callable[[Lab, int], list[Trial]]


def lira_of(model: str, version: str) -> Run:
    """LiRA by the probabilities that are answered to a row and to its mirror image: two queries a row."""

    def run(lab: Lab, seed: int) -> list[Trial]:
        plan = plan_of(lab.size)
        under = under_attack(lab, model, plan)
        shadows = shadows_of(lab, model, lab.model(model, version).classes, plan, under)
        part = under.of_seed(seed, plan)
        rows, labels, members = under.sample.rows[part], under.sample.labels[part], under.members[part]
        settings = {**asdict(plan), "views": 2, "variant": "online, one variance for all rows"}
        found = []
        for defended in (True, False):
            with lab.oracle(model, version, defended=defended) as oracle:
                answers = [ask_all(oracle, view) for view in (rows, mirrored(rows))]
            target = np.stack([confidence_of_answers(each.probabilities, labels) for each in answers], axis=1)
            scores = likelihood_ratio(target, _said(shadows, part, labels, defended), shadows.learned[:, part])
            name = f"membership/{model}-{version}/lira"
            found.append(trial_of(name, scores, members, seed=seed, defended=defended, settings=settings))
        return found

    return run


def _said(shadows: Shadows, part: slice, labels: NDArray[np.int64], defended: bool) -> NDArray[np.float64]:
    """The shadow models' phi (models, n, views), of answers in the same form as the target's."""
    logits = shadows.logits[:, :, part].astype(np.float64)
    likely = np.exp(logits - logits.max(axis=-1, keepdims=True))
    likely = (likely / likely.sum(axis=-1, keepdims=True)).astype(np.float32)
    if defended:
        likely = harden(likely.reshape(-1, likely.shape[-1]), HARDENED).reshape(likely.shape)
    found = [[confidence_of_answers(view, labels) for view in model] for model in likely]
    return np.moveaxis(np.array(found), 1, 2)


def quantile_of(model: str, version: str) -> Run:
    """Quantile regression: what phi rows have that were not learned from, by a regressor taught on test images."""

    def run(lab: Lab, seed: int) -> list[Trial]:
        plan = plan_of(lab.size)
        under = under_attack(lab, model, plan)
        part = under.of_seed(seed, plan)
        rows, labels, members = under.sample.rows[part], under.sample.labels[part], under.members[part]
        public = lab.rows(model, Split.TEST, PUBLIC_ROWS[lab.size], 0)
        recipe = REGRESSOR[lab.size]
        settings = {"public_rows": len(public.labels), "queries": 1, **asdict(recipe)}
        found = []
        for defended in (True, False):
            with lab.oracle(model, version, defended=defended) as oracle:
                theirs, ours = ask_all(oracle, public.rows), ask_all(oracle, rows)
            taught = confidence_of_answers(theirs.probabilities, public.labels)
            net = train_regressor(public.rows, taught, recipe, seed=seed)
            phi = confidence_of_answers(ours.probabilities, labels)
            scores = quantile_score(phi, logits_of(net, rows))
            name = f"membership/{model}-{version}/quantile"
            found.append(trial_of(name, scores, members, seed=seed, defended=defended, settings=settings))
        return found

    return run


def label_only_of(model: str, version: str) -> Run:
    """Labels alone: is the row answered rightly (the gap), and how many of its noisy or moved copies are."""

    def run(lab: Lab, seed: int) -> list[Trial]:
        rng = np.random.default_rng([seed, 0x1AB])
        count = LABEL_ROWS[lab.size]
        drawn = [lab.rows(model, split, count, seed) for split in (Split.TRAIN, Split.CALIBRATE)]
        sample = Sample(*(np.concatenate([getattr(each, name) for each in drawn]) for name in ("rows", "labels")))
        members = np.arange(2 * count) < count
        found = []
        for defended in (True, False):
            with lab.oracle(model, version, defended=defended) as oracle:
                gap = steadiness(ask_all(oracle, sample.rows), sample.labels)
                noisy = np.zeros(2 * count)
                for noise in NOISE:
                    copies = _copies(sample.rows, noise, rng)
                    noisy += steadiness(ask_all(oracle, copies), sample.labels)
                shifted = steadiness(ask_all(oracle, _moved(sample.rows)), sample.labels)
            for kind, scores, queries in (
                ("gap", gap, 1),
                ("noise", gap + noisy, 1 + COPIES * len(NOISE)),
                ("moved", gap + shifted, 1 + len(_STEPS)),
            ):
                name = f"membership/{model}-{version}/label-only/{kind}"
                settings = {"queries": queries, "noise": NOISE}
                found.append(trial_of(name, scores, members, seed=seed, defended=defended, settings=settings))
        return found

    return run


_STEPS: Final = [(down, right, flip) for down in (-2, 0, 2) for right in (-2, 0, 2) for flip in (False, True)]


def _copies(rows: NDArray[np.float32], noise: float, rng: np.random.Generator) -> NDArray[np.float32]:
    copies = np.repeat(rows, COPIES, axis=0)
    return np.asarray(np.clip(copies + rng.normal(0, noise, copies.shape), 0, 1), np.float32)


def _moved(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each row moved and mirrored in every way of _STEPS, one behind the other."""
    high, wide = rows.shape[1:]
    padded = np.pad(rows, ((0, 0), (2, 2), (2, 2)))
    ways = [padded[:, 2 + down : 2 + down + high, 2 + right : 2 + right + wide] for down, right, _ in _STEPS]
    ways = [way[:, :, ::-1] if flip else way for way, (_, _, flip) in zip(ways, _STEPS, strict=True)]
    return np.ascontiguousarray(np.stack(ways, axis=1).reshape(-1, high, wide))


def overfitted(lab: Lab, seed: int) -> list[Trial]:
    """The control: a network taught for long on few rows as they are. LiRA has to find its members."""
    rows, models, epochs = (150, 3, 25) if lab.size is Size.SMOKE else (500, 6, 40)
    recipe = ShadowRecipe(epochs=epochs, batch_rows=64, rate_max=0.004, weight_decay=0.0, moved=False)
    sample = lab.rows("kiosk", Split.TRAIN, 2 * rows, seed)
    classes = int(sample.labels.max()) + 1
    phi, learned = [], []
    for number in range(models + 1):
        lab.tell("overfitted networks", number, models + 1)
        drawn = np.random.default_rng([seed, number, 0x0F]).permutation(2 * rows) < rows
        net = train_shadow(sample.rows[drawn], sample.labels[drawn], classes, recipe, seed=number)
        phi.append(confidence_of_logits(logits_of(net, sample.rows), sample.labels)[:, None])
        learned.append(drawn)
    scores = likelihood_ratio(phi[0], np.stack(phi[1:]), np.stack(learned[1:]))
    settings = {"rows": rows, "models": models, **asdict(recipe)}
    name = "membership/overfitted/lira"
    return [trial_of(name, scores, learned[0], seed=seed, defended=False, settings=settings)]


def ask_all(oracle: Oracle, rows: NDArray[np.float32]) -> Answers:
    """Ask for rows in calls of the largest size; a call of which nothing is answered counts as not answered."""
    parts = []
    for begin in range(0, len(rows), ROWS_PER_ASK_MAX):
        part = rows[begin : begin + ROWS_PER_ASK_MAX]
        try:
            parts.append(oracle.ask(part))
        except Refused:
            parts.append(Answers(np.full((len(part), 1), np.nan, np.float32), *_nothing(len(part))))
    width = max(part.probabilities.shape[1] for part in parts)
    wide = [np.broadcast_to(part.probabilities, (len(part.labels), width)) for part in parts]
    return Answers(
        np.concatenate(wide),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.answered for part in parts]),
    )


def _nothing(rows: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    return np.full(rows, -1, np.int64), np.zeros(rows, np.bool_)


def trial_of(
    name: str,
    scores: NDArray[np.float64],
    members: NDArray[np.bool_],
    *,
    seed: int,
    defended: bool,
    settings: Mapping[str, object],
) -> Trial:
    """Return the line of the scorecard for scores (n,) of rows of which `members` (n,) were learned from."""
    found = told(scores[members], scores[~members], RATES)
    metrics = {"auc": found.auc, "auc_low": found.auc_low, "auc_high": found.auc_high, "others": float(found.others)}
    for rate, caught in found.caught.items():
        interval = clopper_pearson(caught, found.members)
        word = f"tpr_at_{rate * 100:g}_percent"
        metrics |= {word: caught / found.members, f"{word}_low": interval.low, f"{word}_high": interval.high}
    return Trial(
        attack=name,
        family=FAMILY,
        technique=TECHNIQUE,
        knowledge="black box, rows of the same pool",
        defended=defended,
        seed=seed,
        samples=found.members,
        successes=found.caught[RATE],
        metrics=metrics,
        settings={**settings, "success": f"a member above all but {RATE} of the others"},
        curves={"roc": found.curve},
    )

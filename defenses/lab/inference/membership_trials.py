"""Membership measured: the kiosk as it answers, without hardening, and an overfitted control that has to leak.

Members are rows the weights were learned from, others rows of the same pool that no weight ever saw. A trial counts the
members whose score exceeds that of all but one in a thousand of the others; area and rate at one in a hundred stand in
its metrics.

LiRA's shadow models learn from half of the rows under attack, drawn for each anew, and from rows under no attack to
fill up, so nearly every row has models that learned from it and models that did not. Logits are kept on disk, not
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from defenses.budget.hardening import HardeningRule, harden
from defenses.budget.intervals import clopper_pearson
from defenses.lab.attack import ROWS_PER_ASK_MAX, Answers, Finding, Oracle, Refused, Run, Sample, Size, Split
from defenses.lab.inference.membership import (
    confidence_of_answers,
    confidence_of_logits,
    likelihood_ratio,
    quantile_score,
    steadiness,
    told,
)
from defenses.lab.inference.shadow import ShadowRecipe, logits_of, train_regressor, train_shadow

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

STEPS: Final = [(down, right, flip) for down in (-2, 0, 2) for right in (-2, 0, 2) for flip in (False, True)]


@dataclass(frozen=True, slots=True)
class Plan:
    """How many rows of either kind a seed attacks, how many models learn, on how many further rows."""

    rows: int
    seeds: int
    models: int
    filling: int
    recipe: ShadowRecipe = field(default_factory=ShadowRecipe)


FULL = Plan(rows=3_000, seeds=3, models=6, filling=15_000)
SMOKE = Plan(rows=150, seeds=1, models=2, filling=200, recipe=ShadowRecipe(epochs=1, batch_rows=64))


@dataclass(frozen=True, slots=True, eq=False)
class Under:
    """The rows under attack, seed by seed: first the members of a seed, then its others."""

    sample: Sample
    members: NDArray[np.bool_]

    def of_seed(self, seed: int, plan: Plan) -> slice:
        """Return the rows of a seed; seeds beyond those of the plan begin anew."""
        begin = 2 * plan.rows * (seed % plan.seeds)
        return slice(begin, begin + 2 * plan.rows)


@dataclass(frozen=True, slots=True, eq=False)
class Shadows:
    """`logits` float32 (models, views, n, classes), views the row and its mirror image; `learned` bool (models, n)."""

    logits: NDArray[np.float32]
    learned: NDArray[np.bool_]


def lira(run: Run) -> list[Finding]:
    """LiRA by the probabilities that are answered to a row and to its mirror image: two queries a row."""
    plan = SMOKE if run.smoke else FULL
    under = under_attack(run, plan)
    shadows = shadows_of(run, plan, under)
    part = under.of_seed(run.seed, plan)
    rows, labels, members = under.sample.rows[part], under.sample.labels[part], under.members[part]
    settings = {**asdict(plan), "views": 2, "variant": "online, one variance for all rows"}
    found = []
    for defended in (True, False):
        with run.oracle(defended=defended) as oracle:
            answers = [ask_all(oracle, view) for view in (rows, mirrored(rows))]
        target = np.stack([confidence_of_answers(each.probabilities, labels) for each in answers], axis=1)
        scores = likelihood_ratio(target, _said(shadows, part, labels, defended), shadows.learned[:, part])
        found.append(_finding(scores, members, settings, defended=defended))
    return found


def _said(shadows: Shadows, part: slice, labels: NDArray[np.int64], defended: bool) -> NDArray[np.float64]:
    """The shadow models' phi (models, n, views), of answers in the same form as the target's."""
    logits = shadows.logits[:, :, part].astype(np.float64)
    likely = np.exp(logits - logits.max(axis=-1, keepdims=True))
    likely = (likely / likely.sum(axis=-1, keepdims=True)).astype(np.float32)
    if defended:
        likely = harden(likely.reshape(-1, likely.shape[-1]), HARDENED).reshape(likely.shape)
    found = [[confidence_of_answers(view, labels) for view in model] for model in likely]
    return np.moveaxis(np.array(found), 1, 2)


def quantile(run: Run) -> list[Finding]:
    """Quantile regression: what phi rows have that were not learned from, by a regressor taught on test images."""
    plan, recipe = SMOKE if run.smoke else FULL, REGRESSOR[run.lab.size]
    under = under_attack(run, plan)
    part = under.of_seed(run.seed, plan)
    rows, labels, members = under.sample.rows[part], under.sample.labels[part], under.members[part]
    public = run.rows(Split.TEST, PUBLIC_ROWS[run.lab.size], 0)
    settings = {"public_rows": len(public.labels), "queries": 1, **asdict(recipe)}
    found = []
    for defended in (True, False):
        with run.oracle(defended=defended) as oracle:
            theirs, ours = ask_all(oracle, public.rows), ask_all(oracle, rows)
        taught = confidence_of_answers(theirs.probabilities, public.labels)
        net = train_regressor(public.rows, taught, recipe, seed=run.seed)
        phi = confidence_of_answers(ours.probabilities, labels)
        found.append(_finding(quantile_score(phi, logits_of(net, rows)), members, settings, defended=defended))
    return found


def label_only(run: Run) -> list[Finding]:
    """Labels alone: is the row answered rightly (the gap), and how many of its noisy or moved copies are."""
    rng = np.random.default_rng([run.seed, 0x1AB])
    count = LABEL_ROWS[run.lab.size]
    drawn = [run.rows(split, count) for split in (Split.TRAIN, Split.CALIBRATE)]
    sample = Sample(*(np.concatenate([getattr(each, name) for each in drawn]) for name in ("rows", "labels")))
    members = np.arange(2 * count) < count
    found = []
    for defended in (True, False):
        with run.oracle(defended=defended) as oracle:
            gap = steadiness(ask_all(oracle, sample.rows), sample.labels)
            noisy = np.zeros(2 * count)
            for noise in NOISE:
                noisy += steadiness(ask_all(oracle, _copies(sample.rows, noise, rng)), sample.labels)
            shifted = steadiness(ask_all(oracle, _moved(sample.rows)), sample.labels)
        for kind, scores, queries in (
            ("gap", gap, 1),
            ("noise", gap + noisy, 1 + COPIES * len(NOISE)),
            ("moved", gap + shifted, 1 + len(STEPS)),
        ):
            found.append(_finding(scores, members, {"queries": queries, "noise": NOISE}, defended=defended, part=kind))
    return found


def _copies(rows: NDArray[np.float32], noise: float, rng: np.random.Generator) -> NDArray[np.float32]:
    copies = np.repeat(rows, COPIES, axis=0)
    return np.asarray(np.clip(copies + rng.normal(0, noise, copies.shape), 0, 1), np.float32)


def _moved(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each row moved and mirrored in every way of STEPS, one behind the other."""
    high, wide = rows.shape[1:]
    padded = np.pad(rows, ((0, 0), (2, 2), (2, 2)))
    ways = [padded[:, 2 + down : 2 + down + high, 2 + right : 2 + right + wide] for down, right, _ in STEPS]
    ways = [way[:, :, ::-1] if flip else way for way, (_, _, flip) in zip(ways, STEPS, strict=True)]
    return np.ascontiguousarray(np.stack(ways, axis=1).reshape(-1, high, wide))


def overfitted(run: Run) -> list[Finding]:
    """The control: a network taught for long on few rows as they are. LiRA has to find its members."""
    rows, models, epochs = (150, 3, 25) if run.smoke else (500, 6, 40)
    recipe = ShadowRecipe(epochs=epochs, batch_rows=64, rate_max=0.004, weight_decay=0.0, moved=False)
    sample = run.rows(Split.TRAIN, 2 * rows)
    classes = int(sample.labels.max()) + 1
    phi, learned = [], []
    for number in range(models + 1):
        run.tell(number, models + 1)
        drawn = np.random.default_rng([run.seed, number, 0x0F]).permutation(2 * rows) < rows
        net = train_shadow(sample.rows[drawn], sample.labels[drawn], classes, recipe, seed=number)
        phi.append(confidence_of_logits(logits_of(net, sample.rows), sample.labels)[:, None])
        learned.append(drawn)
    scores = likelihood_ratio(phi[0], np.stack(phi[1:]), np.stack(learned[1:]))
    settings = {"rows": rows, "models": models, **asdict(recipe)}
    return [_finding(scores, learned[0], settings, defended=False)]


def ask_all(oracle: Oracle, rows: NDArray[np.float32]) -> Answers:
    """Ask for rows in calls of the largest size; a call of which nothing is answered counts as not answered."""
    parts = []
    for begin in range(0, len(rows), ROWS_PER_ASK_MAX):
        part = rows[begin : begin + ROWS_PER_ASK_MAX]
        try:
            parts.append(oracle.ask(part))
        except Refused:
            silent = np.full(len(part), -1, np.int64), np.zeros(len(part), np.bool_)
            parts.append(Answers(np.full((len(part), 1), np.nan, np.float32), *silent))
    width = max(part.probabilities.shape[1] for part in parts)
    wide = [np.broadcast_to(part.probabilities, (len(part.labels), width)) for part in parts]
    return Answers(
        np.concatenate(wide),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.answered for part in parts]),
    )


def under_attack(run: Run, plan: Plan) -> Under:
    """Members are of the split that the weights were learned from, others of one that no weight ever saw."""
    rows, labels, members = [], [], []
    for seed in range(plan.seeds):
        for split, member in ((Split.TRAIN, True), (Split.CALIBRATE, False)):
            drawn = run.rows(split, plan.rows, seed)
            rows.append(drawn.rows)
            labels.append(drawn.labels)
            members.append(np.full(len(drawn.labels), member))
    return Under(Sample(np.concatenate(rows), np.concatenate(labels)), np.concatenate(members))


def shadows_of(run: Run, plan: Plan, under: Under) -> Shadows:
    """Train what is not on disk yet. What is there belongs to this plan and these rows by its name."""
    pool = run.rows(Split.TRAIN, plan.rows * plan.seeds + plan.filling, 0)
    filling = Sample(pool.rows[plan.rows * plan.seeds :], pool.labels[plan.rows * plan.seeds :])
    taught_as = repr((plan.filling, asdict(plan.recipe)))  # further models may come later
    told = sha256(under.sample.rows.tobytes() + taught_as.encode()).hexdigest()[:16]
    classes = run.victim().classes
    logits, learned = [], []
    for number in range(plan.models):
        run.tell(number, plan.models)
        drawn = np.random.default_rng([number, 0x11A]).permutation(len(under.members)) % 2 == 0
        path = run.lab.directory / f"membership-{run.model}-{told}-{number}.npy"
        if not path.exists():
            taught = Sample(
                np.concatenate([under.sample.rows[drawn], filling.rows]),
                np.concatenate([under.sample.labels[drawn], filling.labels]),
            )
            net = train_shadow(taught.rows, taught.labels, classes, plan.recipe, seed=number)
            views = (under.sample.rows, mirrored(under.sample.rows))
            _keep(path, np.stack([logits_of(net, view).astype(np.float32) for view in views]))
        logits.append(np.load(path, allow_pickle=False))
        learned.append(drawn)
    return Shadows(np.stack(logits), np.stack(learned))


def _keep(path: Path, array: NDArray[np.float32]) -> None:
    staged = path.with_suffix(".part")
    with staged.open("wb") as file:
        np.save(file, array)
    staged.replace(path)  # from here on a run that was stopped has this model


def mirrored(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return images float32 (n, h, w) from right to left."""
    return np.ascontiguousarray(rows[:, :, ::-1])


def _finding(
    scores: NDArray[np.float64],
    members: NDArray[np.bool_],
    settings: Mapping[str, object],
    *,
    defended: bool,
    part: str = "",
) -> Finding:
    """Count what scores (n,) tell of rows of which `members` (n,) were learned from."""
    found = told(scores[members], scores[~members], RATES)
    metrics = {"auc": found.auc, "auc_low": found.auc_low, "auc_high": found.auc_high, "others": float(found.others)}
    for rate, caught in found.caught.items():
        interval = clopper_pearson(caught, found.members)
        word = f"tpr_at_{rate * 100:g}_percent"
        metrics |= {word: caught / found.members, f"{word}_low": interval.low, f"{word}_high": interval.high}
    settings = {**settings, "success": f"a member above all but {RATE} of the others"}
    curves = {"roc": found.curve}
    return Finding(found.members, found.caught[RATE], metrics, settings, curves, part, defended)

"""The shadow models of a membership attack: which rows each learned from, what it says of all of them; kept on disk.

Half of the rows under attack, drawn for each model anew, and rows that are under no attack to fill up: so every row has
models that learned from it and models that did not. What is kept is logits, not weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from defenses.lab.attack import Lab, Sample, Size, Split
from defenses.lab.inference.shadow import ShadowRecipe, logits_of, train_shadow


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


def under_attack(lab: Lab, name: str, plan: Plan) -> Under:
    """Members are of the split that the weights were learned from, others of one that no weight ever saw."""
    rows, labels, members = [], [], []
    for seed in range(plan.seeds):
        for split, member in ((Split.TRAIN, True), (Split.CALIBRATE, False)):
            drawn = lab.rows(name, split, plan.rows, seed)
            rows.append(drawn.rows)
            labels.append(drawn.labels)
            members.append(np.full(len(drawn.labels), member))
    return Under(Sample(np.concatenate(rows), np.concatenate(labels)), np.concatenate(members))


def shadows_of(lab: Lab, name: str, classes: int, plan: Plan, under: Under) -> Shadows:
    """Train what is not on disk yet. What is there belongs to this plan and these rows by its name."""
    pool = lab.rows(name, Split.TRAIN, plan.rows * plan.seeds + plan.filling, 0)
    filling = Sample(pool.rows[plan.rows * plan.seeds :], pool.labels[plan.rows * plan.seeds :])
    taught_as = repr((plan.filling, asdict(plan.recipe)))  # further models may come later
    told = sha256(under.sample.rows.tobytes() + taught_as.encode()).hexdigest()[:16]
    logits, learned = [], []
    for number in range(plan.models):
        lab.tell("shadow models", number, plan.models)
        drawn = np.random.default_rng([number, 0x11A]).permutation(len(under.members)) % 2 == 0
        path = lab.directory / f"membership-{name}-{told}-{number}.npy"
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


def plan_of(size: Size) -> Plan:
    """Return the plan of a run's size."""
    return FULL if size is Size.FULL else SMOKE

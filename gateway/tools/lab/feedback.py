"""The lab's trial of feedback: a tenth of the principals lie, round after round, and the head is learned from it.

A hundred principals, each of a tenant of its own, ask about rows of the calibration split that neither the weights nor
the trusted rows have seen, and say later what they were. Ten of them collude. Each round makes an update from the head
that the round before left, so lies accumulate. Reported is the accuracy on test rows, on which nothing is chosen.

Not defended: the head is learned from all that was said. Defended: what trusted rows contradict is left out, and who
is contradicted too often; nobody has more than his share; the batch is searched for what was planned together; trusted
rows are learned beside; and a candidate that does worse on held-out trusted rows, or on canary triggers, goes no
further. Signatures, replays and times are not part of the trial: tests/attacks holds them.

The liars:
- flips: every label is the next class, as many as an honest principal says.
- flood: the same, ten times as many.
- plausible: they know the trusted rows, the calibration, the threshold and the caps. They say only what passes, and of
  that what moves the head most towards one that was learned from flips, up to their share of the update.
- pair: the same, all of them for the one confusion (a class for another) for which most passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from defenses.lab.attack import Finding, Run, Split
from defenses.labels.batch import clustered, spectral
from defenses.labels.feedback import Consistency, capped, fit_consistency, suspects
from serving.train.feedback import (
    Head,
    LearnSettings,
    Limits,
    Rows,
    canary_triggers,
    fine_tune,
    measured,
    objection,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from defenses.lab.attack import Model, Sample

Liars = Literal["none", "flips", "flood", "plausible", "pair"]
LIARS: tuple[Liars, ...] = ("none", "flips", "flood", "plausible", "pair")
ALPHA = 0.05
BATCH_ALPHA = 0.01
SHARE_MAX = 0.01
NAIVE = LearnSettings(steps=300, rate=0.02, anchor=0.0)
FLOOD = 10
LIAR_ROWS = 3_000  # that the liars choose from, beside what everybody asks about


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a trial is: principals, of whom a tenth lie, rounds, and labels of an honest one in a round."""

    principals: int = 100
    rounds: int = 10
    labels: int = 5
    trusted: int = 4_000
    calibrate: int = 3_000
    held_out: int = 3_000
    test: int = 10_000


SMOKE = Sizes(rounds=2, trusted=1_500, calibrate=1_500, held_out=600, test=600)


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """What a trial is made of."""

    sizes: Sizes
    head: Head
    trusted: Rows
    held_out: Rows
    test: Rows
    stream: Rows
    triggered: dict[str, NDArray[Any]]
    consistency: Consistency
    passing: NDArray[np.bool_]
    """Of the stream's rows, by class (n, classes): whether this label passes."""


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """The labels of a round: what was said of which rows, by whom, and whether it is a lie."""

    rows: Rows
    who: NDArray[np.int64]
    lies: NDArray[np.bool_]


@dataclass(slots=True)
class Tally:
    """What came of all rounds: the head that is served, what would be served without the last gate, and counts."""

    head: Head
    ungated: Head
    lies: int = 0
    lies_learned: int = 0
    truths: int = 0
    truths_learned: int = 0
    thrown_out: int = 0


def feedback(run: Run, *, liars: Liars) -> list[Finding]:
    """Run all rounds with the defenses, and without where there are lies."""
    world = world_of(run)
    sides = (False, True) if liars != "none" else (True,)
    return [trial(world, liars, run.seed, defended=defended) for defended in sides]


def world_of(run: Run) -> World:
    """Return what the trials of one seed have in common."""
    sizes, model = SMOKE if run.smoke else Sizes(), run.victim()
    said = sizes.principals * sizes.rounds * sizes.labels * 9 // 10
    trusted = run.rows(Split.TRAIN, sizes.trusted)
    unseen = run.rows(Split.CALIBRATE, sizes.calibrate + said)
    held_out = run.rows(Split.DEVELOP, sizes.held_out, 0)
    test = run.rows(Split.TEST, sizes.test, 0)
    samples: dict[str, Sample] = {"trusted": trusted, "unseen": unseen, "held_out": held_out, "test": test}
    parts: dict[str, Rows] = {}
    for number, (name, sample) in enumerate(samples.items()):
        run.tell(number, len(samples))
        parts[name] = Rows(latents_of(run.lab.directory, model, sample.rows), sample.labels)
    first, rest = slice(None, sizes.calibrate), slice(sizes.calibrate, None)
    arrays = fit_consistency(
        (parts["trusted"].latents, parts["trusted"].labels),
        (parts["unseen"].latents[first], parts["unseen"].labels[first]),
    )
    linear = model.module().net.head
    consistency = Consistency.load(arrays)
    stream = Rows(parts["unseen"].latents[rest], parts["unseen"].labels[rest])
    return World(
        sizes=sizes,
        head=Head(linear.weight.numpy().astype(np.float64), linear.bias.numpy().astype(np.float64)),
        trusted=parts["trusted"],
        held_out=parts["held_out"],
        test=parts["test"],
        stream=stream,
        triggered={
            name: latents_of(run.lab.directory, model, marked)
            for name, marked in canary_triggers(held_out.rows).items()
        },
        consistency=consistency,
        passing=passing_labels(consistency, stream),
    )


def passing_labels(consistency: Consistency, rows: Rows) -> NDArray[np.bool_]:
    """Say which labels of each row pass, bool (n, classes)."""
    count = len(rows.labels)
    found = [consistency.p_values(rows.latents, np.full(count, label)) > ALPHA for label in range(consistency.classes)]
    return np.stack(found, axis=1)


def latents_of(directory: Path, model: Model, rows: NDArray[np.float32]) -> NDArray[Any]:
    """Return the latents of rows, as the gateway keeps them; what was computed before is read."""
    head: NDArray[Any] = model.module().net.head.weight.numpy()  # tells versions of the same number apart
    digest = sha256(f"{model.name} {model.version}".encode() + head.tobytes() + np.ascontiguousarray(rows).tobytes())
    file = directory / f"feedback-{digest.hexdigest()[:32]}.npy"
    if file.exists():
        found: NDArray[Any] = np.load(file, allow_pickle=False)
        return found.astype(np.float64)
    computed: NDArray[Any] = model.outputs(rows)["latent"].astype(np.float16)
    np.save(file, computed, allow_pickle=False)
    return computed.astype(np.float64)


def trial(world: World, liars: Liars, seed: int, *, defended: bool) -> Finding:
    """Run all rounds, and measure what is then served."""
    rng = np.random.default_rng((seed, LIARS.index(liars), defended))
    tally = all_rounds(world, liars, rng, defended=defended)
    sizes, test = world.sizes, world.test
    before, after, ungated = (
        head.logits(test.latents).argmax(axis=1) == test.labels for head in (world.head, tally.head, tally.ungated)
    )
    return Finding(
        defended=defended,
        samples=len(after),
        successes=int((before & ~after).sum()),
        metrics={
            "accuracy_before": float(before.mean()),
            "accuracy_after": float(after.mean()),
            "drop_points": 100 * float(before.mean() - after.mean()),
            "drop_points_without_gate": 100 * float(before.mean() - ungated.mean()),
            "lies": float(tally.lies),
            "lies_learned": float(tally.lies_learned),
            "truths": float(tally.truths),
            "truths_learned": float(tally.truths_learned),
            "updates_thrown_out": float(tally.thrown_out),
        },
        settings={
            "success": "a test row that was answered rightly before and wrongly afterwards",
            "principals": sizes.principals,
            "colluders": 0 if liars == "none" else sizes.principals // 10,
            "rounds": sizes.rounds,
            "trusted_rows": sizes.trusted,
            "inconsistent": ALPHA,
            "share_max": SHARE_MAX,
        },
    )


def all_rounds(world: World, liars: Liars, rng: np.random.Generator, *, defended: bool) -> Tally:
    """Learn round after round: from all that is said, or from what the gateway and the trainer let through."""
    tally = Tally(world.head, world.head)
    started = measured(world.head, world.held_out, world.triggered)
    alone = fine_tune(world.head, None, world.trusted, LearnSettings())
    twin = measured(alone, world.held_out, world.triggered)
    order = rng.permutation(len(world.stream.labels))
    for number in range(world.sizes.rounds):
        said = said_in_round(world, liars, tally.head, order=order, number=number, rng=rng)
        kept = kept_of(world, said, rng) if defended else np.ones(len(said.who), bool)
        items = Rows(said.rows.latents[kept], said.rows.labels[kept])
        tally.lies += int(said.lies.sum())
        tally.truths += int((~said.lies).sum())
        if defended:
            tally.ungated = fine_tune(tally.ungated, world.trusted, items, LearnSettings())
            candidate = fine_tune(tally.head, world.trusted, items, LearnSettings())
            if objection(started, measured(candidate, world.held_out, world.triggered), twin, Limits()):
                tally.thrown_out += 1
                continue
        else:
            candidate = tally.ungated = fine_tune(tally.head, None, items, NAIVE)
        tally.head = candidate
        tally.lies_learned += int(said.lies[kept].sum())
        tally.truths_learned += int((~said.lies[kept]).sum())
    return tally


def kept_of(world: World, said: Said, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Say which labels of a round an update is made of, as the gateway and the trainer decide it."""
    p_values = world.consistency.p_values(said.rows.latents, said.rows.labels)
    kept = p_values > ALPHA
    names = [str(who) for who in said.who]
    doubted = set(suspects(names, p_values, ALPHA, world.consistency.right_rate_max(ALPHA)))
    kept &= np.array([name not in doubted for name in names])
    places = np.flatnonzero(kept)
    owners = [names[place] for place in places]
    trusted = len(world.trusted.labels)
    inside = capped(owners, owners, trusted, tenant_share_max=SHARE_MAX, principal_share_max=SHARE_MAX, rng=rng)
    places = places[inside]
    items = said.rows.latents[places], said.rows.labels[places]
    theirs = world.trusted.latents, world.trusted.labels
    planned = spectral(items, theirs, alpha=BATCH_ALPHA) | clustered(items, theirs, alpha=BATCH_ALPHA, rng=rng)
    found = np.zeros(len(said.who), bool)
    found[places[~planned]] = True
    return found


def said_in_round(
    world: World, liars: Liars, head: Head, *, order: NDArray[np.intp], number: int, rng: np.random.Generator
) -> Said:
    """Return what is said in a round: everybody else the truth, the colluders their lies."""
    sizes, classes = world.sizes, len(world.head.bias)
    colluders = 0 if liars == "none" else sizes.principals // 10
    honest = sizes.principals - sizes.principals // 10
    count = honest * sizes.labels
    places = order[number * count : (number + 1) * count]
    latents, labels = world.stream.latents[places], world.stream.labels[places]
    who = np.repeat(np.arange(honest), sizes.labels)
    if not colluders:
        return Said(Rows(latents, labels), who, np.zeros(count, bool))
    pool = rng.choice(len(world.stream.labels), min(LIAR_ROWS, len(world.stream.labels)), replace=False)
    seen, truth = world.stream.latents[pool], world.stream.labels[pool]
    if liars in ("flips", "flood"):
        each = sizes.labels * (FLOOD if liars == "flood" else 1)
        chosen = rng.choice(len(pool), colluders * each, replace=True)
        lied = (truth[chosen] + 1) % classes
    else:
        each = int(SHARE_MAX * len(world.trusted.labels))
        chosen, lied = chosen_lies(
            Rows(seen, truth), world.passing[pool], colluders * each, head, one_pair=liars == "pair"
        )
    owners = honest + np.arange(len(chosen)) % colluders
    return Said(
        Rows(np.concatenate([latents, seen[chosen]]), np.concatenate([labels, lied])),
        np.concatenate([who, owners]),
        np.concatenate([np.zeros(count, bool), np.ones(len(chosen), bool)]),
    )


def chosen_lies(
    pool: Rows, passing: NDArray[np.bool_], count: int, head: Head, *, one_pair: bool
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Return (rows of the pool, labels) of the lies that pass and move the head most towards one learned from flips."""
    classes = len(head.bias)
    bad = fine_tune(head, None, Rows(pool.latents, (pool.labels + 1) % classes), NAIVE)
    rows = np.repeat(np.arange(len(pool.labels)), classes)
    labels = np.tile(np.arange(classes), len(pool.labels))
    wrong = labels != pool.labels[rows]
    rows, labels = rows[wrong], labels[wrong]
    passes = passing[rows, labels]
    rows, labels = rows[passes], labels[passes]
    if one_pair and len(rows):
        pairs = pool.labels[rows] * classes + labels
        most = np.bincount(pairs).argmax()
        rows, labels = rows[pairs == most], labels[pairs == most]
    logits = head.logits(pool.latents[rows])
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    pushes = np.eye(classes)[labels] - shares  # a step down the loss of a lie moves the head by this, times the latent
    moved = (bad.logits(pool.latents[rows]) - logits) if not one_pair else pushes
    order = np.argsort(-(pushes * moved).sum(axis=1))[:count]
    return rows[order], labels[order]

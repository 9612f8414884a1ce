"""What does a class of the training rows look like? Images made from nothing that a model is sure of.

- `miface`: the white box (Fredrikson, Jha, Ristenpart, "Model Inversion Attacks that Exploit Confidence Information",
  CCS 2015, algorithm 1): gradient descent on 1 - p(class) from a plain or random image. The slope is scaled, since that
  of a class that is not believed at all is next to nothing.
- `evolve`: the black box, by what is answered alone: the slope of p(class) is estimated from pairs of random changes
  (natural evolution strategies; Ilyas et al., ICML 2018, arXiv 1804.08598, section 2.1). A row that is refused, or
  whose class is not among those answered, counts as p = 0.

Whether an image shows the class is for somebody else to say: a classifier that knows neither the model nor its rows.
Success is that it says the class that was aimed at. One in `classes` is chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.lab.attack import BudgetSpent, Finding, Oracle, Refused, Run, Size, Split
from defenses.lab.inference.shadow import ShadowRecipe, logits_of, train_shadow

EACH = {Size.SMOKE: 1, Size.FULL: 20}
EACH_ASKING = {Size.SMOKE: 1, Size.FULL: 5}
QUERIES = {Size.SMOKE: 510, Size.FULL: 10_000}
READER = {Size.SMOKE: (500, ShadowRecipe(epochs=2, batch_rows=64)), Size.FULL: (10_000, ShadowRecipe(epochs=12))}


@dataclass(frozen=True, slots=True)
class MiFace:
    """Steps in which the most changed pixel moves by `rate`; stops where `confident` is reached, as the paper does."""

    steps: int = 300
    rate: float = 0.05
    confident: float = 0.999


@dataclass(frozen=True, slots=True)
class Evolution:
    """`pairs` random changes of deviation `spread` an estimate, then a signed step of `rate`."""

    pairs: int = 25
    spread: float = 0.1
    rate: float = 0.03
    queries: int = 10_000


def starts_of(classes: int, each: int, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return `each` starts for every class, float32 (classes x each, *shape): the first grey, the others noise."""
    starts = rng.random((classes * each, *shape)).astype(np.float32)
    starts[::each] = 0.5
    return starts


def miface(
    module: Any, starts: NDArray[np.float32], wanted: NDArray[np.int64], settings: MiFace
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the images (n, *shape) that the module is surest of, and how sure it is, float64 (n,)."""
    images = torch.from_numpy(starts.copy())
    classes = torch.from_numpy(wanted)[:, None]
    best, surest = images.clone(), torch.zeros(len(images))
    for _ in range(settings.steps):
        asked = images.clone().requires_grad_()
        likely = module(asked)["probabilities"].gather(1, classes)[:, 0]
        [slope] = torch.autograd.grad(likely.sum(), asked)
        with torch.no_grad():
            better = likely > surest
            best[better], surest[better] = images[better], likely[better]
            going = (surest < settings.confident).float().reshape(-1, *[1] * (images.ndim - 1))
            most = slope.abs().amax(dim=tuple(range(1, slope.ndim)), keepdim=True).clamp_min(1e-30)
            images = (images + going * settings.rate * slope / most).clamp(0.0, 1.0)
        if not going.any():
            break
    return best.numpy().astype(np.float32), surest.numpy().astype(np.float64)


def evolve(
    oracle: Oracle, start: NDArray[np.float32], wanted: int, settings: Evolution, rng: np.random.Generator
) -> tuple[NDArray[np.float32], float, int]:
    """Return the image (*shape) that was answered with the highest probability of the class, that, and rows asked."""
    image, best, surest, asked = start.copy(), start.copy(), 0.0, 0
    while asked + 2 * settings.pairs + 1 <= settings.queries:
        change = rng.normal(size=(settings.pairs, *start.shape)).astype(np.float32)
        near = np.concatenate([image[None], image + settings.spread * change, image - settings.spread * change])
        near = np.asarray(np.clip(near, 0.0, 1.0), np.float32)
        try:
            likely = _answered(oracle, near, wanted)
        except BudgetSpent:
            break
        asked += len(near)
        if likely.max() > surest:
            surest, best = float(likely.max()), near[likely.argmax()].copy()
        weights = (likely[1 : settings.pairs + 1] - likely[settings.pairs + 1 :]).reshape(-1, *[1] * start.ndim)
        slope = (weights * change).sum(axis=0)
        if not slope.any():  # nothing was told: look elsewhere
            slope = rng.normal(size=start.shape)
        image = np.asarray(np.clip(image + settings.rate * np.sign(slope), 0.0, 1.0), np.float32)
    return best, surest, asked


def _answered(oracle: Oracle, rows: NDArray[np.float32], wanted: int) -> NDArray[np.float64]:
    try:
        answers = oracle.ask(rows)
    except Refused:
        return np.zeros(len(rows))
    return np.nan_to_num(answers.probabilities[:, wanted].astype(np.float64))


def by_weights(run: Run) -> list[Finding]:
    """The white box: nothing stands between the attacker and the weights."""
    known, each, settings = run.victim(), EACH[run.lab.size], MiFace()
    starts = starts_of(known.classes, each, _shape(run), np.random.default_rng([run.seed, 0x1FACE]))
    wanted = np.repeat(np.arange(known.classes), each)
    images, sure = miface(known.module(), starts, wanted, settings)
    metrics = {"confidence_median": float(np.median(sure))}
    return [_finding(run, images, wanted, metrics, asdict(settings), defended=False)]


def by_asking(run: Run) -> list[Finding]:
    """The black box, as the service answers and without any protection; each image by an account of its own."""
    classes, each = run.victim().classes, EACH_ASKING[run.lab.size]
    settings = replace(Evolution(), queries=QUERIES[run.lab.size])
    wanted = np.repeat(np.arange(classes), each)
    found = []
    for defended in (True, False):
        rng = np.random.default_rng([run.seed, 0x1E5])
        made = []
        for number, start in enumerate(starts_of(classes, each, _shape(run), rng)):
            run.tell(number, len(wanted))
            with run.oracle(defended=defended) as oracle:
                made.append(evolve(oracle, start, int(wanted[number]), settings, rng))
        images, sure, asked = zip(*made, strict=True)
        metrics = {"confidence_median": float(np.median(sure)), "queries_median": float(np.median(asked))}
        found.append(_finding(run, np.stack(images), wanted, metrics, asdict(settings), defended=defended))
    return found


def _shape(run: Run) -> tuple[int, ...]:
    return run.rows(Split.TEST, 1, 0).rows.shape[1:]


def _finding(
    run: Run,
    images: NDArray[np.float32],
    wanted: NDArray[np.int64],
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    *,
    defended: bool,
) -> Finding:
    """Read the images by a classifier of rows that the model's weights were not learned from."""
    rows, recipe = READER[run.lab.size]
    taught = run.rows(Split.CALIBRATE, rows, 0)
    reader = train_shadow(taught.rows, taught.labels, run.victim().classes, recipe, seed=0xEAD)
    right = logits_of(reader, images).argmax(axis=1) == wanted
    settings = {**settings, "success": "an independent classifier reads the class that was aimed at"}
    return Finding(len(right), int(right.sum()), metrics, settings, defended=defended)

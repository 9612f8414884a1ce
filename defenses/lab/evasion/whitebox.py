"""White-box evasion: projected gradient descent against the whole pipeline, detectors included.

*Static* knows the classifier alone: PGD-40 on the cross-entropy (Madry et al. 2018, arXiv 1706.06083), its last iterate
judged by the screens afterwards. *Adaptive* knows everything (Carlini and Wagner 2017, arXiv 1705.07263; Tramer et al.
2020, arXiv 2002.08347): the screens' excess over their thresholds stands in the loss,

    margin - weight x max(0, excess)      margin = largest other logit - true logit, or towards one class, or CE

with several weights, restarts with other losses, signed steps with momentum that shrink along a cosine, and the first
iterate that is wrong, answered and unflagged wins: worst case per row over all weights, restarts and steps. The
pipeline is deterministic, so one sample is the exact expectation; `eot` averages slopes where a model is not.

Measured at two rates of false alarms, as the policy promises them ("flag: 0.01"); what the rate is on untouched images
stands beside it. The attack at the stricter rate goes on only with the rows that the looser one lost: an image that
evades at 5 % evades at 1 %. Two denominators, each a trial of its own, since they answer two questions: ".../all" is of
all images, those included that the model gets wrong untouched (what a client can be given wrong); ".../right" is of the
images that the pipeline gets right untouched (what an attacker can turn).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from defenses.lab.attack import Finding, Run, Size, Split
from defenses.lab.pipeline import Judged, Pipeline, Rates
from defenses.screens.evidence import NAME as EVIDENCE

STATIC_STEPS = 40
STATIC_STEP_SHARE = 0.25
MARGIN_ENOUGH = 2.0  # logits beyond which being wrong is worth no more, so that the detectors get their say
SLACK = 0.05  # how far below its threshold a score is pushed
LAST_STEP_SHARE = 0.05
ROWS = {Size.SMOKE: 12, Size.FULL: 200}
BENIGN_ROWS = {Size.SMOKE: 500, Size.FULL: 10_000}
BATCH_ROWS = 500
PROMISES = (0.01, 0.05)
SMOKE_STEPS, SMOKE_RESTARTS, SMOKE_WEIGHTS = 10, 1, (0.0, 1.0)

Tell = Callable[[int, int], None]
Objective = Callable[[Tensor], Tensor]
"""Logits (n, classes) to what is raised (n,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaded:
    """Which rows (n,) were brought past the pipeline, and each row's adversarial image (n, ...), or its last one."""

    evaded: Tensor
    images: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Attacked:
    pipeline: Pipeline
    images: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class AdaptivePgd:
    """`radius` bounds the change of each pixel; a step is at first `step_share` of it. Plain fields, for the record."""

    radius: float
    steps: int = 100
    restarts: int = 5
    weights: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0, 3.0)
    step_share: float = 0.3
    momentum: float = 0.75
    eot: int = 1

    def run(
        self, pipeline: Pipeline, images: Tensor, labels: Tensor, generator: torch.Generator, tell: Tell | None = None
    ) -> Evaded:
        """Attack images (n, ...) in [0, 1] of the true classes (n,). One batch; rows done take no more part."""
        adversarial = images.clone()
        evaded = evades(pipeline.judged(images), labels)
        rounds = [(weight, restart) for restart in range(self.restarts) for weight in self.weights]
        for number, (weight, restart) in enumerate(rounds):
            left = (~evaded).nonzero().squeeze(1)
            if not len(left):
                break
            found, moved = self._descend(_Attacked(pipeline, images[left], labels[left]), weight, restart, generator)
            adversarial[left], evaded[left] = moved, found
            if tell is not None:
                tell(number + 1, len(rounds))
        return Evaded(evaded, adversarial)

    def _descend(
        self, attacked: _Attacked, weight: float, restart: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        pipeline, images, labels = attacked.pipeline, attacked.images, attacked.labels
        low, high = (images - self.radius).clamp(min=0.0), (images + self.radius).clamp(max=1.0)
        moved = torch.lerp(low, high, torch.rand(images.shape, generator=generator)) if restart else images.clone()
        kept, found = moved.clone(), torch.zeros(len(images), dtype=torch.bool)
        with torch.no_grad():
            objective = _objective(pipeline(images), labels, restart)
        average = torch.zeros_like(images)
        for step in self._steps():
            slope, judged = self._slope(pipeline, moved, objective, weight)
            new = evades(judged, labels) & ~found
            kept[new], found = moved[new], found | new
            average = self.momentum * average + slope / _mean_size(slope)
            moved = (moved + step * average.sign()).clamp(low, high)
        last = evades(pipeline.judged(moved), labels) & ~found
        kept[last | ~found] = moved[last | ~found]
        return found | last, kept

    def _steps(self) -> Iterator[float]:
        for step in range(self.steps):
            share = LAST_STEP_SHARE + (1 - LAST_STEP_SHARE) * (1 + math.cos(math.pi * step / self.steps)) / 2
            yield self.step_share * self.radius * share

    def _slope(self, pipeline: Pipeline, moved: Tensor, objective: Objective, weight: float) -> tuple[Tensor, Judged]:
        slope = torch.zeros_like(moved)
        for _ in range(self.eot):
            moved = moved.detach().requires_grad_()
            judged = pipeline.judged(moved)
            gain = objective(judged.outputs["logits"]).double()
            if weight:
                gain = gain.clamp(max=MARGIN_ENOUGH) - weight * (judged.excess + SLACK).clamp(min=0.0)
            slope += torch.autograd.grad(gain.sum(), moved)[0]
        return slope, judged


def evades(judged: Judged, labels: Tensor) -> Tensor:
    """Say which rows (n,) are misclassified and answered and unflagged."""
    return (judged.outputs["logits"].argmax(1) != labels) & judged.answered & ~judged.flagged


def static_pgd(
    logits: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, radius: float, generator: torch.Generator
) -> Tensor:
    """Return the last iterate of PGD-40 on the cross-entropy from a random start; knows of no screen."""
    low, high = (images - radius).clamp(min=0.0), (images + radius).clamp(max=1.0)
    moved = torch.lerp(low, high, torch.rand(images.shape, generator=generator))
    for _ in range(STATIC_STEPS):
        moved = moved.detach().requires_grad_()
        loss = functional.cross_entropy(logits(moved), labels, reduction="sum")
        slope = torch.autograd.grad(loss, moved)[0]
        moved = (moved.detach() + STATIC_STEP_SHARE * radius * slope.sign()).clamp(low, high)
    return moved


def _objective(logits: Tensor, labels: Tensor, restart: int) -> Objective:
    """Return what a restart raises: the margin, then the cross-entropy, then the margin towards the likeliest wrong
    class of the rows as they are (`logits`), the next, and so on.
    """
    if restart == 0:
        return lambda now: now.scatter(1, labels[:, None], -torch.inf).amax(1) - _of(now, labels)
    if restart == 1:
        return lambda now: functional.cross_entropy(now, labels, reduction="none")
    others = logits.scatter(1, labels[:, None], -torch.inf).argsort(1, descending=True)
    target = others[:, (restart - 2) % (logits.shape[1] - 1)]
    return lambda now: _of(now, target) - _of(now, labels)


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _mean_size(slope: Tensor) -> Tensor:
    """Return the mean absolute slope of each row, shaped to divide by."""
    size = slope.abs().flatten(1).mean(1).clamp(min=1e-20)
    return size.reshape(-1, *[1] * (slope.ndim - 1))


@dataclass(frozen=True, slots=True, eq=False)
class _Bench:
    """The images of one seed, and the pipeline at each promised rate."""

    images: Tensor
    labels: Tensor
    pipelines: Mapping[float, Pipeline]
    benign: Mapping[float, float]
    benign_rows: int


def adaptive(run: Run, *, radius: float) -> list[Finding]:
    """Projected gradient descent with the screens in its loss, worst case per image."""
    attack = AdaptivePgd(radius)
    if run.smoke:
        attack = AdaptivePgd(radius, SMOKE_STEPS, SMOKE_RESTARTS, SMOKE_WEIGHTS)
    bench = _bench(run)
    generator = torch.Generator().manual_seed(run.seed)
    left = torch.arange(len(bench.labels))
    findings = []
    for promise in PROMISES:
        tell = partial(run.lab.tell, f"{run.attack} at {promise:.0%}")
        found = attack.run(bench.pipelines[promise], bench.images[left], bench.labels[left], generator, tell)
        evaded = torch.zeros(len(bench.labels), dtype=torch.bool)
        evaded[left] = found.evaded
        left = left[found.evaded]
        findings += _findings(bench, promise, evaded, asdict(attack))
    return findings


def static(run: Run, *, radius: float) -> list[Finding]:
    """PGD-40 on the classifier alone, judged afterwards."""
    bench = _bench(run)
    moved = _pgd_40(run, bench.pipelines[PROMISES[0]], bench.images, bench.labels, radius)
    findings = []
    for promise in PROMISES:
        with torch.no_grad():
            evaded = evades(bench.pipelines[promise].judged(moved), bench.labels)
        findings += _findings(bench, promise, evaded, {"radius": radius})
    return findings


def control(run: Run, *, radius: float) -> list[Finding]:
    """PGD-40 on a model without screens: has to bring nearly all past, or the lab proves nothing."""
    model = run.victim()
    sample = run.rows(Split.TEST, ROWS[run.lab.size])
    images, labels = torch.from_numpy(sample.rows), torch.from_numpy(sample.labels)
    bare = Pipeline(model.module(), model.arrays(), {})
    moved = _pgd_40(run, bare, images, labels, radius)
    with torch.no_grad():
        wrong = evades(bare.judged(moved), labels)
    settings = {"norm": "L-inf", "radius": radius, "steps": 40, "denominator": "all images"}
    return [Finding(len(labels), int(wrong.sum()), settings=settings, part="all", defended=False)]


def _bench(run: Run) -> _Bench:
    model = run.victim()
    sample = run.rows(Split.TEST, ROWS[run.lab.size])
    module, arrays = model.module(), model.arrays()
    pipelines = {promise: Pipeline(module, arrays, {EVIDENCE: Rates(promise)}) for promise in PROMISES}
    benign = torch.from_numpy(run.rows(Split.TEST, BENIGN_ROWS[run.lab.size], 0).rows)
    return _Bench(
        torch.from_numpy(sample.rows),
        torch.from_numpy(sample.labels),
        pipelines,
        {promise: _flagged_share(pipeline, benign) for promise, pipeline in pipelines.items()},
        len(benign),
    )


def _flagged_share(pipeline: Pipeline, images: Tensor) -> float:
    with torch.no_grad():
        flagged = [pipeline.judged(batch).flagged for batch in torch.split(images, BATCH_ROWS)]
    return float(torch.cat(flagged).double().mean())


def _findings(bench: _Bench, promise: float, evaded: Tensor, attack: dict[str, Any]) -> list[Finding]:
    with torch.no_grad():
        clean = bench.pipelines[promise].judged(bench.images)
    right = (clean.outputs["logits"].argmax(1) == bench.labels) & ~clean.flagged
    metrics = {
        "benign_flagged_share": bench.benign[promise],
        "benign_rows": float(bench.benign_rows),
        "evades_untouched_share": float(evades(clean, bench.labels).double().mean()),
    }
    settings = {"norm": "L-inf", "flag_fpr_promised": promise, "eot": "exact: nothing is random", **attack}
    counted = {
        "all": (len(evaded), int(evaded.sum()), "all images"),
        "right": (int(right.sum()), int((evaded & right).sum()), "images answered right and unflagged untouched"),
    }
    return [
        Finding(samples, successes, metrics, {**settings, "denominator": of}, part=f"fpr-{100 * promise:.0f}/{name}")
        for name, (samples, successes, of) in counted.items()
    ]


def _pgd_40(run: Run, pipeline: Pipeline, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Attack, and check the norm: ValueError where a pixel changed by more than the radius, or left [0, 1]."""
    moved = static_pgd(pipeline, images, labels, radius, torch.Generator().manual_seed(run.seed))
    if float((moved - images).abs().max()) > radius + 1e-6 or float(moved.min()) < 0.0 or float(moved.max()) > 1.0:
        raise ValueError("the attack left its norm")
    return moved

"""The white box measured: static and adaptive attackers against a whole pipeline, at two rates of false alarms.

Evasion = misclassified and answered and unflagged. Two denominators, each a trial of its own, since they answer two
questions: ".../all" is of all images, those included that the model gets wrong untouched (what a client can be given
wrong); ".../right" is of the images that the pipeline gets right untouched (what an attacker can turn).

The rate of false alarms is what the policy promises ("flag: 0.01"); what it is on untouched test images is measured
and stands beside it. The attack at the stricter rate goes on only with the rows that the looser one lost: an image that
evades at 5 % evades at 1 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from defenses.lab.attack import Finding, Run, Size, Split
from defenses.lab.evasion.whitebox import AdaptivePgd, evades, static_pgd
from defenses.lab.pipeline import Pipeline, Rates
from defenses.screens.evidence import NAME as EVIDENCE

ROWS = {Size.SMOKE: 12, Size.FULL: 200}
BENIGN_ROWS = {Size.SMOKE: 500, Size.FULL: 10_000}
BATCH_ROWS = 500
PROMISES = (0.01, 0.05)
SMOKE_STEPS, SMOKE_RESTARTS, SMOKE_WEIGHTS = 10, 1, (0.0, 1.0)


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

"""The white box measured: static and adaptive attackers against a whole pipeline, at two rates of false alarms.

Evasion = misclassified and answered and unflagged. Two denominators, each a trial of its own, since they answer two
questions: ".../all" is of all images, those included that the model gets wrong untouched (what a client can be given
wrong); ".../right" is of the images that the pipeline gets right untouched (what an attacker can turn).

The rate of false alarms is what the policy promises ("flag: 0.01"); what it is on untouched test images is measured
and stands beside it. The attack at the stricter rate goes on only with the rows that the looser one lost: an image that
evades at 5 % evades at 1 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from defenses.lab.attack import Lab, Size, Split, Trial
from defenses.lab.evasion.whitebox import AdaptivePgd, evades, static_pgd
from defenses.lab.pipeline import Pipeline, Rates
from defenses.screens.evidence import NAME as EVIDENCE
from defenses.screens.evidence import TECHNIQUE

ADAPTIVE, STATIC = "adaptive white box", "static white box"
FAMILY = "evasion"
ROWS = {Size.SMOKE: 12, Size.FULL: 200}
BENIGN_ROWS = {Size.SMOKE: 500, Size.FULL: 10_000}
BATCH_ROWS = 500
PROMISES = (0.01, 0.05)
SMOKE_STEPS, SMOKE_RESTARTS, SMOKE_WEIGHTS = 10, 1, (0.0, 1.0)

Static = Callable[[Pipeline, Tensor, Tensor, float, int], Tensor]
"""(pipeline, images (n, 28, 28), labels (n,), radius, seed) to the attacked images; knows of no screen."""


@dataclass(frozen=True, slots=True)
class Against:
    """A model version, and how far a pixel may be changed."""

    model: str
    version: str
    radius: float

    @property
    def name(self) -> str:
        return f"whitebox/{self.model}-{self.version}/eps-{self.radius}"


@dataclass(frozen=True, slots=True, eq=False)
class _Bench:
    """The images of one seed, and the pipeline at each promised rate."""

    against: Against
    seed: int
    images: Tensor
    labels: Tensor
    pipelines: Mapping[float, Pipeline]
    benign: Mapping[float, float]
    benign_rows: int


def adaptive_of(model: str, version: str, radius: float) -> Callable[[Lab, int], list[Trial]]:
    """Projected gradient descent with the screens in its loss, worst case per image."""
    against = Against(model, version, radius)

    def run(lab: Lab, seed: int) -> list[Trial]:
        attack = AdaptivePgd(against.radius)
        if lab.size is Size.SMOKE:
            attack = AdaptivePgd(against.radius, SMOKE_STEPS, SMOKE_RESTARTS, SMOKE_WEIGHTS)
        bench = _bench(lab, against, seed)
        generator = torch.Generator().manual_seed(seed)
        left = torch.arange(len(bench.labels))
        trials = []
        for promise in PROMISES:
            found = attack.run(
                bench.pipelines[promise],
                bench.images[left],
                bench.labels[left],
                generator,
                partial(lab.tell, f"{against.name} at {promise:.0%}"),
            )
            evaded = torch.zeros(len(bench.labels), dtype=torch.bool)
            evaded[left] = found.evaded
            left = left[found.evaded]
            trials += _trials(bench, promise, evaded, ADAPTIVE, asdict(attack))
        return trials

    return run


def static_of(
    model: str, version: str, radius: float, name: str = "PGD-40", attack: Static | None = None
) -> Callable[[Lab, int], list[Trial]]:
    """An attack on the classifier alone, judged afterwards; PGD-40 where none is given."""
    against = Against(model, version, radius)

    def run(lab: Lab, seed: int) -> list[Trial]:
        bench = _bench(lab, against, seed)
        pipeline = bench.pipelines[PROMISES[0]]
        moved = (attack or _pgd_40)(pipeline, bench.images, bench.labels, against.radius, seed)
        _require_within(moved, bench.images, against.radius)
        trials = []
        for promise in PROMISES:
            with torch.no_grad():
                evaded = evades(bench.pipelines[promise].judged(moved), bench.labels)
            trials += _trials(bench, promise, evaded, f"{STATIC}, {name}", {"radius": against.radius})
        return trials

    return run


def control_of(model: str, version: str, radius: float) -> Callable[[Lab, int], list[Trial]]:
    """PGD-40 on a model without screens: has to bring nearly all past, or the lab proves nothing."""
    against = Against(model, version, radius)

    def run(lab: Lab, seed: int) -> list[Trial]:
        model = lab.model(against.model, against.version)
        sample = lab.rows(against.model, Split.TEST, ROWS[lab.size], seed)
        images, labels = torch.from_numpy(sample.rows), torch.from_numpy(sample.labels)
        bare = Pipeline(model.module(), model.arrays(), {})
        moved = _pgd_40(bare, images, labels, against.radius, seed)
        with torch.no_grad():
            wrong = evades(bare.judged(moved), labels)
        trial = Trial(
            attack=f"{against.name}/all",
            family=FAMILY,
            technique=TECHNIQUE,
            knowledge=f"{STATIC}, PGD-40",
            defended=False,
            seed=seed,
            samples=len(labels),
            successes=int(wrong.sum()),
            settings={"norm": "L-inf", "radius": against.radius, "steps": 40, "denominator": "all images"},
        )
        return [trial]

    return run


def _bench(lab: Lab, against: Against, seed: int) -> _Bench:
    model = lab.model(against.model, against.version)
    sample = lab.rows(against.model, Split.TEST, ROWS[lab.size], seed)
    module, arrays = model.module(), model.arrays()
    pipelines = {promise: Pipeline(module, arrays, {EVIDENCE: Rates(promise)}) for promise in PROMISES}
    benign = torch.from_numpy(lab.rows(against.model, Split.TEST, BENIGN_ROWS[lab.size], 0).rows)
    return _Bench(
        against,
        seed,
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


def _trials(bench: _Bench, promise: float, evaded: Tensor, knowledge: str, attack: dict[str, Any]) -> list[Trial]:
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
        Trial(
            attack=f"{bench.against.name}/fpr-{promise:.0%}/{name}".replace("%", ""),
            family=FAMILY,
            technique=TECHNIQUE,
            knowledge=knowledge,
            defended=True,
            seed=bench.seed,
            samples=samples,
            successes=successes,
            metrics=metrics,
            settings={**settings, "denominator": denominator},
        )
        for name, (samples, successes, denominator) in counted.items()
    ]


def _pgd_40(pipeline: Pipeline, images: Tensor, labels: Tensor, radius: float, seed: int) -> Tensor:
    return static_pgd(pipeline, images, labels, radius, torch.Generator().manual_seed(seed))


def _require_within(moved: Tensor, images: Tensor, radius: float) -> None:
    """No pixel is changed by more than the radius (rounding apart) or leaves [0, 1]: else it is no result."""
    if float((moved - images).abs().max()) > radius + 1e-6 or float(moved.min()) < 0.0 or float(moved.max()) > 1.0:
        raise ValueError("the attack left its norm")

"""Sparse additive models: logit(bad) = intercept + f_1(x_1) + ... + f_k(x_k), few terms, each one read off a chart.

Each f is linear between knots (a category's levels stand at 0, 1, 2, ...) and has a value of its own for "missing". Its
steps from knot to knot are never negative where risk may not fall, never positive where it may not rise. What is
minimised is convex: the log loss, plus `smooth` times the squared changes of neighbouring steps, plus a little ridge,
plus, while terms are chosen, a group lasso over terms (Yuan and Lin 2006); by accelerated proximal gradient with
restarts (Beck and Teboulle 2009; O'Donoghue and Candes 2015). The prox of a group under sign constraints is the
projection, then the group's shrinkage.

Choosing: down the path of the lasso's weight, each point starting at the last. The path ends where more terms than
allowed are in, or where the loss of the held-out rows has stopped falling; the terms at its least loss are fitted again
without the lasso. The rows given decide everything; nothing is random but which of them are held out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.train.payments.schema import Candidate

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AdditiveSettings:
    """How terms are chosen and fitted."""

    terms_max: int = 8
    knots: int = 10
    smooth: tuple[float, ...] = (3.0, 10.0, 30.0)
    """Tried; the one with the least loss on the held-out rows is taken."""
    ridge: float = 1.0
    held_out_share: float = 0.2
    path_points: int = 60
    path_ratio: float = 0.88
    patience: int = 6
    missing_rows_min: int = 20
    """With fewer, a missing value says nothing: it contributes 0."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """Values a term may be a function of, float64 (rows,), NaN where missing. `levels`: of a category, else 0."""

    values: Floats
    levels: int = 0


@dataclass(frozen=True, slots=True)
class Term:
    """One f: `start` at the first knot, `steps` (m,) from each of `knots` (m + 1,) to the next, level beyond the ends.

    Its mean over the rows it was fitted to is 0, `missing` included.
    """

    source: str
    direction: int
    reason: str
    knots: Floats
    start: float
    steps: Floats
    missing: float

    def contribution(self, values: Floats) -> Floats:
        """Return f of values (rows,), NaN where missing."""
        heights = self.start + np.concatenate([[0.0], np.cumsum(self.steps)])
        return np.where(np.isnan(values), self.missing, np.interp(values, self.knots, heights))


@dataclass(frozen=True, slots=True)
class PathPoint:
    """A point of the path: the lasso's weight, how many terms are in, mean log losses."""

    weight: float
    terms: int
    loss: float
    held_out_loss: float


@dataclass(frozen=True, slots=True)
class AdditiveModel:
    """The model and how it came about. `intercept` is its logit where every term contributes nothing."""

    intercept: float
    terms: tuple[Term, ...]
    smooth: float = 0.0
    path: tuple[PathPoint, ...] = field(default=(), repr=False)

    def logit(self, sources: Mapping[str, Source]) -> Floats:
        """Return the logit of "bad" (rows,)."""
        parts = [term.contribution(sources[term.source].values) for term in self.terms]
        return np.asarray(self.intercept + np.sum(parts, axis=0))


@dataclass(frozen=True, slots=True)
class _Basis:
    """A candidate's columns: ramps between knots, or one for each level; then one for "missing"."""

    candidate: Candidate
    knots: Floats
    ramps: int
    category: bool
    missing: bool

    @property
    def width(self) -> int:
        return self.ramps + self.missing

    def columns(self, values: Floats) -> Floats:
        """Return (rows, width); the ramps of a missing value are NaN."""
        known = np.where(np.isnan(values), self.knots[0], values)[:, None]
        if self.category:
            ramps = (known == self.knots).astype(np.float64)
        else:
            ramps = np.clip((known - self.knots[:-1]) / np.diff(self.knots), 0.0, 1.0)
        ramps[np.isnan(values)] = np.nan
        return np.column_stack([ramps, np.isnan(values)]) if self.missing else np.asarray(ramps)

    def penalty(self, smooth: float, ridge: float) -> Floats:
        matrix = ridge * np.eye(self.width)
        if not self.category and self.ramps > 1:
            change = np.diff(np.eye(self.ramps), axis=0)
            matrix[: self.ramps, : self.ramps] += smooth * change.T @ change
        return matrix

    def bounds(self) -> tuple[Floats, Floats]:
        low, high = np.full(self.width, -np.inf), np.full(self.width, np.inf)
        if not self.category:
            if self.candidate.direction > 0:
                low[: self.ramps] = 0.0
            elif self.candidate.direction < 0:
                high[: self.ramps] = 0.0
        return low, high


@dataclass(slots=True)
class _Problem:
    """Centred columns of some bases, and everything that the solver needs of them."""

    bases: Sequence[_Basis]
    sources: Mapping[str, Source]
    labels: Floats
    smooth: float
    ridge: float
    means: list[Floats] = field(default_factory=list)
    groups: list[slice] = field(default_factory=list)
    matrix: Floats = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        blocks, start = [], 0
        for basis in self.bases:
            columns = basis.columns(self.sources[basis.candidate.source].values)
            mean = np.nanmean(columns, axis=0)
            blocks.append(np.where(np.isnan(columns), mean, columns) - mean)
            self.means.append(mean)
            self.groups.append(slice(start, start + basis.width))
            start += basis.width
        self.matrix = np.column_stack(blocks)

    def penalty(self) -> Floats:
        width = self.matrix.shape[1]
        penalty = np.zeros((width, width))
        for basis, group in zip(self.bases, self.groups, strict=True):
            penalty[group, group] = basis.penalty(self.smooth, self.ridge) / len(self.labels)
        return penalty

    def bounds(self) -> tuple[Floats, Floats]:
        lows, highs = zip(*(basis.bounds() for basis in self.bases), strict=True)
        return np.concatenate(lows), np.concatenate(highs)


def sigmoid(logit: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit)))


def log_loss(logit: Floats, labels: NDArray[np.uint8]) -> float:
    """Mean over rows, in nats."""
    return float(np.mean(np.logaddexp(0.0, logit) - labels * logit))


def fit_additive(
    sources: Mapping[str, Source],
    candidates: Sequence[Candidate],
    labels: NDArray[np.uint8],
    settings: AdditiveSettings,
    on_step: Callable[[int, int], None] | None = None,
) -> AdditiveModel:
    """Choose terms and fit them to labels (rows,), 1 for bad. A candidate whose source is constant is passed over."""
    order = np.random.default_rng([settings.seed, 0xADD]).permutation(len(labels))
    held, kept = np.split(order, [round(settings.held_out_share * len(labels))])
    inside, outside = _take(sources, kept), _take(sources, held)
    bases = _bases(inside, candidates, settings)
    path, chosen = _walk(
        bases, inside, labels[kept], held_out=(outside, labels[held]), settings=settings, on_step=on_step
    )
    losses = []
    for smooth in settings.smooth:
        model = _solved([bases[index] for index in chosen], inside, labels[kept], smooth, settings)
        losses.append(log_loss(model.logit(outside), labels[held]))
    smooth = settings.smooth[int(np.argmin(losses))]
    names = {bases[index].candidate.source for index in chosen}
    final = _bases(sources, [candidate for candidate in candidates if candidate.source in names], settings)
    model = _solved(final, sources, labels, smooth, settings)
    return AdditiveModel(model.intercept, model.terms, smooth, tuple(path))


def _take(sources: Mapping[str, Source], rows: NDArray[np.intp]) -> dict[str, Source]:
    return {name: Source(source.values[rows], source.levels) for name, source in sources.items()}


def _bases(sources: Mapping[str, Source], candidates: Sequence[Candidate], settings: AdditiveSettings) -> list[_Basis]:
    bases = []
    for candidate in candidates:
        source = sources[candidate.source]
        known = source.values[~np.isnan(source.values)]
        missing = len(source.values) - len(known) >= settings.missing_rows_min
        if source.levels:
            knots = np.arange(source.levels, dtype=np.float64)
            bases.append(_Basis(candidate, knots, source.levels, category=True, missing=missing))
            continue
        knots = np.unique(np.quantile(known, np.linspace(0.01, 0.99, settings.knots + 1))) if known.size else known
        if knots.size > 1:
            bases.append(_Basis(candidate, knots, knots.size - 1, category=False, missing=missing))
    return bases


def _walk(
    bases: Sequence[_Basis],
    inside: Mapping[str, Source],
    labels: NDArray[np.uint8],
    *,
    held_out: tuple[Mapping[str, Source], NDArray[np.uint8]],
    settings: AdditiveSettings,
    on_step: Callable[[int, int], None] | None,
) -> tuple[list[PathPoint], list[int]]:
    """Return the path and the bases that are in at its best point."""
    problem = _Problem(bases, inside, labels.astype(np.float64), settings.smooth[0], settings.ridge)
    weights, intercept = np.zeros(problem.matrix.shape[1]), _logit_of_share(labels)
    lasso = _lasso_max(problem)
    path: list[PathPoint] = []
    best, chosen = np.inf, list[int]()
    for point in range(settings.path_points):
        lasso *= settings.path_ratio
        weights, intercept = _solve(problem, lasso, weights, intercept, steps_max=400, tolerance=1e-5)
        active = [index for index, group in enumerate(problem.groups) if np.any(weights[group])]
        if len(active) > settings.terms_max:
            break
        model = _model(problem, weights, intercept)
        loss = log_loss(problem.matrix @ weights + intercept, labels)
        held_out_loss = log_loss(model.logit(held_out[0]), held_out[1])
        path.append(PathPoint(lasso, len(active), loss, held_out_loss))
        if on_step is not None:
            on_step(point + 1, settings.path_points)
        if held_out_loss < best:
            best, chosen = held_out_loss, active
        elif len(path) - int(np.argmin([one.held_out_loss for one in path])) > settings.patience:
            break
    return path, chosen


def _lasso_max(problem: _Problem) -> float:
    """The weight at which the first term comes in."""
    gradient = problem.matrix.T @ (problem.labels.mean() - problem.labels) / len(problem.labels)
    norms = [np.linalg.norm(gradient[group]) / np.sqrt(group.stop - group.start) for group in problem.groups]
    return float(max(norms))


def _logit_of_share(labels: NDArray[np.uint8]) -> float:
    share = float(labels.mean())
    return float(np.log(share / (1.0 - share)))


def _solved(
    bases: Sequence[_Basis],
    sources: Mapping[str, Source],
    labels: NDArray[np.uint8],
    smooth: float,
    settings: AdditiveSettings,
) -> AdditiveModel:
    if not bases:
        return AdditiveModel(_logit_of_share(labels), ())
    problem = _Problem(bases, sources, labels.astype(np.float64), smooth, settings.ridge)
    start = np.zeros(problem.matrix.shape[1])
    weights, intercept = _solve(problem, 0.0, start, _logit_of_share(labels), steps_max=3000, tolerance=1e-8)
    return _model(problem, weights, intercept)


def _solve(
    problem: _Problem, lasso: float, weights: Floats, intercept: float, *, steps_max: int, tolerance: float
) -> tuple[Floats, float]:
    """Return the weights and the intercept at the least of the objective, started where the arguments say."""
    matrix, labels, penalty = problem.matrix, problem.labels, problem.penalty()
    low, high = problem.bounds()
    rows = len(labels)
    # The curvature of the log loss is at most a quarter of the columns'; the intercept's column is all ones.
    curvature = 0.25 * (np.linalg.eigvalsh(matrix.T @ matrix / rows)[-1] + 1.0) + np.linalg.eigvalsh(penalty)[-1]
    ahead, ahead_intercept, momentum = weights, intercept, 1.0
    for _ in range(steps_max):
        excess = sigmoid(matrix @ ahead + ahead_intercept) - labels
        new = np.clip(ahead - (matrix.T @ excess / rows + penalty @ ahead) / curvature, low, high)
        new_intercept = ahead_intercept - float(excess.mean()) / curvature
        if lasso:
            for group in problem.groups:
                norm = np.linalg.norm(new[group])
                weight = lasso * np.sqrt(group.stop - group.start) / curvature
                new[group] *= max(0.0, 1.0 - weight / norm) if norm else 0.0
        moved, moved_intercept = new - weights, new_intercept - intercept
        if (ahead - new) @ moved > 0:  # past the least along the way: momentum starts again
            momentum = 1.0
        grown = (1.0 + np.sqrt(1.0 + 4.0 * momentum * momentum)) / 2.0
        ahead = new + (momentum - 1.0) / grown * moved
        ahead_intercept = new_intercept + (momentum - 1.0) / grown * moved_intercept
        weights, intercept, momentum = new, new_intercept, grown
        if max(np.abs(moved).max(), abs(moved_intercept)) < tolerance:
            break
    return weights, intercept


def _model(problem: _Problem, weights: Floats, intercept: float) -> AdditiveModel:
    """Read the terms off the weights; those that are nothing are left out."""
    terms = []
    for basis, group, mean in zip(problem.bases, problem.groups, problem.means, strict=True):
        own = weights[group]
        if not np.any(own):
            continue
        ramps, missing = own[: basis.ramps], own[basis.ramps :]
        start = -float(own @ mean)
        # A missing value's ramps stand at their means, so they add nothing to it.
        absent = float(missing @ (1.0 - mean[basis.ramps :]))
        if basis.category:
            start, ramps = start + float(ramps[0]), np.diff(ramps)
        candidate = basis.candidate
        terms.append(Term(candidate.source, candidate.direction, candidate.reason, basis.knots, start, ramps, absent))
    return AdditiveModel(intercept, tuple(terms))

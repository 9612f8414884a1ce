"""How S1's combination was chosen, to be run again: the table in docs/explanation/defenses.md is computed here.

From the fit split of the committed model and the development images alone. Tails are fitted on four fifths of the split
and score the fifth, five times over; the thresholds are the ranks of those scores at 1 % and 0.1 %, averaged over 200
bootstraps, whose spread is the standard error. Where the page differs, the failure shows the table as it should be.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from defenses.budget.screen import Evidence
from defenses.screens.evidence import COMPONENTS, EvidenceScreen, Tail
from serving.bundles.bundle import load_bundle
from serving.engines import measure
from serving.engines.inprocess import InProcessEngine
from serving.train.kiosk.data import DEBIAN_DIRECTORY, load_fashion_mnist, split
from tests.defenses.screens.development_images import development_images

ROOT = Path(__file__).parents[3]
CHOSEN = "energy + 2 mahalanobis + residual (used)"
SEED, PARTS, BOOTSTRAPS = 0, 5, 200
TAIL_SHAPE = 0.1
pytestmark = pytest.mark.skipif(not DEBIAN_DIRECTORY.exists(), reason="dataset-fashion-mnist is not installed")


def weighted(*weights):
    return lambda s, _: sum(weight * row for weight, row in zip(weights, s, strict=False))


def log_sum(*rows):
    return np.logaddexp.reduce(np.stack(rows), axis=0)


def distance(s, benign):
    apart = s[:3] - benign[:3].mean(axis=1, keepdims=True)
    return np.einsum("ir,ij,jr->r", apart, np.linalg.inv(np.cov(benign[:3])), apart)


def least_squares(s, benign):
    return np.linalg.inv(np.cov(benign[:3])).sum(axis=1) @ s[:3]


# Each of s and benign, surprises (energy, mahalanobis, residual, margin) of the rows to judge and of held-out products.
COMBINATIONS = {
    "largest of the four": lambda s, _: s.max(axis=0),
    "harmonic mean of the four (before)": lambda s, _: log_sum(*s),
    "harmonic mean without margin": lambda s, _: log_sum(*s[:3]),
    "Fisher's sum of the four": weighted(1, 1, 1, 1),
    "Fisher's sum without margin": weighted(1, 1, 1),
    "energy + mahalanobis, harmonic with residual": lambda s, _: log_sum(s[0] + s[1], s[2]),
    "Euclidean norm without margin (Gumbel copula)": lambda s, _: np.sqrt((s[:3] ** 2).sum(axis=0)),
    "sum weighted by the inverse covariance": least_squares,
    "Mahalanobis distance of the surprises (not monotone)": distance,
    "energy alone": weighted(1),
    "mahalanobis alone": weighted(0, 1),
    "residual alone": weighted(0, 0, 1),
    CHOSEN: weighted(1, 2, 1),
    "the same + margin": weighted(1, 2, 1, 1),
    "energy + 4 mahalanobis + residual": weighted(1, 4, 1),
    "energy + 10 mahalanobis + residual": weighted(1, 10, 1),
}


def witnesses(outputs):
    ordered = np.sort(outputs["probabilities"].astype(np.float64), axis=1)
    return np.stack([outputs[name].astype(np.float64) for name in COMPONENTS] + [ordered[:, -2] - ordered[:, -1]])


def surprises(fitted_on, rows):
    tails = [Tail.fit(str(i), sample) for i, sample in enumerate(fitted_on)]
    return np.stack(
        [
            np.interp(row, tail.values, tail.surprise)
            + np.log1p(np.maximum(row - tail.values[-1], 0) * TAIL_SHAPE / tail.scale) / TAIL_SHAPE
            for tail, row in zip(tails, rows, strict=True)
        ]
    )


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(ROOT / "bundles" / "kiosk" / "1", [ROOT / "bundles" / "stockade-release.pub"])


@pytest.fixture(scope="module")
def engine(bundle):
    return InProcessEngine(bundle)


@pytest.fixture(scope="module")
def images(bundle):
    return split(load_fashion_mnist().pool, bundle.manifest["training"]["loop"]["seed"]).fit.images


@pytest.fixture(scope="module")
def table(engine, images):
    """Name: (mean found at 1 %, its standard error, mean found at 0.1 %, its standard error, found at 1 % by kind)."""
    fit = witnesses(measure.evaluate(engine, images))
    benign = np.empty_like(fit)
    for part in np.array_split(np.random.default_rng(SEED).permutation(fit.shape[1]), PARTS):
        benign[:, part] = surprises(np.delete(fit, part, axis=1), fit[:, part])
    foreign = {
        kind: surprises(fit, witnesses(measure.evaluate(engine, drawn)))
        for kind, drawn in development_images(images, SEED).items()
    }
    return {name: found(combine, benign, foreign) for name, combine in COMBINATIONS.items()}


def found(combine, benign, foreign):
    rng = np.random.default_rng(SEED)
    rows = benign.shape[1]
    scores = combine(benign, benign)
    # The score that a hundredth, a thousandth of the resampled benign rows reach.
    drawn = np.sort(rng.choice(scores, (BOOTSTRAPS, rows)), axis=1)[:, [-(rows // 100), -(rows // 1_000)]]
    rates = np.stack([(combine(s, benign)[:, None, None] > drawn).mean(axis=0) for s in foreign.values()])
    mean, error = 100 * rates.mean(axis=(0, 1)), 100 * rates.mean(axis=0).std(axis=0)
    return mean[0], error[0], mean[1], error[1], *(100 * rates.mean(axis=1)[:, 0])


def test_the_one_used_is_what_the_screen_computes(bundle, engine, images):
    outputs = measure.evaluate(engine, images)
    noise = measure.evaluate(engine, np.random.default_rng(0).integers(0, 256, (100, 28, 28), dtype=np.uint8))
    screen = EvidenceScreen.from_calibration(bundle.calibration)
    for rows in (outputs, noise):
        wanted = COMBINATIONS[CHOSEN](surprises(witnesses(outputs), witnesses(rows)), None)
        np.testing.assert_allclose(screen.score(Evidence({}, rows)), wanted, rtol=1e-3, atol=1e-3)


def test_the_documentation_quotes_the_table(table):
    quoted = {}
    for line in (ROOT / "docs/explanation/defenses.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in table:
            quoted[cells[0]] = [float(cell.rstrip(" %")) for cell in cells[1:]]
    computed = {name: [at_1, at_01, *kinds] for name, (at_1, _, at_01, _, *kinds) in table.items()}
    wanted = [f"| {name} | {' | '.join(f'{value:.0f} %' for value in row)} |" for name, row in computed.items()]
    assert quoted.keys() == table.keys(), "\n".join(wanted)
    for name, row in computed.items():
        # Another CPU, or another version of the library that draws, moves a few rows.
        assert quoted[name] == pytest.approx(row, abs=2), "\n".join(wanted)


def test_the_one_used_is_among_the_best_at_1_percent_and_better_than_any_with_equal_weights(table):
    at_1, error, at_01, *_ = table[CHOSEN]
    assert at_1 >= max(row[0] for row in table.values()) - error
    equal = [name for name in table if "without margin" in name or "the four" in name or "harmonic" in name]
    assert len(equal) == 7
    for name in equal:
        assert at_1 > table[name][0] + error, name
        assert at_01 > table[name][2], name

"""S7, batch by batch: items that were planned together show in the latent space, though each of them looks right.

Spectral signatures (Tran, Li & Madry 2018, arXiv 1811.00636, algorithm 1): of the latents that bear one label, centred,
those with large projections on the first singular vector. Activation clustering (Chen et al. 2018, arXiv 1811.03728,
section 4): the latents of one label, in ten dimensions, fall into two clusters of which one holds the poison.

Both papers know nothing but the suspicious set, so they need to be told how much of it is poisoned (Tran: remove
1.5 times that), or where a cluster is too small (Chen). Here there are trusted rows of the same label, and they say
what is ordinary instead:
- spectral: an item is suspicious whose projection has a conformal p-value of at most `alpha` among the trusted rows'.
  The direction is that of items and trusted rows together, so colluders who are enough to turn it are found by it, and
  honest items stand as trusted rows do: at most `alpha` of them are suspicious, however few those rows are.
- clustering: a cluster is suspicious where items are over-represented against the other one by more than chance (an
  upper confidence bound at `alpha`), and are at least SHARE_MIN of it.

Ours and not ART's (1.20, `art.defences.detector.poison`): both are a singular value decomposition and forty lines.
ART's want a classifier object and the training set in one, fix the share of poison in advance, know no trusted rows,
and bring scikit-learn into the process that decides.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defenses.budget.calibration import ConformalCalibration
from defenses.budget.intervals import clopper_pearson
from defenses.errors import EvidenceInvalid

ITEMS_MIN: Final = 10  # of a label: fewer show nothing
DIMENSIONS: Final = 10
ROUNDS_MAX: Final = 50
SHARE_MIN: Final = 0.5
STARTS: Final = 5

Latents = NDArray[Any]
Mask = NDArray[np.bool_]


def spectral(items: tuple[Latents, ArrayLike], trusted: tuple[Latents, ArrayLike], *, alpha: float) -> Mask:
    """Say which items stand out on the first singular vector of their label, bool (n,).

    Args:
        items: latents (n, d) and labels (n,), places of classes.
        trusted: the same of trusted rows; a label that they lack is not looked at.
        alpha: the share of honest items that may; fewer than 1 / alpha - 1 trusted rows of a label show nothing.
    """
    found, parts = _by_label(items, trusted)
    for places, own, theirs in parts:
        joined = np.concatenate([own, theirs])
        centred = joined - joined.mean(axis=0)
        first = np.linalg.svd(centred, full_matrices=False)[2][0]
        scores = (centred @ first) ** 2
        ordinary = ConformalCalibration.from_scores(scores[len(own) :])
        found[places] = ordinary.p_values(scores[: len(own)]) <= alpha
    return found


def clustered(
    items: tuple[Latents, ArrayLike], trusted: tuple[Latents, ArrayLike], *, alpha: float, rng: np.random.Generator
) -> Mask:
    """Say which items lie in a cluster of their label that trusted rows do not explain, bool (n,). As `spectral`."""
    found, parts = _by_label(items, trusted)
    for places, own, theirs in parts:
        joined = np.concatenate([own, theirs])
        centred = joined - joined.mean(axis=0)
        directions = np.linalg.svd(centred, full_matrices=False)[2][:DIMENSIONS]
        second = _two_means(centred @ directions.T, rng)
        for side in (second, ~second):
            inside, of = int(side[: len(own)].sum()), int(side.sum())
            other, of_other = len(own) - inside, len(joined) - of
            if not inside or not of_other or inside / of < SHARE_MIN:
                continue
            if clopper_pearson(inside, of, 1 - alpha).low > clopper_pearson(other, of_other, 1 - alpha).high:
                found[places[side[: len(own)]]] = True
    return found


def _by_label(
    items: tuple[Latents, ArrayLike], trusted: tuple[Latents, ArrayLike]
) -> tuple[Mask, list[tuple[NDArray[np.intp], Latents, Latents]]]:
    """Return a mask of nothing, and for each label with enough of both: places of its items, their latents, trusted."""
    latents, labels = np.asarray(items[0], np.float64), np.asarray(items[1], np.int64)
    rows, classes = np.asarray(trusted[0], np.float64), np.asarray(trusted[1], np.int64)
    if latents.ndim != 2 or rows.ndim != 2 or latents.shape[1] != rows.shape[1]:
        raise EvidenceInvalid("latent", f"shapes {latents.shape} and {rows.shape}")
    if len(latents) != len(labels) or len(rows) != len(classes):
        raise EvidenceInvalid("label", f"{len(labels)} of {len(latents)}, {len(classes)} of {len(rows)}")
    if not np.isfinite(latents).all():
        raise EvidenceInvalid("latent", "is not finite")
    parts = []
    for label in np.unique(labels).tolist():
        places, theirs = np.flatnonzero(labels == label), rows[classes == label]
        if len(places) >= ITEMS_MIN and len(theirs) >= ITEMS_MIN:
            parts.append((places, latents[places], theirs))
    return np.zeros(len(labels), bool), parts


def _two_means(points: NDArray[np.float64], rng: np.random.Generator) -> Mask:
    """Return which of the points are in the second of two clusters: Lloyd's algorithm, the best of a few starts."""
    best, least = np.zeros(len(points), bool), np.inf
    for _ in range(STARTS):
        centres = points[rng.choice(len(points), 2, replace=False)]
        second = np.zeros(len(points), bool)
        for _ in range(ROUNDS_MAX):
            apart = ((points[:, None] - centres) ** 2).sum(axis=2)
            moved = apart[:, 1] < apart[:, 0]
            if not moved.any() or moved.all():
                break
            centres = np.stack([points[~moved].mean(axis=0), points[moved].mean(axis=0)])
            if (moved == second).all():
                break
            second = moved
        spread = float(((points[:, None] - centres) ** 2).sum(axis=2).min(axis=1).sum())
        if spread < least:
            best, least = second, spread
    return best

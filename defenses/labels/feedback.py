"""S7, item by item: does a label agree with trusted rows, who contradicts them too often, and how much may one say?

Consistency. Of a row's latent and the label that somebody says it has:
    score = distance to the K nearest trusted rows of that class / distance to the K nearest of all other classes
the nonconformity measure of conformal nearest neighbours (Vovk, Gammerman & Shafer 2005, section 3.1), in the latent
space as Deep k-NN has it (Papernot & McDaniel 2018, arXiv 1803.04765, section 4). p is its rank among held-out trusted
rows *of the class that is said* (Mondrian): a right label, of whatever class, has p <= a in at most a of all cases. So
a class that is hard to tell does not pay for the easy ones.

Disagreement. Right labels are inconsistent (p <= a) at a rate of a on average over calibrations. Of the one in use that
rate is Beta distributed (Bates et al., arXiv 2104.08279, section 3): at most `right_rate_max`, in whatever class. Each
tenant and each principal is a bet against this: the likelihood ratio of a mixture over higher rates, whose expectation
is at most 1 at any number of items (Ville), so that an honest one is ever suspected with probability of at most
SUSPECT_ALPHA. It sees what the single item does not show: many labels that are each just plausible enough.

Caps. An update is made of trusted rows and of items; one tenant, and one principal, is at most a share of it. Which of
their items stay is drawn, not first come: whoever floods cannot push out what came before.

Pure. What is suspected is quarantined by the gateway; nothing here learns from items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defenses.budget.calibration import digest_arrays
from defenses.budget.intervals import beta_quantile
from defenses.errors import CalibrationInvalid, EvidenceInvalid

NAME: Final = "feedback"
TECHNIQUE: Final = "AML.T0020"  # MITRE ATLAS: Poison Training Data
NEIGHBOURS: Final = 10
CLASS_ROWS_MIN: Final = 2 * NEIGHBOURS
TRUSTED_ROWS_MAX: Final = 20_000
CALIBRATION_ROWS_MIN: Final = 100  # of a class: below, p could never be 1 %
SUSPECT_ALPHA: Final = 1e-3
RATE_CONFIDENCE: Final = 0.99  # of the bounds of all classes together

_ALGORITHM = "stockade.feedback/1"
_LATENTS, _LABELS = f"{NAME}.latents", f"{NAME}.labels"
_SCORES, _SCORED = f"{NAME}.calibration", f"{NAME}.calibration_labels"
_CHUNK_ROWS = 512
_RATES = (2.0, 4.0, 8.0, 16.0, 32.0)  # how much higher than right labels' the rates are that a bet is on
_TINY = 1e-12

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Consistency:
    """Trusted rows with their classes, and how right labels score: float64, ascending, one array a class."""

    latents: Rows
    labels: Labels
    calibration: tuple[NDArray[np.float64], ...]

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read what `fit_consistency` wrote, of a bundle's calibration; CalibrationInvalid where it will not do."""
        for name, kind, dims in ((_LATENTS, "f", 2), (_LABELS, "i", 1), (_SCORES, "f", 1), (_SCORED, "i", 1)):
            if name not in arrays:
                raise CalibrationInvalid(name, "absent")
            if arrays[name].dtype.kind != kind or arrays[name].ndim != dims:
                raise CalibrationInvalid(name, f"{arrays[name].dtype} of {arrays[name].ndim} dimensions")
        latents, labels = arrays[_LATENTS].astype(np.float32), arrays[_LABELS].astype(np.int64)
        scores, scored = arrays[_SCORES].astype(np.float64), arrays[_SCORED].astype(np.int64)
        if len(latents) != len(labels) or len(scores) != len(scored) or not 0 < len(labels) <= TRUSTED_ROWS_MAX:
            raise CalibrationInvalid(_LATENTS, f"{len(latents)} rows with {len(labels)} labels")
        classes = int(labels.max()) + 1
        if labels.min() < 0 or scored.min(initial=0) < 0 or scored.max(initial=0) >= classes:
            raise CalibrationInvalid(_LABELS, "not places of classes")
        parts = tuple(np.sort(scores[scored == label]) for label in range(classes))
        for label, part in enumerate(parts):
            if len(part) < CALIBRATION_ROWS_MIN or (labels == label).sum() < CLASS_ROWS_MIN:
                raise CalibrationInvalid(_SCORES, f"class {label} has {len(part)} calibration rows")
        return cls(latents, labels, parts)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.calibration)

    @property
    def width(self) -> int:
        """Elements of a latent."""
        return int(self.latents.shape[1])

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the trusted rows and the calibration."""
        parts = {f"scores.{label}": part for label, part in enumerate(self.calibration)}
        return digest_arrays(_ALGORITHM, {"latents": self.latents, "labels": self.labels, **parts})

    def right_rate_max(self, inconsistent_alpha: float) -> float:
        """Return the largest share of right labels of a class that are inconsistent by this calibration."""
        return right_rate_max([part.size for part in self.calibration], inconsistent_alpha)

    def p_values(self, latents: NDArray[Any], labels: ArrayLike) -> NDArray[np.float64]:
        """Return p of each label, float64 (n,), in (0, 1]; small where trusted rows contradict it.

        Args:
            latents: (n, width), floats.
            labels: (n,), places of classes.

        Raises:
            EvidenceInvalid: shapes or labels that do not fit. A latent that is not finite gets the smallest p.
        """
        said = np.asarray(labels, np.int64)
        if latents.ndim != 2 or latents.shape != (said.size, self.width):
            raise EvidenceInvalid("latent", f"shape {latents.shape}; ({said.size}, {self.width}) wanted")
        if said.size and not (said.min() >= 0 and said.max() < self.classes):
            raise EvidenceInvalid("label", "is no place of a class")
        scores = _scores(self.latents, self.labels, latents.astype(np.float32), said)
        found = np.empty(said.size)
        for label, part in enumerate(self.calibration):
            chosen = said == label
            at_least = part.size - part.searchsorted(scores[chosen], side="left")
            found[chosen] = (1 + at_least) / (part.size + 1)
        return found


def fit_consistency(
    trusted: tuple[NDArray[Any], ArrayLike], calibrate: tuple[NDArray[Any], ArrayLike]
) -> dict[str, NDArray[Any]]:
    """Return the arrays that a bundle brings for its feedback gate.

    Args:
        trusted: latents (n, d) and labels (n,) of rows whose labels are known to be right, a few thousand.
        calibrate: the same of rows that are not among them; the model must not have learned from these.

    Raises:
        CalibrationInvalid: too few rows of a class.
    """
    latents, labels = trusted[0].astype(np.float16), np.asarray(trusted[1], np.int64)
    seen, said = calibrate[0].astype(np.float32), np.asarray(calibrate[1], np.int64)
    scores = _scores(latents.astype(np.float32), labels, seen, said)
    arrays: dict[str, NDArray[Any]] = {_LATENTS: latents, _LABELS: labels, _SCORES: scores, _SCORED: said}
    Consistency.load(arrays)
    return arrays


def _scores(trusted: Rows, classes: Labels, latents: Rows, said: Labels) -> NDArray[np.float64]:
    """Return the score of each row, float64 (n,); NaN becomes the largest."""
    norms = np.einsum("nd,nd->n", trusted, trusted)
    order = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[order], np.arange(int(classes.max()) + 2))
    found = np.empty(len(latents))
    for first in range(0, len(latents), _CHUNK_ROWS):
        part = latents[first : first + _CHUNK_ROWS]
        with np.errstate(all="ignore"):  # what is not finite is dealt with below
            apart = norms - 2.0 * part @ trusted.T + np.einsum("nd,nd->n", part, part)[:, None]
            near = np.sqrt(np.maximum(apart, 0.0))[:, order]
        by_class = np.stack([_nearest(near[:, low:high]) for low, high in pairwise(starts)], axis=1)
        rows = np.arange(len(part))
        own = by_class[rows, said[first : first + len(part)]].copy()
        by_class[rows, said[first : first + len(part)]] = np.inf
        found[first : first + len(part)] = own / np.maximum(by_class.min(axis=1), _TINY)
    return np.where(np.isfinite(found), found, np.finfo(np.float64).max)


def _nearest(apart: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean of the NEIGHBOURS smallest distances of each row; none: infinite."""
    if apart.shape[1] == 0:
        return np.full(len(apart), np.inf)
    count = min(NEIGHBOURS, apart.shape[1])
    nearest: NDArray[np.float64] = np.partition(apart, count - 1, axis=1)[:, :count].mean(axis=1, dtype=np.float64)
    return nearest


def right_rate_max(calibration_rows: Sequence[int], inconsistent_alpha: float) -> float:
    """Return which share of right labels has p <= `inconsistent_alpha` at most, in whatever class.

    Args:
        calibration_rows: of each class.
        inconsistent_alpha: the `a` of the module's docstring.

    Over the draw of the calibration this holds for all classes together with RATE_CONFIDENCE.
    """
    sure = 1 - (1 - RATE_CONFIDENCE) / len(calibration_rows)
    ranks = [(max(floor(inconsistent_alpha * (rows + 1)), 1), rows) for rows in set(calibration_rows)]
    return max(beta_quantile(sure, rank, rows + 1 - rank) for rank, rows in ranks)


def suspects(names: Sequence[str], p_values: ArrayLike, inconsistent_alpha: float, rate_max: float) -> list[str]:
    """Return whose labels are inconsistent more often than right ones can be, in the order of their names.

    Args:
        names: (n,), the tenant, or the principal, of each item.
        p_values: (n,), of `Consistency.p_values`.
        inconsistent_alpha: the `a` of the module's docstring.
        rate_max: how often right labels are inconsistent at most; see `right_rate_max`.
    """
    contradicts = np.asarray(p_values) <= inconsistent_alpha
    tally: dict[str, list[int]] = {}
    for name, bad in zip(names, contradicts.tolist(), strict=True):
        seen = tally.setdefault(name, [0, 0])
        seen[0] += bad
        seen[1] += 1
    return sorted(name for name, (bad, of) in tally.items() if _evidence(bad, of, rate_max) >= 1 / SUSPECT_ALPHA)


def _evidence(bad: int, of: int, rate_max: float) -> float:
    """Return the e-value against a rate of at most rate_max, of `bad` among `of`."""
    higher = [min(rate_max * factor, 0.9) for factor in _RATES if rate_max * factor < 1.0] or [(1 + rate_max) / 2]
    logs = [bad * np.log(rate / rate_max) + (of - bad) * np.log((1 - rate) / (1 - rate_max)) for rate in higher]
    top = max(logs)
    return float(np.exp(min(top, 700.0)) * np.mean(np.exp(np.array(logs) - top)))


def capped(
    tenants: Sequence[str],
    principals: Sequence[str],
    trusted_rows: int,
    *,
    tenant_share_max: float,
    principal_share_max: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Say which items are part of an update, bool (n,).

    No tenant has more than `tenant_share_max` of the update, which is what is kept and the trusted rows together, and
    no principal of a tenant more than `principal_share_max`. So without trusted rows, and with fewer tenants than
    1 / tenant_share_max, there is no update.
    """
    order = rng.permutation(len(tenants)).tolist()
    kept = np.ones(len(tenants), bool)
    while True:  # a cap makes the update smaller, and with it the cap
        total = trusted_rows + int(kept.sum())
        most_tenant, most_principal = int(tenant_share_max * total), int(principal_share_max * total)
        held: dict[tuple[str, ...], int] = {}
        again = np.zeros(len(tenants), bool)
        for place in order:
            who, tenant = (tenants[place], principals[place]), (tenants[place],)
            if kept[place] and held.get(tenant, 0) < most_tenant and held.get(who, 0) < most_principal:
                again[place] = True
                held[tenant], held[who] = held.get(tenant, 0) + 1, held.get(who, 0) + 1
        if int(again.sum()) == int(kept.sum()):
            return again
        kept = again

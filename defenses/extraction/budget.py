"""S4 query budget: what an answer gives away of the model, and how much of it an account may have in a day.

Prices. An answer's price is made of two e-values, numbers whose mean over benign rows is at most 1:
    foreign    of the stateless screens' p-value: inputs that are no inputs of this kind map the model out
    near       of how small the margin between the two likeliest classes is, among benign rows of the same predicted
               class: answers near a boundary say where it runs
with e(p) = 1 / (2 sqrt(p)) (the calibrator kappa p^(kappa-1) at kappa = 1/2; Vovk and Wang 2021, "E-values",
section 2). Their mean is the price of an answer; it is half where the likeliest class alone is told, and less where the
account asked almost the same before. Benign traffic pays about one unit an answer whatever its classes are; whoever
asks foreign or boundary inputs pays up to fifty. Three classes instead of all cost no less: a copy learns as much from
them (docs/explanation/defenses.md).

Account. One number: when it will be out of debt (GCRA; ITU-T I.371, annex A), with a burst of one day's allowance and
a refill of as much a day. Debt is therefore measured in days:
    below `top1_after`    full answers            below `proof_after`   the likeliest class alone
    below `refuse_after`  that, for a proof of work                     above: refused, as a spent quota

The step is that of the debt before the answer. A clock that runs backwards can only make it stricter. What is refused
for its debt or for want of a proof costs nothing: nothing was looked at. A row that a screen refuses costs its price.

What the allowance promises is in `defenses.extraction.allowance`, which calibrates it. This is pure: no clock, no IO.

What it does not do: know who is whom. Accounts that move together are one for it when the caller keeps one `Account`
for all of them (`merge`).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from defenses.budget.calibration import digest_arrays
from defenses.errors import BudgetStateInvalid, CalibrationInvalid, EvidenceInvalid, RuleInvalid

NAME: Final = "budget"
TECHNIQUE: Final = "AML.T0024.002"  # MITRE ATLAS: Extract ML Model
MILLI: Final = 1_000
DAY_NS: Final = 86_400 * 1_000_000_000
PRICE_MILLI_MAX: Final = 1_000 * MILLI  # of one answer, whatever a calibration says
CLASSES_MAX: Final = 4_096
ROWS_MIN: Final = 20  # of a predicted class, to have margins of its own
ROWS_MAX: Final = 1_000_000
TOP1_SHARE: Final = 0.5  # of the price, where the likeliest class alone is told
REPEAT_SHARE: Final = 0.25  # of it, where the account asked the very same before

_ALGORITHM = "stockade.budget/1"
_PARTS = ("margins", "owners", "scale", "rates", "units")
_STATE = struct.Struct("<q")


class BudgetStep(IntEnum):
    """What is left to an account, from all to nothing."""

    FULL = 0
    TOP1 = 1
    PROOF_OF_WORK = 2
    REFUSE = 3


@dataclass(frozen=True, slots=True)
class Account:
    """When an account will be out of debt, in the nanoseconds of the caller's wall clock. 8 bytes when kept."""

    free_at_ns: int = 0

    def pack(self) -> bytes:
        return _STATE.pack(self.free_at_ns)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read what `pack` wrote; BudgetStateInvalid for any other bytes."""
        if len(data) != _STATE.size:
            raise BudgetStateInvalid(len(data))
        [free_at_ns] = _STATE.unpack(data)
        if free_at_ns < 0:
            raise BudgetStateInvalid(len(data))
        return cls(free_at_ns)


FRESH: Final = Account()


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """What an answer costs, calibrated on benign rows. Build it with `from_calibration`.

    `places` holds the margins of benign rows, each at 2 x its predicted class + margin, ascending: so one search finds
    the rank of a row among those of its class, which are `counts` from `starts` on.
    """

    places: NDArray[np.float64] = field(repr=False)
    starts: NDArray[np.intp] = field(repr=False)  # (classes,)
    counts: NDArray[np.intp] = field(repr=False)  # (classes,)
    scale: NDArray[np.float64] = field(repr=False)  # (classes,): the mean price of benign rows before it
    digest: str
    name: str = NAME
    technique: str = TECHNIQUE

    @classmethod
    def from_calibration(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read the "budget.*" arrays of `defenses.extraction.allowance.fit_budget`; CalibrationInvalid if malformed."""
        own = own_arrays(arrays)
        scale, owners, margins = (own[f"{NAME}.{part}"] for part in ("scale", "owners", "margins"))
        if scale.ndim != 1 or not 2 <= scale.size <= CLASSES_MAX or not (np.isfinite(scale) & (scale > 0)).all():
            raise CalibrationInvalid(f"{NAME}.scale", "one positive number a class wanted")
        if margins.ndim != 1 or not 1 <= margins.size <= ROWS_MAX or owners.shape != margins.shape:
            raise CalibrationInvalid(f"{NAME}.margins", f"{margins.shape}, of the classes {owners.shape}")
        if not ((margins >= 0.0) & (margins <= 1.0)).all() or not ((owners >= 0) & (owners < scale.size)).all():
            raise CalibrationInvalid(f"{NAME}.margins", "outside [0, 1], or of no class")
        everybody = np.sort(margins)
        by_class = [np.sort(margins[owners == number]) for number in range(scale.size)]
        known = [few if few.size >= ROWS_MIN else everybody for few in by_class]
        counts = np.array([each.size for each in known], np.intp)
        places = np.concatenate([2.0 * number + each for number, each in enumerate(known)])
        return cls(
            places, counts.cumsum() - counts, counts, np.asarray(scale, np.float64), digest_arrays(_ALGORITHM, own)
        )

    def cost(
        self,
        prediction: NDArray[Any],
        p_values: NDArray[np.float64],
        *,
        novelty: NDArray[np.float64] | None = None,
    ) -> NDArray[np.int64]:
        """Return what each answer costs, int64 (rows,), in thousandths of a unit, from 1 to PRICE_MILLI_MAX.

        Args:
            prediction: the probabilities as the model gave them, float (rows, classes), before any hardening.
            p_values: of the stateless screens, float64 (rows,); NaN counts as the least there is.
            novelty: how unlike all that the account asked before each row is, in [0, 1]; None is all new.

        Raises:
            EvidenceInvalid: an array has another shape.
        """
        winners = _winners(prediction)
        full = self._unscaled(prediction, winners, p_values) / self.scale[winners]
        if novelty is not None:
            if novelty.shape != full.shape:
                raise EvidenceInvalid("novelty", f"{novelty.shape} for {full.size} rows")
            fresh = np.fmax(np.fmin(novelty, 1.0), 0.0)  # NaN becomes 1
            full *= REPEAT_SHARE + (1.0 - REPEAT_SHARE) * fresh
        return np.asarray(np.minimum(np.maximum(np.rint(full * MILLI), 1), PRICE_MILLI_MAX), np.int64)

    def unscaled(self, prediction: NDArray[Any], p_values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean of the two e-values of each row, float64 (rows,); EvidenceInvalid for other shapes."""
        return self._unscaled(prediction, _winners(prediction), p_values)

    def _unscaled(
        self, prediction: NDArray[Any], winners: NDArray[np.intp], p_values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        classes = self.scale.size
        if prediction.ndim != 2 or prediction.shape[1] != classes or prediction.dtype.kind != "f":
            raise EvidenceInvalid("prediction", f"{prediction.dtype}{prediction.shape}: (rows, {classes}) wanted")
        if p_values.shape != prediction.shape[:1]:
            raise EvidenceInvalid("p_values", f"{p_values.shape} for {len(prediction)} rows")
        at_most = self.places.searchsorted(2.0 * winners + margins_of(prediction), side="right") - self.starts[winners]
        near = (at_most + 1) / (self.counts[winners] + 1)
        foreign, near = e_value(np.array([p_values, near]))
        return np.asarray((foreign + near) / 2)


@dataclass(frozen=True, slots=True)
class Budget:
    """How much an account may have, and what comes when that is spent. `units` are for a day; the others are days."""

    units: float
    top1_after: float = 1.0
    proof_after: float = 1.25
    refuse_after: float = 1.5

    def __post_init__(self) -> None:
        if not 1.0 <= self.units <= 1e9:
            raise RuleInvalid("units", f"{self.units}: outside [1, 1e9] a day")
        if not 0.0 < self.top1_after <= self.proof_after <= self.refuse_after <= 30.0:
            raise RuleInvalid("top1_after", "not 0 < top1_after <= proof_after <= refuse_after <= 30 days")

    @classmethod
    def from_calibration(cls, arrays: Mapping[str, NDArray[Any]], queries_per_day: int) -> Self:
        """Return the budget that a benign account which asks this often stays within, at the calibrated rate.

        CalibrationInvalid when the arrays are malformed, RuleInvalid for more queries than were calibrated.
        """
        own = own_arrays(arrays)
        rates, units = own[f"{NAME}.rates"], own[f"{NAME}.units"]
        if rates.ndim != 1 or rates.shape != units.shape or not rates.size or (np.diff(rates) <= 0).any():
            raise CalibrationInvalid(f"{NAME}.rates", "not ascending, with units for each")
        if not (np.isfinite(units) & (units >= 1.0)).all():
            raise CalibrationInvalid(f"{NAME}.units", "not at least one unit a day")
        enough = np.flatnonzero(rates >= queries_per_day)
        if not enough.size or queries_per_day < 1:
            raise RuleInvalid("queries_per_day", f"{queries_per_day}: calibrated from 1 to {int(rates[-1])}")
        return cls(float(units[enough[0]]))

    def debt_days(self, account: Account, now_ns: int) -> float:
        """Return how many days' allowance the account owes, 0 at least."""
        return self._debt_ns(account, now_ns) / DAY_NS

    def step(self, account: Account, now_ns: int) -> BudgetStep:
        """Return what the next answer may be."""
        debt = self._debt_ns(account, now_ns) / DAY_NS
        if debt < self.top1_after:
            return BudgetStep.FULL
        if debt < self.proof_after:
            return BudgetStep.TOP1
        return BudgetStep.PROOF_OF_WORK if debt < self.refuse_after else BudgetStep.REFUSE

    def charge(
        self, account: Account, cost_milli: int, now_ns: int, *, proven: bool = False, top1: bool = False
    ) -> tuple[Account, BudgetStep]:
        """Take one answer's cost, as `Prices.cost` has it, and say what that answer may be.

        An answer of one class costs TOP1_SHARE: beyond the first step, and where `top1` says that no more is told
        anyway. Nothing is taken where nothing is answered: at REFUSE, and at PROOF_OF_WORK unless the request is
        `proven`.
        """
        step = self.step(account, now_ns)
        if step == BudgetStep.REFUSE or (step == BudgetStep.PROOF_OF_WORK and not proven):
            return account, step
        price = max(0, cost_milli) * (TOP1_SHARE if top1 or step != BudgetStep.FULL else 1.0)
        price_ns = int(price * DAY_NS / (self.units * MILLI))
        return Account(now_ns + self._debt_ns(account, now_ns) + price_ns), step

    def retry_after_ms(self, account: Account, now_ns: int) -> int:
        """Return in how many milliseconds the account is out of REFUSE, 0 when it is."""
        return max(0, -(-(self._debt_ns(account, now_ns) - int(self.refuse_after * DAY_NS)) // 1_000_000))

    def merge(self, one: Account, other: Account, now_ns: int) -> Account:
        """Return the account of two that turn out to be one: it owes what both owe."""
        return Account(now_ns + self._debt_ns(one, now_ns) + self._debt_ns(other, now_ns))

    def _debt_ns(self, account: Account, now_ns: int) -> int:
        """A clock that jumped back by years leaves nobody in debt for years."""
        ceiling = int((self.refuse_after + 1.0) * DAY_NS)
        return min(max(0, account.free_at_ns - now_ns), ceiling)


def e_value(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (2 sqrt(p)): mean 1 where p is uniform, less where it is conservative. NaN and what is no p count as 1e-6."""
    return np.asarray(0.5 / np.sqrt(np.fmin(np.fmax(p_values, 1e-6), 1.0)))


def margins_of(prediction: NDArray[Any]) -> NDArray[np.float64]:
    """The likeliest class's probability less the next one's, float64 (rows,) in [0, 1]; 0 where there is a NaN."""
    two = np.sort(prediction, axis=1)[:, -2:]
    margins = np.subtract(two[:, 1], two[:, 0], dtype=np.float64)
    return np.asarray(np.fmin(np.fmax(margins, 0.0), 1.0))


def own_arrays(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The "budget.*" arrays; CalibrationInvalid for one that is absent, unknown, or of another type."""
    own = {name: array for name, array in arrays.items() if name.startswith(f"{NAME}.")}
    wanted = {f"{NAME}.{part}": "i" if part in ("owners", "rates") else "f" for part in _PARTS}
    for name in own.keys() ^ wanted.keys():
        raise CalibrationInvalid(name, "absent, or unknown to this version of the budget")
    for name, kind in wanted.items():
        if own[name].dtype.kind != kind:
            raise CalibrationInvalid(name, f"of {own[name].dtype}")
    return own


def _winners(prediction: NDArray[Any]) -> NDArray[np.intp]:
    return np.asarray(prediction.argmax(axis=1), np.intp)

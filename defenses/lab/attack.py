"""What an attack is, what it is run against, and what it leaves: the contract of the lab. NumPy alone, no IO.

An attacker sees an `Oracle`: what an account of the service sees, and no more. What the lab itself must know to count
(was the row acted upon, did the account meet its first action) reaches the `Counted` oracle around it and stays there,
unless an experiment hands it to the attack on purpose and says so in `Trial.knowledge`.

An experiment is data: a row of `gateway/tools/lab/experiments.toml` that names a method and its parameters. A method
is a function (Run, **parameters) to findings. It asks its run for all it needs, so the same method runs against a
gateway over gRPC and against a bundle in this process. `Experiment.run` makes trials of the findings.

Rules of the numbers:
1. Rates are counts: a trial holds successes and samples, and whoever reads it makes the interval.
2. Success is verified by the lab, never claimed by the attack: the adversarial row is answered wrongly, within the
   norm, unflagged.
3. Chance comes from the seed alone. Nothing is tuned on the rows that are reported on.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

ACCOUNTS_MAX: Final = 64
ROWS_PER_ASK_MAX: Final = 10_000


class Reason(StrEnum):
    """Why a row was not answered, as far as a caller is told."""

    REFUSED = "refused"  # the one fixed sentence: a screen, or a policy
    RATE_LIMITED = "rate_limited"  # also what a cool-down looks like
    PROOF_OF_WORK = "proof_of_work"  # a puzzle is asked for, and the oracle does not solve it
    INVALID = "invalid"
    UNAVAILABLE = "unavailable"


class Refused(Exception):
    """No row of the call was answered; `reason` is the first row's."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class BudgetSpent(Exception):
    """The attack has asked all that it may. Raised by a counted oracle; the lab takes it as the attack's end."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What came back, in the order asked.

    probabilities: float32 (n, classes) as answered, so hardened; NaN where not answered. Where only a label is
        answered (top-1), 1 at that class.
    labels: int64 (n,), -1 where not answered.
    answered: bool (n,).
    acted: bool (n,), whether a screen moved the row (flag, harden, refuse, whatever the policy's step); None: not told.
        Lab's own knowledge, see `Counted`: an attack that reads it has a perfect oracle for detection.

    What leaks beside these (latency, trailers) stays out.
    """

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    answered: NDArray[np.bool_]
    acted: NDArray[np.bool_] | None = None


class Oracle(Protocol):
    """The black box: one model version, asked by accounts numbered from 0. Each row is a request of its own, in order.

    Rows are float32 (n, *shape), n <= ROWS_PER_ASK_MAX. Raises Refused where not one row was answered, and IndexError
    for an account that it does not have.
    """

    accounts: int
    """How many accounts there are."""

    def ask(self, rows: NDArray[np.float32], account: int = 0) -> Answers: ...


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One row attacked. An attack fills in the first three; the lab verifies `success` and counts the rest.

    success: as the attack believes, then as the lab found.
    queries: rows that the attack asked.
    adversarial: float32 (*shape), its best row, whether it succeeded or not.
    norm: the change, in the attack's norm (L-inf unless its settings say L2).
    answered: of the queries, distinct rows that were answered.
    before_action: distinct rows answered before a screen first acted on one of the attack's; None: none ever did.
    """

    success: bool
    queries: int
    adversarial: NDArray[np.float32]
    norm: float = float("nan")
    answered: int = 0
    before_action: int | None = None


class QueryAttack(Protocol):
    """An attack that asks. Its settings are its fields (a frozen dataclass).

    `run` stops of itself after `budget` rows asked, or takes BudgetSpent as its end and returns its best; it leaves
    `row` as it is, draws chance from `rng` alone and lets Refused pass only where it can do no more.
    """

    def run(
        self, oracle: Oracle, row: NDArray[np.float32], label: int, budget: int, rng: np.random.Generator
    ) -> Attempt: ...


@dataclass(frozen=True, slots=True)
class Trial:
    """One line of the scorecard: what one attack achieved with one seed. Plain JSON, and NaN nowhere.

    attack: the experiment's name with what tells its trials apart, such as "whitebox/kiosk-2/eps-0.1".
    family, technique: as of the attack.
    knowledge: what the attacker had: "static", "adaptive white box", "black box", "black box, sees actions", ...
    defended: False for the control, which must fail.
    samples, successes: what the rate is of; say in `settings` what counts as success where it is not evasion.
    metrics: further numbers (medians, AUC, agreement), by name with the unit last.
    settings: norm, epsilon, queries, identities, restarts, sizes: what one needs to repeat it.
    curves: lists of points (x, y) for the plots: "roc", "agreement", "evasion_by_fpr", "success_by_answered".
    """

    attack: str
    family: str
    technique: str
    knowledge: str
    defended: bool
    seed: int
    samples: int
    successes: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, list[tuple[float, float]]] = field(default_factory=dict)


class Size(StrEnum):
    SMOKE = "smoke"  # seconds: does it run, and does it still find what it should
    FULL = "full"  # what is published


class Split(StrEnum):
    """Rows that belong together. Attack TEST; tune on DEVELOP; what the model learned from is TRAIN."""

    TRAIN = "train"
    DEVELOP = "develop"  # no weight was learned from it; the screens' tails were fitted to it
    CALIBRATE = "calibrate"  # what the screens' thresholds come from
    TEST = "test"


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Rows float32 (n, *shape) with their true classes int64 (n,)."""

    rows: NDArray[np.float32]
    labels: NDArray[np.int64]


class Model(Protocol):
    """One model version by its bundle, without a gateway: what a white-box attacker holds."""

    name: str
    version: str
    classes: int

    def outputs(self, rows: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        """Run the bundle's graph in this process: all outputs by name, leading axis the rows."""
        ...

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return the bundle's calibration arrays, under their names ("evidence.calibration", ...)."""
        ...

    def module(self) -> Any:
        """Return it as a torch module, rows to outputs by name; evaluation mode, no gradients of weights."""
        ...


class Lab(Protocol):
    """What an experiment is given."""

    size: Size
    directory: Path
    """Scratch that stays between runs of the lab: cached shadow models and the like. Exists."""

    def model(self, name: str, version: str) -> Model: ...

    def rows(self, model: str, split: Split, count: int, seed: int) -> Sample:
        """Draw `count` rows without repeats; the same seed gives the same rows, and seeds 0, 1, 2, ... of one count
        give disjoint ones while there are rows (afterwards, and where the data set is not on this machine, fewer).
        """
        ...

    def oracle(
        self,
        name: str,
        version: str,
        *,
        defended: bool,
        accounts: int = 1,
        tenants: int = 1,
        changes: Mapping[str, Any] | None = None,
    ) -> AbstractContextManager[Oracle]:
        """Open the model to new accounts, spread evenly over new tenants, whom no screen remembers.

        Not defended: the same service with every screen off and nothing hardened. `changes` are laid over the model's
        part of the policy, key by key (a variant under test). Answers carry `acted`. Proofs of work are not made.
        """
        ...

    def tell(self, what: str, done: int, total: int) -> None:
        """Say how far it is; cheap, call it per row."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """What a method is given: the lab, a seed, a model version, and the name of the attack."""

    lab: Lab
    seed: int
    model: str
    version: str
    attack: str

    @property
    def smoke(self) -> bool:
        return self.lab.size is Size.SMOKE

    def victim(self) -> Model:
        """Return the model under attack as its bundle has it."""
        return self.lab.model(self.model, self.version)

    def rows(self, split: Split, count: int, seed: int | None = None) -> Sample:
        """Draw rows; `seed` None: those of the run's own seed. See `Lab.rows`."""
        return self.lab.rows(self.model, split, count, self.seed if seed is None else seed)

    def oracle(self, *, defended: bool, **options: Any) -> AbstractContextManager[Oracle]:
        """Open the model to new accounts; see `Lab.oracle`."""
        return self.lab.oracle(self.model, self.version, defended=defended, **options)

    def tell(self, done: int, total: int) -> None:
        self.lab.tell(self.attack, done, total)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a method measured; see `Trial` for the fields. `part` is added to the attack's name; `knowledge` None: as in
    the catalogue.
    """

    samples: int
    successes: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, list[tuple[float, float]]] = field(default_factory=dict)
    part: str = ""
    defended: bool = True
    knowledge: str | None = None


Method = Callable[..., list[Finding]]


@dataclass(frozen=True, slots=True)
class Experiment:
    """A row of the catalogue. `run` gives the same trials for the same (lab, seed).

    method: "module:function", imported when the experiment runs; or the function. Called with a Run and `parameters`.
    attack: the name in trials where it is not the experiment's.
    seeds: how many a full run takes; a smoke run takes one.
    """

    name: str
    family: str
    summary: str
    method: str | Method
    parameters: Mapping[str, Any] = field(default_factory=dict)
    technique: str = ""
    knowledge: str = "black box"
    version: str = "1"
    model: str = "kiosk"
    attack: str | None = None
    seeds: int = 3

    def run(self, lab: Lab, seed: int) -> list[Trial]:
        """Run the method and make a trial of each finding."""
        method = self.method
        if isinstance(method, str):
            module, _, function = method.partition(":")
            method = getattr(import_module(module), function)
        attack = self.attack or self.name
        found = method(Run(lab, seed, self.model, self.version, attack), **self.parameters)
        return [
            Trial(
                attack=f"{attack}/{one.part}" if one.part else attack,
                family=self.family,
                technique=self.technique,
                knowledge=self.knowledge if one.knowledge is None else one.knowledge,
                defended=one.defended,
                seed=seed,
                samples=one.samples,
                successes=one.successes,
                metrics=one.metrics,
                settings=one.settings,
                curves=one.curves,
            )
            for one in found
        ]

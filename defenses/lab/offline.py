"""An oracle without a gateway: the bundle's graph, its screens and its watch in this process. For trying attacks out.

It answers as a gateway with the same policy answers, batch by batch: screens and watch see every row, then the answer
is hardened, given again, cut to its top class, or refused. Not here: credentials, limits, records, proofs of work (an
account on that step is refused), and time, which goes on by a microsecond a row. What is published about black boxes
goes through a real gateway (gateway/tools/lab/oracle.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from defenses.accounts.observed import Asker
from defenses.accounts.watch import Watch
from defenses.budget.hardening import HardeningRule, harden
from defenses.budget.policy import Action, Mode, ScreenRule, calibrated_rule, decide
from defenses.budget.screen import Evidence
from defenses.budget.steps import Standings, Step
from defenses.lab.attack import ROWS_PER_ASK_MAX, Answers, Model, Reason, Refused
from defenses.screens.evidence import NAME as EVIDENCE
from defenses.screens.evidence import load_evidence

if TYPE_CHECKING:
    from defenses.budget.calibration import Calibrated

PREDICTION: Final = "probabilities"
TOP1: Final = HardeningRule(top_k=1, temperature=1.0, decimals=0)
ROW_NS: Final = 1_000
_REFUSING = {
    Action.PROOF_OF_WORK: Reason.PROOF_OF_WORK,
    Action.COOL_DOWN: Reason.RATE_LIMITED,
    Action.REFUSE: Reason.REFUSED,
}


@dataclass(frozen=True, slots=True)
class Defended:
    """What is in force. Rates are shares of benign rows (0: never); `steps` need a watch, and so does `consistent`.

    consistent: repeats get the earlier answer from the first query on, not from the step NEIGHBOUR on.
    """

    flag: float = 0.01
    refuse: float = 0.001
    hardening: HardeningRule | None = None
    harden_flagged: bool = False
    steps: tuple[Step, ...] = ()
    consistent: bool = False


class OfflineOracle:
    """Implements Oracle over a model. `defended` None: nothing is in force. `watch`: fresh, and this oracle's alone.

    Accounts are "account-N" in tenants "tenant-M", spread evenly. Not for several threads.
    """

    def __init__(
        self,
        model: Model,
        tensor: str,
        defended: Defended | None,
        *,
        accounts: int = 1,
        tenants: int = 1,
        watch: Watch | None = None,
    ) -> None:
        """Raises CalibrationInvalid, CalibrationTooSmall: the bundle's arrays will not do for these rates."""
        self.accounts = accounts
        self._model, self._tensor = model, tensor
        self._defended = defended or Defended(flag=0.0, refuse=0.0)
        self._askers = [Asker(f"account-{place}", f"tenant-{place % tenants}") for place in range(accounts)]
        self._watch, self._standings, self._now_ns = watch, Standings(), 0
        self._screens: dict[str, Calibrated] = {}
        self._rules: dict[str, ScreenRule] = {}
        if self._defended.flag:
            screen = self._screens[EVIDENCE] = load_evidence(model.arrays())
            self._rules[EVIDENCE] = calibrated_rule(
                Mode.ENFORCE,
                screen.calibration,
                flag_fpr_max=self._defended.flag,
                refuse_fpr_max=self._defended.refuse,
            )

    def ask(self, rows: NDArray[np.float32], account: int = 0) -> Answers:
        """Ask row by row, each a request of its own; see `Oracle`."""
        if not 1 <= len(rows) <= ROWS_PER_ASK_MAX:
            raise ValueError(f"{len(rows)} rows; 1 to {ROWS_PER_ASK_MAX} may be asked at once")
        asker = self._askers[account]
        outputs = self._model.outputs(rows)
        evidence = Evidence({self._tensor: rows}, outputs)
        actions = self._row_actions(evidence, len(rows))
        given = np.array(outputs[PREDICTION], np.float32)
        if self._watch is not None:
            actions = self._watched(self._watch, asker, evidence, given, actions)
        given = self._softened(given, actions)
        answered = ~np.isin(actions, [*_REFUSING])
        if not answered.any():
            raise Refused(_REFUSING[Action(actions[0])])
        given[~answered] = np.nan
        labels = np.where(answered, np.nan_to_num(given, nan=-1.0).argmax(axis=1), -1).astype(np.int64)
        return Answers(given, labels, answered, actions != Action.ALLOW)

    def _row_actions(self, evidence: Evidence, rows: int) -> NDArray[np.uint8]:
        p_values = {name: screen.judge(evidence, rows=rows).p_values for name, screen in self._screens.items()}
        return decide(p_values, self._rules, rows=rows, harden_flagged=self._defended.harden_flagged).action

    def _watched(
        self,
        watch: Watch,
        asker: Asker,
        evidence: Evidence,
        given: NDArray[np.float32],
        actions: NDArray[np.uint8],
    ) -> NDArray[np.uint8]:
        """Return the actions with the account's step in them; puts earlier answers into `given`."""
        rows = len(given)
        now_ns, self._now_ns = self._now_ns, self._now_ns + ROW_NS * rows
        askers, starts = [asker] * rows, np.arange(rows, dtype=np.intp)
        seen = watch.observe(askers, starts, evidence.inputs, evidence.outputs, now_ns)
        names: Sequence[str] = [asker.principal] * rows
        standing = self._standings.reach(names, seen.log_evidence, [self._defended.steps] * rows, now_ns)
        together = np.maximum(actions, standing)
        for row, anchor in seen.anchors.items():
            if self._defended.consistent or together[row] >= Action.NEIGHBOUR:
                given[row] = anchor[PREDICTION][0]
        return together

    def _softened(self, given: NDArray[np.float32], actions: NDArray[np.uint8]) -> NDArray[np.float32]:
        rule = self._defended.hardening
        softened = given.copy()
        if rule is not None:
            chosen = actions == Action.HARDEN if self._defended.harden_flagged else np.ones(len(given), np.bool_)
            if chosen.any():
                softened[chosen] = harden(given[chosen], rule)
        top1 = actions >= Action.TOP1
        if top1.any():
            softened[top1] = harden(softened[top1], TOP1)
        return softened

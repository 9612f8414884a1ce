"""What the defenses cost those who attack nothing: accounts ever acted upon, rows flagged, answers that went stale.

An account has 16 questions on the way at once, as many as the watch is calibrated for. Its stream runs through screens
and watch in this process, in an order in which a gateway may see it; some also run through a gateway that has the watch
alone in force, and both counts stand side by side. They differ by the order in which the questions arrive
(docs/explanation/defenses.md), and little by the watch's secret cells. An account is acted upon where its evidence
reaches 1/alpha once; the count is at ACTED_ALPHA, the first step of the policy under test
(gateway/tools/lab/policy.py), and stands beside those at other alphas.

Stale answers: a row near an earlier one gets the earlier answer where the policy has consistent answers. Counted are
all such rows, as if these were in force from the first question on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import log
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from defenses.accounts.observed import Asker, Observed
from defenses.accounts.watch import Watch
from defenses.budget.policy import Action, Mode, calibrated_rule, decide
from defenses.budget.screen import Evidence
from defenses.lab.attack import Lab, Model, Oracle, Refused, Size, Split, Trial
from defenses.lab.benign import Habit, Stream
from defenses.screens.evidence import NAME as EVIDENCE
from defenses.screens.evidence import load_evidence

HABITS: Final[Mapping[str, Habit]] = {
    habit.name: habit
    for habit in (
        Habit("duplicates-0", 0.0),
        Habit("duplicates-5", 0.05),
        Habit("duplicates-5-mixed", 0.05, burst_mean=5.0, mixed=True),
        Habit("duplicates-20", 0.20),
    )
}
"""The third and the fourth repeat themselves otherwise, or more, than the watch was calibrated for."""

STREAMS: Final = {Size.SMOKE: 3, Size.FULL: 334}
QUERIES: Final = {Size.SMOKE: 200, Size.FULL: 1_000}
THROUGH_GATEWAY: Final = {Size.SMOKE: 1, Size.FULL: 60}
IMAGES: Final = {Size.SMOKE: 300, Size.FULL: 10_000}
ALPHAS: Final = (0.05, 0.01, 0.003, 0.001, 0.0003, 0.0001)
ACTED_ALPHA: Final = 0.0001
IN_FLIGHT: Final = 16
TOGETHER: Final = 16  # accounts at a time
TENSOR: Final = "image"
PREDICTION: Final = "probabilities"
KEY: Final = b"the lab has nothing to hide"
LOG_NOTHING: Final = -1e6  # in place of minus infinity, which is no JSON


@dataclass(slots=True)
class _Counted:
    """Sums over streams."""

    highest: list[float] = field(default_factory=list)
    rows: int = 0
    flagged: int = 0
    refused: int = 0
    repeats: int = 0
    again: int = 0
    right: int = 0
    changed: int = 0
    spoilt: int = 0
    mended: int = 0


def benign_of(habit: str, model: str, version: str) -> Callable[[Lab, int], list[Trial]]:
    """Return the run of one habit against a version whose bundle has a watch."""

    def run(lab: Lab, seed: int) -> list[Trial]:
        subject = lab.model(model, version)
        sample = lab.rows(model, Split.TEST, IMAGES[lab.size], 0)
        judge = _Judge(subject, sample.rows, sample.labels)
        count, queries = STREAMS[lab.size], QUERIES[lab.size]
        counted, few = _Counted(), []
        for number, rng in enumerate(np.random.default_rng([seed, 4]).spawn(count)):
            stream = HABITS[habit].stream(sample.rows, min(queries, len(sample.rows)), rng)
            seen = judge.count(stream.arriving(IN_FLIGHT, rng), number + seed * count, counted)
            if number < THROUGH_GATEWAY[lab.size]:
                few.append((stream, float(seen.log_evidence.max()) >= -log(ACTED_ALPHA)))
            lab.tell(f"benign/{habit}", number + 1, count)
        metrics = _metrics(counted, count) | _through_gateway(lab, model, version, few)
        return [
            Trial(
                attack=f"benign/{model}-{version}/{habit}",
                family="benign",
                technique="",
                knowledge="innocent",
                defended=True,
                seed=seed,
                samples=count,
                successes=reached(counted, ACTED_ALPHA),
                metrics=metrics,
                settings={
                    "success": f"an account whose evidence ever reaches 1/alpha, alpha {ACTED_ALPHA}",
                    "queries": queries,
                    "duplicates": HABITS[habit].duplicates,
                    "burst_mean": HABITS[habit].burst_mean,
                    "mixed": HABITS[habit].mixed,
                    "in_flight": IN_FLIGHT,
                },
            )
        ]

    return run


class _Judge:
    """Runs streams through a model, its screens and a fresh watch each. What images say is computed once."""

    def __init__(self, model: Model, images: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        self._model, self._labels, self._arrays = model, labels, model.arrays()
        self._screen = load_evidence(self._arrays)
        self._rules = {
            EVIDENCE: calibrated_rule(Mode.ENFORCE, self._screen.calibration, flag_fpr_max=0.01, refuse_fpr_max=0.001)
        }
        outputs = model.outputs(images)
        self._known = {name: outputs[name] for name in (PREDICTION, *self._columns(outputs))}

    @staticmethod
    def _columns(outputs: Mapping[str, NDArray[Any]]) -> list[str]:
        """Return the outputs that screens read: one number a row."""
        return [name for name, values in outputs.items() if values.ndim == 1]

    def count(self, stream: Stream, number: int, counted: _Counted) -> Observed:
        """Add what became of a stream."""
        outputs = {name: values[stream.images] for name, values in self._known.items()}
        if stream.again.any():
            fresh = self._model.outputs(stream.rows[stream.again])
            for name, values in outputs.items():
                values[stream.again] = fresh[name]
        rows = len(stream.rows)
        inputs = {TENSOR: stream.rows}
        p_values = {EVIDENCE: self._screen.judge(Evidence(inputs, outputs), rows=rows).p_values}
        actions = decide(p_values, self._rules, rows=rows, harden_flagged=False).action
        watch = Watch.from_calibration(self._arrays, key=KEY + number.to_bytes(4, "big"))
        seen = watch.observe([Asker("innocent", "innocent")], np.zeros(1, np.intp), inputs, outputs, 0)
        counted.highest.append(float(seen.log_evidence.max()))
        counted.rows += rows
        counted.again += int(stream.again.sum())
        counted.flagged += int((actions != Action.ALLOW).sum())
        counted.refused += int((actions == Action.REFUSE).sum())
        true, said = self._labels[stream.images], outputs[PREDICTION].argmax(axis=1)
        changed, spoilt, mended = stale(true, said, seen.anchors)
        counted.right += int((said == true).sum())
        counted.repeats += len(seen.anchors)
        counted.changed += changed
        counted.spoilt += spoilt
        counted.mended += mended
        return seen


def stale(
    true: NDArray[np.int64], said: NDArray[np.int64], anchors: Mapping[int, Mapping[str, NDArray[Any]]]
) -> tuple[int, int, int]:
    """Return in how many rows the earlier answer names another class than the row's own; of these, in how many it was
    right and is not any more, and the other way round.
    """
    changed = spoilt = mended = 0
    for row, anchor in anchors.items():
        earlier = int(anchor[PREDICTION][0].argmax())
        if earlier != said[row]:
            changed += 1
            spoilt += bool(said[row] == true[row])
            mended += bool(earlier == true[row])
    return changed, spoilt, mended


def reached(counted: _Counted, alpha: float) -> int:
    """Return how many streams ever had evidence 1/alpha against them."""
    return sum(value >= -log(alpha) for value in counted.highest)


def _metrics(counted: _Counted, streams: int) -> dict[str, float]:
    shares = {
        "rows_flagged_share": counted.flagged,
        "rows_refused_share": counted.refused,
        "rows_near_earlier_share": counted.repeats,
        "rows_seen_again_share": counted.again,
        "accuracy_fresh": counted.right,
        "accuracy_consistent": counted.right - counted.spoilt + counted.mended,
        "stale_changed_share": counted.changed,
        "stale_spoilt_share": counted.spoilt,
        "stale_mended_share": counted.mended,
    }
    metrics = {name: float(count) / counted.rows for name, count in shares.items()}
    metrics |= {f"acted_at_{alpha}_share": reached(counted, alpha) / streams for alpha in ALPHAS}
    return metrics | {"log_evidence_max": max(*counted.highest, LOG_NOTHING)}


def _through_gateway(lab: Lab, model: str, version: str, few: list[tuple[Stream, bool]]) -> dict[str, float]:
    """Return how many of a few streams a gateway acts upon, and how many this process would have."""
    changes = {
        "screens": {},
        "watch": {"mode": "enforce", "steps": [{"alpha": ACTED_ALPHA, "answer": "top1"}]},
    }

    def ever_acted(account: int) -> bool:
        return any(_acted(oracle, rows, account) for rows in together(few[account][0].rows))

    opened = lab.oracle(model, version, defended=True, accounts=len(few), tenants=len(few), changes=changes)
    with opened as oracle, ThreadPoolExecutor(TOGETHER) as pool:
        acted = sum(pool.map(ever_acted, range(len(few))))
    return {
        "gateway_streams": float(len(few)),
        "gateway_streams_acted": float(acted),
        "same_streams_acted_here": float(sum(here for _, here in few)),
    }


def _acted(oracle: Oracle, rows: NDArray[np.float32], account: int) -> bool:
    try:
        answers = oracle.ask(rows, account)
    except Refused:
        return True
    return not answers.answered.all() or (answers.acted is not None and bool(answers.acted.any()))


def together(rows: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield as many rows at a time as are on the way at once."""
    for first in range(0, len(rows), IN_FLIGHT):
        yield rows[first : first + IN_FLIGHT]

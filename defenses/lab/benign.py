"""What the defenses cost those who attack nothing: accounts ever acted upon, rows flagged, answers that went stale.

Innocent accounts ask rows that took no part in calibrating the watch, some again as a `Habit` says. `mixed` is unlike
the calibration on purpose: near duplicates of one thing come in all manners at once, and in longer bursts.

An account has 16 questions on the way at once, as many as the watch is calibrated for. Its stream runs through screens
and watch in this process, in an order in which a gateway may see it; some also run through a gateway that has the watch
alone in force, and both counts stand side by side. They differ by the order in which the questions arrive
(docs/explanation/defenses.md), and little by the watch's secret cells. An account is acted upon where its evidence
reaches 1/alpha once; the count is at ACTED_ALPHA, the first step of the policy under test (gateway/tools/lab/place.py),
and stands beside those at other alphas.

Stale answers: a row near an earlier one gets the earlier answer where the policy has consistent answers. Counted are
all such rows, as if these were in force from the first question on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import log
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from defenses.accounts.benign_traffic import arrival, seen_again
from defenses.accounts.observed import Asker
from defenses.accounts.watch import Watch
from defenses.budget.policy import Action, Mode, calibrated_rule, decide
from defenses.budget.screen import Evidence
from defenses.lab.attack import Finding, Model, Oracle, Refused, Run, Size, Split
from defenses.screens.evidence import NAME as EVIDENCE
from defenses.screens.evidence import load_evidence

STREAMS: Final = {Size.SMOKE: 3, Size.FULL: 334}
QUERIES: Final = {Size.SMOKE: 200, Size.FULL: 1_000}
THROUGH_GATEWAY: Final = {Size.SMOKE: 1, Size.FULL: 60}
IMAGES: Final = {Size.SMOKE: 300, Size.FULL: 10_000}
ALPHAS: Final = (0.05, 0.01, 0.003, 0.001, 0.0003, 0.0001)
ACTED_ALPHA: Final = 0.0001
IN_FLIGHT: Final = 16
TOGETHER: Final = 16  # accounts at a time
MANNERS: Final = 3  # noise, moved by up to 2 pixels, brighter or darker
BURST_MAX: Final = 12
TENSOR: Final = "image"
PREDICTION: Final = "probabilities"
KEY: Final = b"the lab has nothing to hide"
LOG_NOTHING: Final = -1e6  # in place of minus infinity, which is no JSON
CHANGES: Final = {
    "screens": {},
    "watch": {"mode": "enforce", "steps": [{"alpha": ACTED_ALPHA, "answer": "top1"}]},
}
"""Laid over the policy: the watch alone is in force."""


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One account's questions: rows float32 (queries, *shape); of which image, int64 (queries,); the image itself, or
    seen again, bool (queries,).
    """

    rows: NDArray[np.float32]
    images: NDArray[np.int64]
    again: NDArray[np.bool_]

    def arriving(self, in_flight: int, rng: np.random.Generator) -> Stream:
        """Return it in an order in which a gateway may see it where the account has so many on the way at once."""
        order = arrival(len(self.rows), in_flight, rng)
        return Stream(self.rows[order], self.images[order], self.again[order])


@dataclass(frozen=True, slots=True)
class Habit:
    """How an account asks: `duplicates` of its questions are of what it asked just before, in bursts."""

    duplicates: float
    burst_mean: float = 3.0
    mixed: bool = False

    def stream(self, images: NDArray[np.float32], queries: int, rng: np.random.Generator) -> Stream:
        """Return one account's questions about images (n, *shape), each of which it asks once, and some again.

        ValueError: there are fewer images than it may ask about.
        """
        if len(images) < queries:
            raise ValueError(f"{len(images)} images for {queries} questions")
        begins = self.duplicates / ((1.0 - self.duplicates) * self.burst_mean)
        rows: list[NDArray[np.float32]] = []
        shown: list[int] = []
        again: list[bool] = []
        for image in rng.permutation(len(images)).tolist():
            if len(rows) >= queries:
                break
            rows.append(images[image])
            times = min(int(rng.geometric(1.0 / self.burst_mean)), BURST_MAX) if rng.random() < begins else 0
            manners = rng.integers(MANNERS, size=times if self.mixed else 1).tolist() * (1 if self.mixed else times)
            rows += [seen_again(images[image], manner, rng) for manner in manners]
            shown += [image] * (1 + times)
            again += [False] + [True] * times
        return Stream(np.stack(rows[:queries]), np.array(shown[:queries]), np.array(again[:queries]))


def benign(run: Run, *, duplicates: float, burst_mean: float = 3.0, mixed: bool = False) -> list[Finding]:
    """Run streams of one habit against a version whose bundle has a watch."""
    habit = Habit(duplicates, burst_mean, mixed)
    sample = run.rows(Split.TEST, IMAGES[run.lab.size], 0)
    judge = _Judge(run.victim(), sample.rows, sample.labels)
    count, queries = STREAMS[run.lab.size], QUERIES[run.lab.size]
    few: list[tuple[Stream, bool]] = []
    for number, rng in enumerate(np.random.default_rng([run.seed, 4]).spawn(count)):
        stream = habit.stream(sample.rows, min(queries, len(sample.rows)), rng)
        highest = judge.highest_evidence(stream.arriving(IN_FLIGHT, rng), number + run.seed * count)
        if number < THROUGH_GATEWAY[run.lab.size]:
            few.append((stream, highest >= -log(ACTED_ALPHA)))
        run.tell(number + 1, count)
    settings = {
        "success": f"an account whose evidence ever reaches 1/alpha, alpha {ACTED_ALPHA}",
        "queries": queries,
        "duplicates": duplicates,
        "burst_mean": burst_mean,
        "mixed": mixed,
        "in_flight": IN_FLIGHT,
    }
    return [Finding(count, judge.reached(ACTED_ALPHA), judge.metrics() | _through_gateway(run, few), settings)]


class _Judge:
    """Runs streams through a model, its screens and a fresh watch each, and counts. Images are computed once."""

    def __init__(self, model: Model, images: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        self._model, self._labels, self._arrays = model, labels, model.arrays()
        self._screen = load_evidence(self._arrays)
        self._rules = {
            EVIDENCE: calibrated_rule(Mode.ENFORCE, self._screen.calibration, flag_fpr_max=0.01, refuse_fpr_max=0.001)
        }
        outputs = model.outputs(images)
        one_a_row = (name for name, values in outputs.items() if values.ndim == 1)  # what screens read
        self._known = {name: outputs[name] for name in (PREDICTION, *one_a_row)}
        self._highest: list[float] = []
        self._counts: Counter[str] = Counter()

    def highest_evidence(self, stream: Stream, number: int) -> float:
        """Count what became of a stream; return the most evidence there ever was against its account."""
        outputs = {name: values[stream.images] for name, values in self._known.items()}
        if stream.again.any():
            fresh = self._model.outputs(stream.rows[stream.again])
            for name, values in outputs.items():
                values[stream.again] = fresh[name]
        rows, inputs = len(stream.rows), {TENSOR: stream.rows}
        p_values = {EVIDENCE: self._screen.judge(Evidence(inputs, outputs), rows=rows).p_values}
        actions = decide(p_values, self._rules, rows=rows, harden_flagged=False).action
        watch = Watch.from_calibration(self._arrays, key=KEY + number.to_bytes(4, "big"))
        seen = watch.observe([Asker("innocent", "innocent")], np.zeros(1, np.intp), inputs, outputs, 0)
        self._highest.append(float(seen.log_evidence.max()))
        true, said = self._labels[stream.images], outputs[PREDICTION].argmax(axis=1)
        changed, spoilt, mended = stale(true, said, seen.anchors)
        right = int((said == true).sum())
        self._counts.update(
            rows=rows,
            rows_flagged_share=int((actions != Action.ALLOW).sum()),
            rows_refused_share=int((actions == Action.REFUSE).sum()),
            rows_near_earlier_share=len(seen.anchors),
            rows_seen_again_share=int(stream.again.sum()),
            accuracy_fresh=right,
            accuracy_consistent=right - spoilt + mended,
            stale_changed_share=changed,
            stale_spoilt_share=spoilt,
            stale_mended_share=mended,
        )
        return self._highest[-1]

    def reached(self, alpha: float) -> int:
        """Return how many streams ever had evidence 1/alpha against them."""
        return sum(value >= -log(alpha) for value in self._highest)

    def metrics(self) -> dict[str, float]:
        """Return each count as a share of the rows, and of the streams those that reached each alpha."""
        shares = {name: count / self._counts["rows"] for name, count in self._counts.items() if name != "rows"}
        shares |= {f"acted_at_{alpha}_share": self.reached(alpha) / len(self._highest) for alpha in ALPHAS}
        return shares | {"log_evidence_max": max(*self._highest, LOG_NOTHING)}


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


def _through_gateway(run: Run, few: list[tuple[Stream, bool]]) -> dict[str, float]:
    """Return how many of a few streams a gateway acts upon, and how many this process would have."""

    def ever_acted(account: int) -> bool:
        rows = few[account][0].rows
        return any(_acted(oracle, rows[at : at + IN_FLIGHT], account) for at in range(0, len(rows), IN_FLIGHT))

    opened = run.oracle(defended=True, accounts=len(few), tenants=len(few), changes=CHANGES)
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

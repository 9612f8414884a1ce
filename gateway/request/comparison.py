"""Runs another version on what was answered, off the way of the answer, and compares.

Rules:
- It never delays and never refuses: a batch is noted when it was run and looked at after its replies have gone, by one
  thread that yields to all others; where BATCHES_MAX batches or BYTES_MAX bytes wait already, it is dropped, and that
  is counted.
- Nobody gets what the other version says, nothing it does writes a record: it is seen in the metrics, and summed in the
  `release` entries of the log.
- A batch on which the other version fails is run again request by request, so that a bad row counts as one failure;
  not where a server gave no answer: that is not the rows' fault.
- The end waits for no server: it gives the batch that is being looked at CLOSE_S, and nothing is said of it after that.

Which share of the batches is compared is drawn by counting: of a rate of 0.1 every tenth, of each version.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gateway.request.judgement import judge
from ops.metrics import Compared
from serving.errors import BackendTimedOut, BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gateway.models.rules import ModelRules
    from gateway.models.served import Served
    from gateway.request.judgement import Judgement, RowsJudged

BATCHES_MAX = 16
BYTES_MAX = 64 * 1024 * 1024
NICE = 10
CLOSE_S = 1.0

Array = np.ndarray[Any, Any]


class Ran(NamedTuple):
    """A batch that was run. `starts` holds the first row of each request, `infer_ns` what the model took.

    `rows` is what each screen said of each row.
    """

    rules: ModelRules
    inputs: Mapping[str, Array]
    prediction: Array
    starts: Array
    infer_ns: int
    rows: RowsJudged = ()

    def alone(self) -> Iterator[Ran]:
        """Yield each request of the batch as a batch of its own."""
        ends = [*self.starts[1:].tolist(), len(self.prediction)]
        for begin, end in zip(self.starts.tolist(), ends, strict=True):
            yield self._replace(
                inputs={name: array[begin:end] for name, array in self.inputs.items()},
                prediction=self.prediction[begin:end],
                starts=np.zeros(1, np.intp),
                rows=[(name, verdicts[begin:end], p_values[begin:end]) for name, verdicts, p_values in self.rows],
            )


@dataclass(frozen=True, slots=True)
class Difference:
    """How two predictions of the same rows differ; rows that are not all numbers in both are left out."""

    rows: int
    disagreements: int
    difference: float


NOTHING = Difference(0, 0, 0.0)


def differ(one: Array, other: Array) -> Difference:
    """Compare predictions, (rows, classes) each: top classes, and the mean absolute difference a row, summed."""
    sound = np.isfinite(one).all(axis=1) & np.isfinite(other).all(axis=1)
    one, other = one[sound], other[sound]
    disagreements = int(np.count_nonzero(one.argmax(axis=1) != other.argmax(axis=1))) if len(one) else 0
    return Difference(len(one), disagreements, float(np.abs(one - other).mean(axis=1).sum()) if len(one) else 0.0)


class Comparer:
    """The thread and what waits for it. `done` and `judged` are called in the thread, `dropped` where a batch was run.

    `done(model, version, compared)`; `judged(rules, judgements, scores)`: what the other version's screens say;
    `both(one, its rows, other, its rows)`: what those of two versions say of the same rows.
    """

    def __init__(
        self,
        *,
        done: Callable[[str, str, Compared], None],
        judged: Callable[[ModelRules, Sequence[Judgement], Array], None],
        both: Callable[[ModelRules, RowsJudged, ModelRules, RowsJudged], None],
        dropped: Callable[[str, str, int], None],
        clock_ns: Callable[[], int],
    ) -> None:
        self._done = done
        self._judged = judged
        self._both = both
        self._dropped = dropped
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._noted: list[tuple[Ran, int]] = []  # their replies are on the way
        self._ready: deque[tuple[Ran, int]] = deque()
        self._bytes = 0
        self._due: dict[tuple[str, str], float] = {}
        self._closed = False
        self._thread: threading.Thread | None = None

    def offer(self, ran: Ran) -> None:
        """Note a batch, if it is one of those to be compared and there is room. From any thread; never waits."""
        mirror = ran.rules.mirror
        if mirror is None:
            return
        bundle = ran.rules.served.bundle
        nbytes = sum(array.nbytes for array in ran.inputs.values())
        with self._lock:
            due = self._due.get((bundle.name, bundle.version), 0.0) + mirror.rate
            self._due[bundle.name, bundle.version] = due - 1.0 if due >= 1.0 else due
            if due < 1.0:
                return
            waiting = len(self._noted) + len(self._ready)
            room = waiting < BATCHES_MAX and self._bytes + nbytes <= BYTES_MAX and not self._closed
            if room:
                self._noted.append((ran, nbytes))
                self._bytes += nbytes
        if not room:
            self._dropped(bundle.name, mirror.rules.served.bundle.version, len(ran.starts))

    def answered(self, served: Served) -> None:
        """Replies of this version have gone: its batches may be looked at. Never waits."""
        if not self._noted:
            return
        with self._lock:
            self._ready += [noted for noted in self._noted if noted[0].rules.served is served]
            self._noted = [noted for noted in self._noted if noted[0].rules.served is not served]
            if self._thread is None and not self._closed:  # whoever compares nothing has no thread
                self._thread = threading.Thread(target=self._work, name="comparer", daemon=True)
                self._thread.start()
            self._wake.notify()

    def close(self) -> None:
        """Drop what waits, and wait for the batch that is being looked at: a little, since its server may be silent."""
        with self._lock:
            self._closed = True
            self._ready.clear()
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _work(self) -> None:
        with contextlib.suppress(OSError):  # a container may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while True:
            with self._lock:
                while not (self._closed or self._ready):
                    self._wake.wait()
                if self._closed:
                    return
                ran, nbytes = self._ready.popleft()
                self._bytes -= nbytes
            self._compare(ran)

    def _compare(self, ran: Ran) -> None:
        mirror = ran.rules.mirror
        assert mirror is not None, "only such batches are noted"
        bundle = mirror.rules.served.bundle
        began_ns = self._clock_ns()
        try:
            first, failed = self._run(mirror.rules, ran)
            took_ns = self._clock_ns() - began_ns
            rest = list(self._alone(mirror.rules, ran)) if failed and len(ran.starts) > 1 else []
            failures = sum(bad for _, bad in rest) if rest else failed
        except (BackendUnavailable, BackendTimedOut):
            first, failed, took_ns, rest, failures = NOTHING, 1, 0, [], len(ran.starts)
        if self._closed:  # whoever is told may have gone
            return
        differences = [each for each, _ in rest] or [first]
        compared = Compared(
            requests=len(ran.starts),
            errors=failures,
            rows=sum(each.rows for each in differences),
            disagreements=sum(each.disagreements for each in differences),
            difference=sum(each.difference for each in differences),
            seconds=0.0 if failed else took_ns / 1e9,
            answered_seconds=0.0 if failed else ran.infer_ns / 1e9,
        )
        self._done(bundle.name, bundle.version, compared)

    def _alone(self, rules: ModelRules, ran: Ran) -> Iterator[tuple[Difference, int]]:
        """Run each request of a batch by itself."""
        for request in ran.alone():
            if self._closed:
                return
            yield self._run(rules, request)

    def _run(self, rules: ModelRules, ran: Ran) -> tuple[Difference, int]:
        """Return how the prediction of another version's rules differs, and 1 if it failed on these rows.

        Raises BackendUnavailable and BackendTimedOut.
        """
        assert ran.rules.mirror is not None, "only such batches are noted"
        try:
            outputs = rules.served.engine.infer(ran.inputs)
            judgement = judge(rules, ran.inputs, outputs, ran.starts, len(ran.prediction))
            prediction = outputs[ran.rules.mirror.prediction]
            if not np.isfinite(prediction).all():
                return NOTHING, 1
            difference = differ(ran.prediction, prediction)
        except (BackendUnavailable, BackendTimedOut):
            raise
        except Exception:  # noqa: BLE001  whatever an engine raises or answers, the answer that was given stands
            return NOTHING, 1
        if not self._closed:
            self._judged(rules, [judgement], prediction.max(axis=1))
            self._both(ran.rules, ran.rows, rules, judgement.rows)
        return difference, 0

"""Remembers, for as long as labels may come, what a worker answered: off the way of the answer.

The pipeline notes what it saw (`see`), and once the record of a request is durable its rows wait here (`note`) to be
written by a thread, many at once. A label that comes at once at another worker may come before them; it is then of an
unknown request, and may be sent again. What waits is bounded: beyond ROWS_WAITING_MAX rows are not remembered.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gateway.models.rules import Bounds
from gateway.request.item import Answer, Seen
from gateway.request.labels.rows import AnswerKept
from gateway.request.labels.store import FeedbackStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from gateway.models.rules import ModelRules
    from gateway.request.item import Item
    from ops.process.logging import Log

ROWS_WAITING_MAX = 20_000
MICRO = 1_000_000
FLUSH_EVERY_S = 0.2


def see(items: Sequence[Item], outputs: Mapping[str, np.ndarray[Any, Any]], rules: ModelRules) -> None:
    """Note what the model saw in each request of a batch, whose rows lie one request after the other."""
    feedback = rules.feedback
    if feedback is None:
        return
    first = 0
    for item in items:
        rows = slice(first, first + min(item.request.rows, feedback.rows_max))
        first += item.request.rows
        latents = outputs[feedback.latent][rows].astype("<f2")  # a copy: the batch's outputs need not stay
        probabilities = outputs[feedback.prediction][rows]
        item.seen = Seen(probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float64), latents)


@dataclass(slots=True)
class Answers:
    """What waits to be written, of one worker. Used on the event loop."""

    path: Path
    log: Log
    wall_ns: Callable[[], int]
    waiting: deque[tuple[AnswerKept, Bounds]] = field(default_factory=deque)
    dropped: int = 0
    _store: FeedbackStore | None = None
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _due: asyncio.TimerHandle | None = None
    _flushing: asyncio.Task[None] | None = None

    def store(self) -> FeedbackStore:
        """Return the file, made when it is first needed. Blocks; raises sqlite3.Error or OSError."""
        if self._store is None:
            self._store = FeedbackStore(self.path)
        return self._store

    def note(self, item: Item) -> None:
        """Let the rows of a request wait, whose record is durable; none where it was not answered."""
        seen, feedback, outcome = item.seen, item.rules.feedback, item.outcome
        if seen is None or feedback is None or not isinstance(outcome, Answer):
            return
        record = item.record
        confidences = np.rint(np.clip(seen.confidences, 0, 1) * MICRO).astype(int).tolist()
        told = zip(seen.classes.tolist(), confidences, seen.latents, strict=True)
        for row, (label, confidence_micro, latent) in enumerate(told):
            if len(self.waiting) >= ROWS_WAITING_MAX:
                self.dropped += 1
                continue
            kept = AnswerKept(
                record.id_bytes,
                row,
                record.caller().tenant,
                record.model_name,
                record.model_version,
                label,
                outcome.decision,
                latent.tobytes(),
                record.time_ns,
                confidence_micro,
            )
            self.waiting.append((kept, feedback.bounds))
        if self._due is None and self.waiting:
            self._due = asyncio.get_running_loop().call_later(FLUSH_EVERY_S, self._begin)

    def _begin(self) -> None:
        self._flushing = asyncio.get_running_loop().create_task(self.flush())

    async def flush(self) -> None:
        """Write everything that waits. What cannot be written is given up: its labels will be of unknown requests."""
        async with self._writing:
            if self._due is not None:
                self._due.cancel()
                self._due = None
            by_model: dict[str, tuple[list[AnswerKept], Bounds]] = {}
            while self.waiting:
                kept, bounds = self.waiting.popleft()
                by_model.setdefault(kept.model, ([], bounds))[0].append(kept)
            dropped, self.dropped = self.dropped, 0
            if dropped:
                self.log("answers-not-remembered", level="warning", rows=dropped)
            for rows, bounds in by_model.values():
                try:
                    await asyncio.to_thread(self._write, rows, bounds)
                except (sqlite3.Error, OSError) as problem:
                    facts = {"rows": len(rows), "error": type(problem).__name__}
                    self.log("answers-not-remembered", level="warning", **facts)

    def _write(self, rows: Sequence[AnswerKept], bounds: Bounds) -> None:
        self.store().remember(rows, bounds, self.wall_ns())

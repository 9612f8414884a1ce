"""The levels of a replay, one after the other, over one log and one configuration. Nothing goes out.

R0  the log verifies: every leaf, every tile, the root, the signature
R1  decisions, from what entries hold (`gateway.tools.replay.decisions`)
R2  scores and answers, from payloads that were kept (`gateway.tools.replay.outputs`)
R3  what would become of the same requests under another policy or version (`gateway.tools.replay.otherwise`)
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.codec import CodecLimits
from gateway.models.models import load_bundles, out_of_service
from gateway.tools.replay.decisions import decisions_again
from gateway.tools.replay.history import Findings, History
from gateway.tools.replay.otherwise import Changes, otherwise
from gateway.tools.replay.outputs import outputs_again
from gateway.tools.replay.rulebooks import Payloads, Rulebooks, copied_keys
from ops.audit.reader.scan import scan
from ops.process.logging import configure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from gateway.config.config import Config
    from gateway.policy.policy import Policy
    from gateway.tools.replay.history import Scope
    from ops.audit.log.checkpoint import Checkpoint, VerifierKey

    Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be replayed. `policy` and `versions` (by model) ask what would be otherwise; `outputs` is level R2."""

    scope: Scope
    outputs: bool = True
    policy: Policy | None = None
    versions: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of it, at this checkpoint, from entry `first` on. `changes`: None where nothing was to be otherwise."""

    head: Checkpoint
    first: int
    findings: Findings
    changes: Changes | None
    seconds: Mapping[str, float]


def replay(
    directory: Path, vkey: VerifierKey, config: Config, question: Question, *, now_ns: int, bar: Bar
) -> Replayed:
    """Replay a log that was verified (R0). `bar` shows the progress of what it names.

    Raises:
        AuditError: the log cannot be read, or does not lead to its root.
        FileRejected, ServingError, OSError: what the configuration names cannot be used.
        TooMany, UnknownVersion: the question cannot be answered.
    """
    history, seconds = History(question.scope), dict[str, float]()

    @contextmanager
    def part(doing: str) -> Iterator[Callable[[int, int], None]]:
        began = time.perf_counter()
        with bar(doing) as advance:
            yield advance
        seconds[doing] = time.perf_counter() - began

    with part("reading") as advance:
        head = scan(directory, vkey, history.take, progress=advance)
    bundles = load_bundles(config, configure("warning", sys.stderr))
    served = {(each.name, each.version): out_of_service(each, config) for each in bundles.values()}
    limits = CodecLimits(message_bytes_max=config.transport.message_bytes_max, rows_max=config.transport.rows_max)
    with copied_keys(config) as keys:
        books = Rulebooks(config, served, keys, now_ns)
        payloads = Payloads(directory, keys, limits)
        findings, changes = Findings(sum(one.chosen for one in history.records)), None
        with part("deciding") as advance:
            decisions_again(history, books, findings, advance)
        if question.outputs:
            with part("computing") as advance:
                outputs_again(history, books, payloads, findings, advance)
        if question.policy is not None or question.versions:
            with part("comparing") as advance:
                changes = otherwise(
                    history, books, payloads, policy=question.policy, versions=question.versions or {}, progress=advance
                )
    first = next((one.index for one in history.records if one.chosen), 0)
    return Replayed(head, first, findings, changes, seconds)

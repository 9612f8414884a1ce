"""Has witnesses cosign the log as it grows (`audit.witnesses`): again and again, the newest public checkpoint.

Epochs are cosigned one after another: the last checkpoint of a closed one first, which is kept in `cosigned.<n>` then.
What the quorum has cosigned is kept in `cosigned`, in the state directory, and stands in receipts from the admin port.
Answers wait for it where the policy says `acknowledge: witnessed` (`gateway.request.acknowledgement`). A witness that
gives no cosignature is logged when that begins and when it ends.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ops.audit.errors import AuditError, WitnessAhead
from ops.audit.log.epochs import Epoch, epoch_at, epochs_of
from ops.audit.witnesses.client import cosign_newest
from ops.process.durable import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from threading import Thread

    from ops.audit.log.checkpoint import VerifierKey
    from ops.audit.log.trust_policy import TrustPolicy
    from ops.audit.witnesses.client import Asked
    from ops.metrics.parts import WitnessMetrics
    from ops.process.logging import Log

TIMEOUT_S = 10.0


@dataclass(slots=True)
class Cosigning:
    """Asks the witnesses of `policy` every `every_s` seconds, and writes `out`. `failing`: who gave nothing last.

    `place` is the epoch, and the size of its largest checkpoint that the quorum has cosigned since the start; `moved`
    is called after each round, on the event loop.
    """

    log_directory: Path
    vkey: VerifierKey
    policy: TrustPolicy
    every_s: float
    out: Path
    log: Log
    metrics: WitnessMetrics
    moved: Callable[[], None] = lambda: None
    place: tuple[int, int] = (0, 0)
    failing: dict[str, str] = field(default_factory=dict)
    asking: dict[str, Thread] = field(default_factory=dict)

    async def run(self) -> None:
        """Ask until cancelled. Whatever goes wrong is logged, and asked again."""
        while True:
            try:
                await asyncio.to_thread(self.ask)
            except (AuditError, OSError) as problem:
                self.note({"the log": str(problem)})
            except Exception as problem:  # noqa: BLE001  the gateway must not end because a witness found a new way
                self.note({"the log": f"a fault of our own: {type(problem).__name__}"})
            self.moved()
            await asyncio.sleep(self.every_s)

    def ask(self) -> None:
        """Ask every witness once, and keep the checkpoint when enough have cosigned it."""
        epoch, closed = self.at_hand()
        checkpoint, asked = cosign_newest(
            epoch.directory, self.policy, self.out, timeout_s=TIMEOUT_S, asking=self.asking
        )
        if self.policy.enough(asked.lines):
            self.place = max(self.place, (epoch.number, checkpoint.size))
            self.metrics.cosigned(checkpoint.size, time.time())
            if closed:
                replace_file(kept_cosigned(self.out, epoch.number), self.out.read_bytes())
        self.count(asked)

    def at_hand(self) -> tuple[Epoch, bool]:
        """Return the epoch that is cosigned now, and whether it is closed."""
        epochs = epochs_of(self.log_directory, self.vkey) or [epoch_at(self.log_directory, self.vkey, 1)]
        owed = [each for each in epochs[:-1] if not kept_cosigned(self.out, each.number).exists()]
        return (owed[0], True) if owed else (epochs[-1], False)

    def count(self, asked: Asked) -> None:
        """Count and log who gave nothing."""
        for name, failure in asked.failures.items():
            self.metrics.failed(name, "ahead" if isinstance(failure, WitnessAhead) else "failed")
        self.note({name: str(failure) for name, failure in asked.failures.items()})

    def note(self, failing: dict[str, str]) -> None:
        """Log whose trouble is new, or another than before, and whose is over."""
        for name, problem in failing.items():
            if self.failing.get(name) != problem:
                self.log("witness-failed", level="warning", witness=name, problem=problem)
        for name in self.failing.keys() - failing.keys():
            self.log("witness-back", witness=name)
        self.failing = failing


def kept_cosigned(out: Path, number: int) -> Path:
    """Return where the last checkpoint of an epoch is, cosigned; `out` is where the newest is."""
    return out.with_name(f"{out.name}.{number:04d}")

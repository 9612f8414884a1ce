"""Has witnesses cosign the log as it grows (`audit.witnesses`): again and again, the newest public checkpoint.

What the quorum has cosigned is kept in `cosigned`, in the state directory, and stands in receipts from the admin port.
Answers wait for it where the policy says `acknowledge: witnessed` (`gateway.acknowledgement`). A witness that gives no
cosignature is logged when that begins and when it ends.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ops.audit.cosign import cosign_newest
from ops.audit.errors import AuditError, WitnessAhead

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from threading import Thread

    from ops.audit.trust_policy import TrustPolicy
    from ops.audit.witness_client import Asked
    from ops.logging import Log
    from ops.metrics.witnesses import WitnessMetrics

__all__ = ["Cosigning"]

TIMEOUT_S = 10.0


@dataclass(slots=True)
class Cosigning:
    """Asks the witnesses of `policy` every `every_s` seconds, and writes `out`. `failing`: who gave nothing last.

    `size` is that of the largest checkpoint that the quorum has cosigned since the start; `moved` is called after each
    round, on the event loop.
    """

    log_directory: Path
    policy: TrustPolicy
    every_s: float
    out: Path
    log: Log
    metrics: WitnessMetrics
    moved: Callable[[], None] = lambda: None
    size: int = 0
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
        checkpoint, asked = cosign_newest(
            self.log_directory, self.policy, self.out, timeout_s=TIMEOUT_S, asking=self.asking
        )
        if self.policy.enough(asked.lines):
            self.size = max(self.size, checkpoint.size)
            self.metrics.cosigned(checkpoint.size, time.time())
        self.count(asked)

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

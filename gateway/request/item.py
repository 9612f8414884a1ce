"""A decoded request on its way through a batch, and the answer that goes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import asyncio

    from gateway import errors
    from gateway.auth.principal import Principal
    from gateway.codec import InferRequest
    from gateway.models.metering import Charge
    from gateway.models.rules import ModelRules
    from gateway.models.watching import Watched
    from gateway.request.record import Record


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the client once its record is durable. `verdict` only where the policy reveals it."""

    body: bytes
    decision: str = "allow"
    verdict: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Of the first rows of a request: classes int64 (n,), their probabilities (n,), latents float16 (n, width)."""

    classes: np.ndarray[Any, np.dtype[np.int64]]
    confidences: np.ndarray[Any, np.dtype[np.float64]]
    latents: np.ndarray[Any, np.dtype[np.float16]]


@dataclass(slots=True)
class Item:
    """A decoded request that waits for its batch; the batch writes the outcome.

    `cache_key` is there where its answer may be given again, `seen` where labels of it may come, `charge` once the
    budget was charged for it, `watched` once the watch has looked at it: what it said, and the request's place there.
    """

    record: Record
    request: InferRequest
    rules: ModelRules
    queued_ns: int
    body: bytes
    capture: str
    answer: asyncio.Future[Answer]
    outcome: Answer | errors.Refusal | None = None
    cache_key: bytes | None = None
    seen: Seen | None = None
    charge: Charge | None = None
    watched: tuple[Watched, int] | None = None

    @property
    def served(self) -> bool:
        """Whether it was answered."""
        return self.record.kind == "served"

    def caller(self) -> Principal:
        """Return who asks."""
        return self.record.caller()

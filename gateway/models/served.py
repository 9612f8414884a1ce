"""A model version of this process: its engine, its queue, and what is counted and remembered of it.

It outlives reloads of the policy. `gateway.models.models` opens one, `gateway.request.batching` gives it its queue.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from gateway.models.metering import Metering
    from gateway.models.statistics import ModelCounters, ServiceTime
    from gateway.models.watching import Watching
    from serving.bundles.bundle import Bundle
    from serving.engines.engine import Engine
    from serving.queue.batcher import Batcher


@dataclass(frozen=True, slots=True)
class Offload:
    """The model of batches of `rows_min` rows and more runs in a thread, while the event loop takes in requests.

    `resume` has the loop go on with a batch; called from that thread.
    """

    rows_min: int
    resume: Callable[[Sequence[Any], Callable[[], None]], object]


@dataclass(slots=True)
class Served:
    """One model version of this process. `facts_json` is its part of every record.

    `offload` is there where batches run on the event loop, else they run in `pool` as a whole. One that is `unloaded`
    is out of service: it has no queue, and its engine is never ready.
    """

    bundle: Bundle
    engine: Engine
    facts_json: str
    service_time: ServiceTime
    counters: ModelCounters
    unloaded: bool = False
    offload: Offload | None = None
    watching: Watching | None = None
    metering: Metering | None = None
    batcher: Batcher[Any] = field(init=False)
    pool: ThreadPoolExecutor = field(init=False)

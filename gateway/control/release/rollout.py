"""Puts what becomes of releases into force: reads the counts, tells the workers, has each change recorded.

The shell around `releases`, in the supervisor. What was reached is durable before anybody is told, where the
disk lets us; workers are told until they say that they have moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from gateway.models.canary import Labels
from gateway.request.labels.store import FILE, FeedbackStore
from ops.metrics import VersionCounts, read_versions

if TYPE_CHECKING:
    from gateway.control.desk import Fleet
    from gateway.control.release.releases import Change, Labelled, Releases
    from gateway.policy.policy import Policy


@dataclass(slots=True)
class Rollout:
    """The releases of a host. `counted` is what was read last, `untold` what is not recorded yet.

    `followed` is the policy that the releases are those of; `moving` keeps a look and a new policy apart.
    """

    fleet: Fleet
    releases: Releases
    counted: dict[tuple[str, str], VersionCounts] = field(default_factory=dict)
    untold: list[Change] = field(default_factory=list)
    followed: Policy | None = None
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def count(self) -> None:
        """Read what all workers have counted; what cannot be read now, because a worker just ended, is read later."""
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            self.counted = await asyncio.to_thread(read_versions, self.fleet.place.metrics)

    async def labelled(self) -> Labelled:
        """Return what trusted labels say of versions, where a canary is judged by it; nothing if unreadable."""
        if not self.releases.labelled:
            return {}
        try:
            file = self.fleet.place.memory.with_name(FILE)
            agreements = await asyncio.to_thread(lambda: FeedbackStore(file).agreements())
        except (OSError, sqlite3.Error):
            return {}
        found = {key: Labels(*counts) for key, counts in agreements.items()}
        for each in self.fleet.evaluations.found:
            if each.source == "trusted":
                key = each.model, each.version
                counts = agreements.get(key, (0, 0))
                found[key] = Labels(*counts, each.calibration_error, each.calibration_noise)
        return found

    async def follow(self) -> None:
        """Let the releases follow the policy that is in force."""
        async with self.moving:
            await self.count()
            self.followed = self.fleet.policy
            await self.move(self.releases.follow(self.followed, self.counted, time.monotonic_ns()))

    async def look(self) -> None:
        """Let canaries go on or back by what all workers have counted, and bring workers along that lag behind."""
        changes: list[Change] = []
        async with self.moving:
            if self.releases.watched:
                await self.count()
            if self.fleet.policy is not self.followed:  # one that was just put in force is followed first
                return
            if self.releases.watched:
                changes = self.releases.look(self.counted, time.monotonic_ns(), await self.labelled())
            await self.move(changes)

    async def move(self, changes: list[Change]) -> None:
        """Put what has changed about releases in force, durably where the disk lets us, and have it recorded.

        A disk that is full must not keep a broken version answering: it is taken back all the same.
        """
        if changes:
            try:
                self.releases.keep()
            except OSError as problem:
                self.fleet.log("releases-not-kept", level="error", problem=str(problem))
        standings = {name: asdict(standing) for name, standing in self.releases.standings().items()}
        for worker in self.fleet.workers:
            if worker.ready.is_set() and worker.facts.get("canaries", {}) != standings:
                worker.tell(do="move", canaries=standings)
        self.untold += changes
        while self.untold and self.fleet.control is not None:
            change = self.untold.pop(0)
            facts = {"model": change.model, "version": change.version, "problem": change.reason}
            self.fleet.log(
                f"release-{change.action}", level="error" if change.action == "rolled-back" else "info", **facts
            )
            await self.fleet.control.release_changed(change, self.fleet.policy)

    async def end(self) -> None:
        """Record what was counted of releases before the host stops."""
        await self.count()
        await self.move([self.releases.ended(name, self.counted, "the gateway stops") for name in self.releases.trials])

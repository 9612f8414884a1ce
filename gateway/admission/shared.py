"""Limits that gateways share: what all of them admit together stays within the limit. The truth is in a ledger (Redis).

Each inference takes all that it costs from the ledger in one go, and waits for the answer once. Spends that wait at the
same time travel together; while one batch is under way the next one gathers.

Rules:
- Time is the ledger's. Of our own clock only differences count, so it does not matter what it shows.
- A spend is sent once. Whether one without an answer was charged is unknown; nobody is admitted on the strength of it.
- Beside the ledger stands a `MemoryLimiter` with the same limits. It answers at once, on the headers of a call, and is
  told what the ledger says of every bucket it is asked about: so who has nothing left is refused before the body is
  read, without a round trip, and nobody is refused whom the ledger would have admitted at that time.
- While the ledger is away, the policy decides: refuse, or admit this gateway's share. A share counts in the same memory
  bucket, in which a unit then takes longer to come back: what was left of the limit is shared out, not a fresh one.
  Left, as far as this gateway had heard: its share of what others have spent since may be admitted once more.
- When it is back it is first told what we know of buckets that are not full, and the emptier one holds. So what was
  admitted in the outage counts, and a ledger that lost its memory gets it back. Telling it twice changes nothing.
- What takes nothing from the ledger is bounded here alone, on buckets of its own (`kept_here`): what the ledger says of
  the others would set them back, and the ledger is not told of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from gateway.admission import gcra
from gateway.admission.limiter import BURST_NS_MAX, Bucket, Decision, Rule
from gateway.admission.memory import decision_of, is_longer
from gateway.errors import LimitsUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gateway.admission.budget import Charges
    from gateway.admission.memory import MemoryLimiter
    from ops.process.logging import Log

LOCAL_SHARE = "local-share"
FAILURES = ("timeout", "unreachable", "tls", "credentials", "wrong-answer", "refused", "internal")
SPENDS_MAX = 256  # in a batch: what waits beyond goes with the next
KNOWN_MAX = 1024  # buckets told of in one exchange after an outage
LOOK_EVERY_S = 1.0  # when nobody calls, so that an outage is seen before somebody does
BACKOFF_S = (0.05, 2.0)  # between attempts to reach the ledger again: the first, and the longest
TRIPS_MAX = 10_000  # durations kept between two readings of the metrics
AWAY_PREFIX = "away/"
HERE_PREFIX = "here/"


class LedgerFailed(Exception):
    """The ledger gave no answer. `kind` is one of FAILURES, `problem` a fixed sentence."""

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(kind, problem)
        self.kind = kind
        self.problem = problem


class Ledger(Protocol):
    """Where shared buckets are kept. One exchange at a time.

    - `connect` may be called whatever the state; afterwards exchanges work, or it raises LedgerFailed.
    - `exchange` first raises the debts of the buckets in `known` (key, nanoseconds until it is full) to these values,
      where they are lower. Then it spends, each all or nothing, in order, all at one moment of the ledger's clock.
      Returns for each spend [1 if admitted or 0, the debt that each charge met]; nobody has checked the numbers.
    - After LedgerFailed it is unknown whether the batch was charged; only `connect` helps.
    """

    async def connect(self) -> None: ...

    async def exchange(
        self, spends: Sequence[Charges], known: Iterable[tuple[str, int]] = ()
    ) -> Sequence[Sequence[int]]: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class Observed:
    """What happened since the metrics were written last."""

    up: bool = False
    decisions: Counter[str] = field(default_factory=Counter)  # admit, refuse, local-share, unavailable
    failures: Counter[str] = field(default_factory=Counter)
    trips_us: list[int] = field(default_factory=list)


Waiting = tuple["Charges", "asyncio.Future[Decision | None] | None"]


class SharedLimiter:
    """Takes from the ledger (`take`), and bounds at once what this process may ask for (`spend`, a `Limiter`)."""

    def __init__(
        self,
        ledger: Ledger,
        memory: MemoryLimiter,
        *,
        clock_ns: Callable[[], int],
        jitter: Callable[[], float],
        log: Log,
    ) -> None:
        self._ledger = ledger
        self._memory = memory
        self._clock_ns = clock_ns
        self._jitter = jitter
        self._log = log
        self._waiting: list[Waiting] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._backoff_s = BACKOFF_S[0]
        self._lost_ns: int | None = None
        self._failure = ""
        self._observed = Observed()
        self.up = False
        self.while_away(None)

    def while_away(self, share: float | None) -> None:
        """Say what to do without the ledger: refuse (None), or admit this share of each limit."""
        self._share = share

        @lru_cache(maxsize=65_536)
        def stand_in(bucket: Bucket) -> Bucket:
            if bucket.key.startswith(HERE_PREFIX):
                return bucket
            # Who is refused in any case is held to the limit all the same, but on a bucket that nobody is told of.
            return Bucket(AWAY_PREFIX + bucket.key, bucket.rule) if share is None else share_of(bucket, share)

        self._stand_in = stand_in

    def spend(self, charges: Sequence[tuple[Bucket, int]], now_ns: int) -> Decision:
        """Take from this process's memory, at once. Implements `gateway.admission.limiter.Limiter`."""
        return self._memory.spend(charges, now_ns) if self.up else self._spend_here(charges, now_ns)

    def _spend_here(self, charges: Sequence[tuple[Bucket, int]], now_ns: int) -> Decision:
        return self._memory.spend([(self._stand_in(bucket), cost) for bucket, cost in charges], now_ns)

    async def take(self, charges: Charges) -> Decision | None:
        """Take from the ledger. None: it is away, and what `spend` said of the local share stands.

        Raises:
            LimitsUnavailable: it is away, and the policy says to refuse.
        """
        if not charges or min(cost for _, cost in charges) < 0:
            raise ValueError("a spend charges at least one bucket, and a cost is never negative")
        if self.up:
            answer: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
            self._put(charges, answer)
            decision = await answer
            if decision is not None:
                return decision
            if self._share is not None:  # it failed under way: so far only the whole limit has bounded this one
                self._observed.decisions[LOCAL_SHARE] += 1
                return self._spend_here(charges, self._clock_ns())
        if self._share is None:
            self._observed.decisions["unavailable"] += 1
            raise LimitsUnavailable(math.ceil(self._backoff_s * 1000))
        self._observed.decisions[LOCAL_SHARE] += 1
        return None

    def owe(self, charges: Charges) -> None:
        """Take from the ledger what a call has cost that is refused for another reason. Does not wait."""
        if self.up:
            self._put(charges, None)

    def observed(self) -> Observed:
        """Return what happened since the last time, and whether the ledger is there."""
        seen, self._observed = self._observed, Observed()
        seen.up = self.up
        return seen

    async def start(self) -> None:
        """Try to reach the ledger; goes on trying in the background if that fails."""
        try:
            await self._connect()
        except LedgerFailed as failed:
            self._lost(failed)
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End; what still waits is told that the ledger is away."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.up = False
        self._dismiss(self._waiting)
        await self._ledger.close()

    def _put(self, charges: Charges, answer: asyncio.Future[Decision | None] | None) -> None:
        self._waiting.append((charges, answer))
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                if not self.up:
                    await asyncio.sleep(self._backoff_s * (0.5 + self._jitter()))
                    self._backoff_s = min(2 * self._backoff_s, BACKOFF_S[1])
                    await self._connect()
                await self._exchange()
            except LedgerFailed as failed:
                self._lost(failed)
            except Exception as fault:  # noqa: BLE001  ours: callers must not wait for a task that has ended
                self._lost(LedgerFailed("internal", f"a fault in the gateway itself: {type(fault).__name__}"))

    async def _connect(self) -> None:
        """Reach the ledger, see that it answers, and tell it what we know, before it is asked for anything."""
        await self._ledger.connect()
        await self._ledger.exchange(())
        self.up = True  # from here on who comes waits to be charged there: nobody is admitted whom it is not told of
        ours = (AWAY_PREFIX, HERE_PREFIX)
        known = [pair for pair in self._memory.debts(self._clock_ns()) if not pair[0].startswith(ours)]
        for first in range(0, len(known), KNOWN_MAX):
            await self._ledger.exchange((), known[first : first + KNOWN_MAX])
        if self._lost_ns is not None:
            waited_s = (self._clock_ns() - self._lost_ns) / 1e9
            self._log("shared-limits-back", waited_s=round(waited_s, 3))
        self._lost_ns, self._failure = None, ""

    async def _exchange(self) -> None:
        """Send what waits, or after a while of silence nothing, to see that the ledger is there."""
        if not self._waiting:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
        batch = self._waiting[:SPENDS_MAX]  # those whose caller has gone too: leaving early makes nothing free
        del self._waiting[:SPENDS_MAX]
        sent_ns = self._clock_ns()
        try:
            answers = await self._ledger.exchange([charges for charges, _ in batch])
            decisions = [
                self._decided(charges, answer, sent_ns) for (charges, _), answer in zip(batch, answers, strict=True)
            ]
        except BaseException as problem:
            self.up = False
            self._dismiss(batch)
            if isinstance(problem, ValueError):
                raise LedgerFailed("wrong-answer", "the answer does not fit what was asked") from None
            raise
        self._backoff_s = BACKOFF_S[0]
        if len(self._observed.trips_us) < TRIPS_MAX:
            self._observed.trips_us.append((self._clock_ns() - sent_ns) // 1000)
        for (_, waiter), decision in zip(batch, decisions, strict=True):
            self._observed.decisions["admit" if decision.admitted else "refuse"] += 1
            if waiter is not None and not waiter.done():
                waiter.set_result(decision)

    def _decided(self, charges: Charges, answer: Sequence[int], sent_ns: int) -> Decision:
        """Return the decision that an answer means, and remember what it says of the buckets. ValueError: nonsense."""
        decision = decide(charges, answer)
        now_ns = self._clock_ns()
        for (bucket, cost), debt_ns in zip(charges, answer[1:], strict=True):
            price_ns = cost * bucket.rule.interval_ns if decision.admitted else 0
            # As of the moment of asking, which is before the ledger's: never emptier than the ledger has it.
            self._memory.learn(bucket.key, sent_ns + debt_ns + price_ns, now_ns)
        return decision

    def _lost(self, failed: LedgerFailed) -> None:
        self.up = False
        self._dismiss(self._waiting)
        self._observed.failures[failed.kind] += 1
        if failed.kind != self._failure:
            self._log("shared-limits-lost", level="error", reason=failed.kind, problem=failed.problem)
        self._failure = failed.kind
        if self._lost_ns is None:
            self._lost_ns = self._clock_ns()

    @staticmethod
    def _dismiss(waiting: list[Waiting]) -> None:
        for _, answer in waiting:
            if answer is not None and not answer.done():
                answer.set_result(None)
        waiting.clear()


def kept_here(charges: Charges) -> Charges:
    """Return the same charges on buckets that only this process knows."""
    return tuple([(Bucket(HERE_PREFIX + bucket.key, bucket.rule), cost) for bucket, cost in charges])


def share_of(bucket: Bucket, share: float) -> Bucket:
    """Return the bucket under a share of its rule: as full as it is, and slower.

    A burst of less than one unit becomes one; an interval beyond what a rule may have becomes the longest.
    """
    rule = bucket.rule
    burst = max(1, math.floor(rule.burst * share))
    interval_ns = min(math.ceil(rule.interval_ns / share), BURST_NS_MAX // burst)
    return Bucket(bucket.key, Rule(f"{rule.name}/{LOCAL_SHARE}", interval_ns, burst))


def decide(charges: Charges, answer: Sequence[int]) -> Decision:
    """Return what the ledger decided, told as `MemoryLimiter` would. ValueError: the numbers contradict themselves."""
    told: tuple[Rule, int, int, int] | None = None  # of the bucket to report: rule, debt, remaining, wait
    refused = False
    for (bucket, cost), debt_ns in zip(charges, answer[1:], strict=True):
        rule = bucket.rule
        if not 0 <= debt_ns <= rule.burst_ns:
            raise ValueError("a debt is outside of its bucket")
        after_ns, admitted, remaining, wait_ns = gcra.spend(debt_ns, 0, cost, rule.interval_ns, rule.burst_ns)
        if not admitted:
            if not refused or told is None or is_longer(wait_ns, told[3]):
                told = rule, after_ns, remaining, wait_ns
            refused = True
        elif not refused and (told is None or remaining * told[0].burst < told[2] * rule.burst):
            told = rule, after_ns, remaining, 0
    if told is None or answer[0] != int(not refused):
        raise ValueError("the answer contradicts its own numbers")
    return decision_of(*told, 0, admitted=not refused)

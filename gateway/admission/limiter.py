"""What a limiter is: limits, rules, buckets, decisions, and the contract that tests/contracts/test_limiter.py checks.

Does not decide which buckets a call draws on: `gateway.admission.budget` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

BURST_NS_MAX = 30 * 24 * 3600 * 1_000_000_000  # what takes longer than a month to come back is a quota, not a rate


@dataclass(frozen=True, slots=True)
class Limits:
    """A set of limits, as the policy gives it to a principal or a tenant. Cost = rows x the model's cost per row.

    A rate is an emission interval: the nanoseconds in which one unit comes back, rounded up to a whole number.
    """

    request_interval_ns: int
    request_burst: int
    cost_interval_ns: int
    cost_burst: int
    in_flight_max: int
    queries_per_day: int | None = None  # rows that inferences may have; all of them come back within a day


@dataclass(frozen=True, slots=True)
class Rule:
    """A rate and a burst, under the name that refusals and records give it. ValueError when they are out of range."""

    name: str
    interval_ns: int
    burst: int
    burst_ns: int = field(init=False)  # how long an empty bucket takes to fill

    def __post_init__(self) -> None:
        if self.interval_ns < 1 or self.burst < 1:
            raise ValueError(f"{self.name}: the interval and the burst are at least 1")
        burst_ns = self.interval_ns * self.burst
        if burst_ns > BURST_NS_MAX:
            raise ValueError(f"{self.name}: the burst takes longer than 30 days to come back")
        object.__setattr__(self, "burst_ns", burst_ns)


@dataclass(frozen=True, slots=True)
class Bucket:
    """One key under one rule. The key names the bucket alone: two rules on one principal have two keys."""

    key: str
    rule: Rule


class RateState(NamedTuple):
    """What the x-ratelimit-* trailers say."""

    limit: int
    remaining: int
    reset_ms: int


class Decision(NamedTuple):
    """One answer for all buckets of a spend.

    Admitted: the bucket with the smallest part of its burst left. Refused: the one that has to be waited for longest.
    """

    admitted: bool
    rule: str
    limit: int  # the rule's burst
    remaining: int  # units left after this spend
    reset_ms: int  # until that bucket is full again, rounded up
    retry_after_ms: int  # 0 admitted; -1 never (the cost exceeds the burst); otherwise rounded up, at least 1

    @property
    def state(self) -> RateState:
        return RateState(self.limit, self.remaining, self.reset_ms)


class Limiter(Protocol):
    """Spends from buckets.

    - All or nothing: a refused spend changes no bucket, an admitted one charges each, and twice what is named twice.
    - Never over-admits: for each bucket, in any window of length T, the admitted cost is at most burst + rate * T,
      whatever other keys do and however many there are. Forgetting a bucket never refills it.
    - Bounded memory, whatever the number of keys. Where the bound costs something it costs admissions, never limits.
    - `cost` is 0 or more (ValueError); a cost of 0 only reads. At least one charge (ValueError).
    - Equal keys are one bucket. `now_ns` comes from one monotonic clock. Never blocks; called from one thread.
    """

    def spend(self, charges: Sequence[tuple[Bucket, int]], now_ns: int) -> Decision: ...

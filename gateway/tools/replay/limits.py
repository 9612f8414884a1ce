"""Spends done again, with the clock that each was recorded with.

What a bucket held at the beginning of the range is unknown, unless the log begins there; so is what it held when a
process began anew. So two states are carried along: the fullest and the emptiest that agree with all that was recorded.
GCRA is monotone in its one number. Where both states decide alike, and tell the same rule and the same rest, the
recorded decision is compared; where they do not, it is open, unless no state between them could have led to it. What is
recorded narrows the states.

Spends of shared limits, of the watch and of the budget are another state, which is not carried along.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING

from msgspec import UnsetType

from gateway.admission import gcra
from gateway.admission.memory import MemoryLimiter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.admission.budget import Charges
    from gateway.admission.limiter import Bucket, Decision
    from gateway.tools.replay.history import History, Recorded
    from gateway.tools.replay.rulebooks import Rulebook, Rulebooks
    from ops.audit.log.schemas.requests import Limit

OPEN = "what the buckets held before is not known"
NO_CLOCK = "the entry has no clock"
OTHER_STATE = "shared limits, watch or budget: their state is not rebuilt"
INFERENCES = frozenset({"ModelInfer", "ModelStreamInfer"})
BATCHES_OVERTAKEN = 16  # by so many a batch may be recorded too late


@dataclass(frozen=True, slots=True)
class Spend:
    """One spend of a request: its place among the request's limits, and what was recorded."""

    clock_ns: int
    one: Recorded
    place: int
    limit: Limit
    first_life: bool = True


def spends_of(history: History) -> list[list[Spend]]:
    """Return the spends of each life of each gateway process, in the order in which they happened.

    A life ends where the log says so, and where the numbers of batches begin again. The first lives come first.
    """
    lives: dict[tuple[int, str], list[Spend]] = {}
    life: Counter[str] = Counter()
    breaks, passed = sorted(history.breaks, key=itemgetter(0)), 0
    batches: dict[tuple[str, str], int] = {}
    for one in history.records:
        gateway, batch = one.entry.gateway, one.entry.batch
        while passed < len(breaks) and breaks[passed][0] < one.index:
            which = breaks[passed][1]
            life.update(list(life) if which is None else [which])
            passed += 1
        if not isinstance(batch, UnsetType):
            place = gateway, one.model
            if batch.id + BATCHES_OVERTAKEN < batches.get(place, 0):
                life[gateway] += 1
                batches = {other: number for other, number in batches.items() if other[0] != gateway}
            batches[place] = max(batch.id, batches.get(place, 0))
        life.setdefault(gateway, 0)
        for place_of_limit, limit in enumerate(limits_of(one)):
            if not isinstance(limit.clock_ns, UnsetType) and limit.clock_ns.isdecimal():
                spend = Spend(int(limit.clock_ns), one, place_of_limit, limit, first_life=not life[gateway])
                lives.setdefault((life[gateway], gateway), []).append(spend)
    return [sorted(lives[key], key=lambda spend: spend.clock_ns) for key in sorted(lives)]


def limits_of(one: Recorded) -> list[Limit]:
    """Return what was recorded of a request's limits."""
    return [] if isinstance(one.entry.limits, UnsetType) else one.entry.limits


def charges_of(one: Recorded, place: int, principal: str, book: Rulebook) -> Charges | None:
    """Return what a spend draws on: first one request, then what the inference costs. None: something else."""
    budget = book.active.budgets.get(principal)
    if budget is None:
        return None
    if place == 0:
        return budget.request_charges
    entry = one.entry
    if place > 1 or isinstance(entry.model, UnsetType) or isinstance(entry.rows, UnsetType):
        return None
    rules = book.active.models.get((entry.model.name, entry.model.version))
    if rules is None or entry.method.rpartition("/")[2] not in INFERENCES:
        return None
    return budget.cost_charges(entry.rows * rules.cost_per_row, entry.rows)


@dataclass(slots=True)
class Bounds:
    """The buckets of one process: for each the least and the most that its TAT may be, in nanoseconds."""

    known: bool
    _tats_ns: dict[str, tuple[int, int]] = field(default_factory=dict)

    def compare(self, charges: Charges, limit: Limit, now_ns: int) -> tuple[str, str] | str:
        """Do a spend again; returns what was recorded and what follows, or why that is open. Takes in what it was."""
        fullest, emptiest = (self._decide(charges, now_ns, end) for end in (0, 1))
        self._take(charges, limit, now_ns)
        recorded = f"{limit.decision} {limit.rule} {limit.tokens}"
        if said(fullest) == said(emptiest) or not possible(limit, fullest, emptiest):
            return recorded, said(fullest)
        return OPEN

    def _decide(self, charges: Charges, now_ns: int, end: int) -> Decision:
        """Let the gateway's own limiter decide, on buckets that hold the most (0) or the least (1) they may."""
        limiter = MemoryLimiter(buckets_max=len(charges), sketch_slots=1)
        for bucket, _ in charges:
            limiter.learn(bucket.key, self._held(bucket, now_ns)[end], now_ns)
        return limiter.spend(charges, now_ns)

    def _held(self, bucket: Bucket, now_ns: int) -> tuple[int, int]:
        unknown = (0, 0) if self.known else (0, now_ns + bucket.rule.burst_ns)
        return self._tats_ns.get(bucket.key, unknown)

    def _take(self, charges: Charges, limit: Limit, now_ns: int) -> None:
        """Hold both states to what was recorded: an admitted spend was paid for, and this is what it left."""
        if limit.decision != "admit":
            return
        for bucket, cost in charges:
            rule = bucket.rule
            full_ns = now_ns + rule.burst_ns
            least, most = (self._after(tat_ns, bucket, cost, now_ns) for tat_ns in self._held(bucket, now_ns))
            if rule.name == limit.rule:
                least = max(least, full_ns - (limit.tokens + 1) * rule.interval_ns + 1)
                most = min(most, full_ns - limit.tokens * rule.interval_ns)
            self._tats_ns[bucket.key] = (min(least, most), most)

    @staticmethod
    def _after(tat_ns: int, bucket: Bucket, cost: int, now_ns: int) -> int:
        after_ns, admitted, _, _ = gcra.spend(tat_ns, now_ns, cost, bucket.rule.interval_ns, bucket.rule.burst_ns)
        return after_ns if admitted else now_ns + bucket.rule.burst_ns


def possible(limit: Limit, fullest: Decision, emptiest: Decision) -> bool:
    """Say whether a state between the two may have led to what was recorded."""
    admitted = limit.decision == "admit"
    if fullest.admitted == emptiest.admitted != admitted:
        return False
    if {limit.rule} != {fullest.rule, emptiest.rule} or not fullest.admitted == emptiest.admitted == admitted:
        return True
    return emptiest.remaining <= limit.tokens <= fullest.remaining


def said(decision: Decision) -> str:
    """Return a decision as it is compared."""
    return f"{'admit' if decision.admitted else 'refuse'} {decision.rule} {decision.remaining}"


def replayed(history: History, books: Rulebooks) -> Iterator[tuple[Recorded, tuple[str, str] | str]]:
    """Yield each recorded limit with what `Bounds.compare` says of it."""
    for one in history.records:
        limits = limits_of(one)
        for limit in limits:
            if isinstance(limit.clock_ns, UnsetType):
                yield one, NO_CLOCK if isinstance(limits[0].clock_ns, UnsetType) else OTHER_STATE
    for spends in spends_of(history):
        bounds = Bounds(known=history.begins and spends[0].first_life)
        for spend in spends:
            yield spend.one, spent_again(spend, bounds, books)


def spent_again(spend: Spend, bounds: Bounds, books: Rulebooks) -> tuple[str, str] | str:
    """Do one spend again; returns as `Bounds.compare`."""
    book = books.of(spend.one.entry.policy)
    if isinstance(book, str):
        return book
    charges = charges_of(spend.one, spend.place, principal_of(spend.one, book), book)
    if charges is None or spend.limit.rule not in {bucket.rule.name for bucket, _ in charges}:
        return OTHER_STATE
    return bounds.compare(charges, spend.limit, spend.clock_ns)


def principal_of(one: Recorded, book: Rulebook) -> str:
    """Return the name of who asked, by its pseudonym; empty when this policy does not know it."""
    auth = one.entry.auth
    return "" if isinstance(auth, UnsetType) else book.names.get((auth.tenant, auth.principal), "")

"""The limiter of one process: a bounded table of buckets, and a fixed sketch for what does not fit.

Rules that make the bound safe:
- A bucket is forgotten only once it is full again (its TAT has passed): then forgetting it changes nothing.
- A key that is not in the table draws on its slot of the sketch, which it may share with other keys. A slot's TAT is at
  least that of every key that ever drew on it, so sharing can refuse too much and never admit too much.
- A key that moves into the table takes its slot's TAT along. So no order of arrivals turns a debt into a full bucket,
  and an attacker with more identities than the table has rows gets less than the sum of their limits, never more.

Finding a row to forget is a clock sweep (second chance) of at most SWEEP_STEPS rows a spend: constant time when full.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from zlib import crc32

from gateway.admission import gcra
from gateway.admission.limiter import Bucket, Decision, Rule

COPIES_TRIED = 8
SWEEP_STEPS = 8
_NS_PER_MS = 1_000_000


class MemoryLimiter:
    """Implements `gateway.admission.limiter.Limiter` for one process."""

    def __init__(self, *, buckets_max: int = 262_144, sketch_slots: int = 65_536) -> None:
        if buckets_max < 1 or sketch_slots < 1:
            raise ValueError("a limiter has at least one bucket and one slot")
        self._buckets_max = buckets_max
        self._tats_ns: OrderedDict[str, int] = OrderedDict()  # in sweep order, not in order of use
        self._sketch_ns = array("q", bytes(8 * sketch_slots))

    @property
    def buckets(self) -> int:
        """How many buckets have a row of their own."""
        return len(self._tats_ns)

    def spend(self, charges: Sequence[tuple[Bucket, int]], now_ns: int) -> Decision:
        written: list[tuple[str, int | None, int]] = []  # key, its row before (None: it had none), its slot before
        told: tuple[Rule, int, int, int] | None = None  # of the bucket to report: rule, TAT, remaining, wait
        refused = False
        for bucket, cost in charges:
            if cost < 0:
                self._undo(written)
                raise ValueError("a cost is never negative")
            key, rule = bucket.key, bucket.rule
            row_ns = self._tats_ns.get(key)
            slot_ns = self._sketch_ns[self._slot(key)] if row_ns is None else 0
            before_ns = slot_ns if row_ns is None else row_ns
            tat_ns, admitted, remaining, wait_ns = gcra.spend(before_ns, now_ns, cost, rule.interval_ns, rule.burst_ns)
            if not admitted:
                if not refused or told is None or is_longer(wait_ns, told[3]):
                    told = rule, tat_ns, remaining, wait_ns
                refused = True
            elif not refused:
                if told is None or remaining * told[0].burst < told[2] * rule.burst:
                    told = rule, tat_ns, remaining, 0
                if cost:
                    written.append((key, row_ns, slot_ns))
                    self._write(key, tat_ns, now_ns, has_row=row_ns is not None)
        if told is None:
            raise ValueError("a spend charges at least one bucket")
        if refused:
            self._undo(written)
        return decision_of(*told, now_ns, admitted=not refused)

    def learn(self, key: str, tat_ns: int, now_ns: int) -> None:
        """Take over what is known of a bucket from elsewhere. A slot of the sketch only ever learns of more debt."""
        if key in self._tats_ns or self._has_room(now_ns):
            self._tats_ns[key] = tat_ns
        else:
            slot = self._slot(key)
            self._sketch_ns[slot] = max(self._sketch_ns[slot], tat_ns)

    def debts(self, now_ns: int) -> list[tuple[str, int]]:
        """Return (key, nanoseconds until it is full) of each bucket that has a row of its own and is not full.

        May be called from another thread. Walking through the rows makes objects, so the collector may run, and with it
        whatever lets the first thread change the rows: then it is tried again. RuntimeError: it never came to an end.
        """
        for _ in range(COPIES_TRIED - 1):
            with suppress(RuntimeError):
                return self._debts(now_ns)
        return self._debts(now_ns)

    def _debts(self, now_ns: int) -> list[tuple[str, int]]:
        return [(key, tat_ns - now_ns) for key, tat_ns in list(self._tats_ns.items()) if tat_ns > now_ns]

    def _slot(self, key: str) -> int:
        return crc32(key.encode()) % len(self._sketch_ns)

    def _write(self, key: str, tat_ns: int, now_ns: int, *, has_row: bool) -> None:
        if has_row or self._has_room(now_ns):
            self._tats_ns[key] = tat_ns
        else:
            self._sketch_ns[self._slot(key)] = tat_ns

    def _has_room(self, now_ns: int) -> bool:
        rows = self._tats_ns
        if len(rows) < self._buckets_max:
            return True
        for _ in range(SWEEP_STEPS):
            oldest = next(iter(rows))
            if rows[oldest] <= now_ns:
                del rows[oldest]
                return True
            rows.move_to_end(oldest)
        return False

    def _undo(self, written: list[tuple[str, int | None, int]]) -> None:
        for key, row_ns, slot_ns in reversed(written):
            if row_ns is not None:
                self._tats_ns[key] = row_ns
            elif self._tats_ns.pop(key, None) is None:
                self._sketch_ns[self._slot(key)] = slot_ns


def is_longer(wait_ns: int, than_ns: int) -> bool:
    """Say whether a wait is longer than another; NEVER is longer than all."""
    return than_ns != gcra.NEVER and (wait_ns == gcra.NEVER or wait_ns > than_ns)


def decision_of(rule: Rule, tat_ns: int, remaining: int, wait_ns: int, now_ns: int, *, admitted: bool) -> Decision:
    """Return the decision that tells of this bucket: full at `tat_ns`, `remaining` units left, `wait_ns` to wait."""
    reset_ms = -((now_ns - tat_ns) // _NS_PER_MS)  # rounded up, as is the wait
    retry_ms = gcra.NEVER if wait_ns == gcra.NEVER else -(-wait_ns // _NS_PER_MS)
    return Decision(admitted, rule.name, rule.burst, remaining, reset_ms, retry_ms)

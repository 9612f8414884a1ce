"""The generic cell rate algorithm (ITU-T I.371, annex A) in whole nanoseconds. Pure: no clock, no state, no floats.

A bucket is one number, its theoretical arrival time (TAT): the moment at which it is full again. A spend of `cost`
units moves the TAT on by `cost` emission intervals, and is admitted if that leaves it at most `burst_ns` ahead of now.

Promise, for a clock that never runs backwards: in any window of length T the admitted cost is at most
burst + T / interval, where burst = burst_ns / interval. A clock that jumps back can only refuse more, and for no longer
than burst_ns, because a TAT further ahead than that is taken back to it.
"""

from __future__ import annotations

NEVER = -1  # as a wait: the cost exceeds the burst, so no wait is long enough


def spend(tat_ns: int, now_ns: int, cost: int, interval_ns: int, burst_ns: int) -> tuple[int, bool, int, int]:
    """Take `cost` >= 0 units at `now_ns` from the bucket that is full at `tat_ns`.

    Returns the bucket's TAT afterwards (to be stored when admitted; otherwise the unchanged bucket), whether the spend
    is admitted, the whole units still to be spent at once, and the wait in nanoseconds: 0 when admitted, or NEVER.
    """
    debt_ns = tat_ns - now_ns
    if debt_ns < 0:
        debt_ns = 0
    elif debt_ns > burst_ns:
        debt_ns = burst_ns
    room_ns = burst_ns - debt_ns
    price_ns = cost * interval_ns
    if price_ns <= room_ns:
        return now_ns + debt_ns + price_ns, True, (room_ns - price_ns) // interval_ns, 0
    retry_ns = price_ns - room_ns if price_ns <= burst_ns else NEVER
    return now_ns + debt_ns, False, room_ns // interval_ns, retry_ns

"""A canary's life as stories: what was seen, when, and what became of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.models.canary import Evidence, Limits, Plan, Progress, begin, decide, quantile
from ops.metrics import TIMES

MINUTE_NS = 60_000_000_000
LIMITS = Limits(error_rate_max=0.02, p99_ratio_max=2.0, disagreement_max=0.05, drift_max=0.2)
PLAN = Plan((0.01, 0.1, 1.0), 10 * MINUTE_NS, 100, LIMITS)
GOOD = Evidence(
    requests=500,
    errors=2,
    compared=500,
    disagreements=5,
    bounds=(0.01, 0.1),
    times=(300, 0, 0),
    served_times=(300, 0, 0),
)


def times(*milliseconds: float) -> list[int]:
    """Response times in the metrics' buckets."""
    counts = [0] * (len(TIMES) + 1)
    for each in milliseconds:
        counts[int(np.searchsorted(TIMES, each / 1000))] += 1
    return counts


def timed(here: float, served: float, rows: int = 200) -> Evidence:
    return replace(GOOD, bounds=TIMES, times=times(*[here] * rows), served_times=times(*[served] * rows))


STORIES = {
    "too early": (GOOD, 9, None, ""),
    "too few": (replace(GOOD, requests=99, errors=0), 60, None, ""),
    "good": (GOOD, 10, "advanced", ""),
    "nothing was compared": (replace(GOOD, compared=0, disagreements=0), 10, "advanced", ""),
    "a few errors at the start": (Evidence(requests=4, errors=1), 1, None, ""),
    "errors beyond doubt": (
        Evidence(requests=20, errors=10),
        1,
        "rolled-back",
        "error rate 0.500 (10 of 20)",
    ),
    "all errors": (Evidence(requests=2, errors=2), 0, "rolled-back", "error rate 1.000 (2 of 2) is above 0.02"),
    "a bit too many errors": (replace(GOOD, errors=12), 9, None, ""),
    "a bit too many at the end": (replace(GOOD, errors=12), 10, "rolled-back", "error rate 0.024 (12 of 500)"),
    "as many errors as allowed": (replace(GOOD, errors=10), 10, "advanced", ""),
    "another opinion": (
        replace(GOOD, disagreements=250),
        1,
        "rolled-back",
        "disagreement 0.500 (250 of 500)",
    ),
    "slow, and early": (timed(100, 10), 9, None, ""),
    "slow": (timed(100, 10), 10, "rolled-back", "times the served version's, above 2"),
    "slower within bounds": (timed(15, 10), 10, "advanced", ""),
    "slow, but hardly measured": (timed(100, 10, rows=99), 29, None, ""),
    "hardly measured for long": (timed(100, 10, rows=99), 30, "advanced", ""),
    "deadlines of few callers": (replace(GOOD, late=400), 10, "advanced", ""),
    "hangs": (Evidence(0, 0, late=100), 10, "rolled-back", "answered nothing, and 100 requests ran into"),
    "may hang": (Evidence(0, 0, late=99), 60, None, ""),
    "seems to hang, and early": (Evidence(0, 0, late=100), 9, None, ""),
    "hangs for its callers only": (Evidence(1, 0, late=100), 10, None, ""),
    "drift": (replace(GOOD, drift=0.3, served_drift=0.1), 10, "rolled-back", "drift 0.300 is above 0.2"),
    "drift of it alone": (replace(GOOD, drift=0.3), 10, "rolled-back", "drift 0.300 is above 0.2"),
    "drift, and early": (replace(GOOD, drift=0.3, served_drift=0.1), 9, None, ""),
    "drift hardly above the served version's": (replace(GOOD, drift=0.25, served_drift=0.19), 60, None, ""),
    "the served version drifts": (replace(GOOD, drift=0.1, served_drift=0.3), 60, None, ""),
    "the served version drifts as well": (replace(GOOD, drift=0.9, served_drift=0.3), 60, None, ""),
    "drift at the limit": (replace(GOOD, drift=0.2, served_drift=0.1), 10, "advanced", ""),
    "the traffic is strange": (replace(GOOD, drift=0.3, served_drift=0.3), 60, None, ""),
}


@pytest.mark.parametrize(("seen", "minutes", "event", "reason"), STORIES.values(), ids=STORIES)
def test_what_was_seen_decides(seen, minutes, event, reason):
    progress, happened = decide(PLAN, begin(0), seen, minutes * MINUTE_NS)
    assert happened == event
    assert reason in progress.reason
    assert bool(progress.reason) == (event == "rolled-back")


def test_what_no_limit_is_set_for_is_not_looked_at():
    plan = replace(PLAN, limits=Limits(error_rate_max=0.02))
    seen = replace(timed(100, 10), disagreements=500, drift=1.0)
    assert decide(plan, begin(0), seen, 10 * MINUTE_NS)[1] == "advanced"


def test_a_good_canary_goes_through_every_step_and_is_promoted():
    progress, now_ns, shares = begin(0), 0, []
    for _ in range(10):
        shares.append(progress.share(PLAN))
        now_ns += 10 * MINUTE_NS
        progress, _ = decide(PLAN, progress, GOOD, now_ns)
    assert shares[:4] == [0.01, 0.1, 1.0, 1.0]
    assert progress.phase == "promoted"


def test_each_step_has_a_time_of_its_own():
    progress, _ = decide(PLAN, begin(0), GOOD, 25 * MINUTE_NS)
    assert (progress.step, progress.began_ns) == (1, 25 * MINUTE_NS)
    assert decide(PLAN, progress, GOOD, 34 * MINUTE_NS)[1] is None
    assert decide(PLAN, progress, GOOD, 35 * MINUTE_NS)[1] == "advanced"


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 10**14))
def test_what_is_over_stays_over(requests, errors, now_ns):
    seen = Evidence(requests=requests + errors, errors=errors)
    for phase, share in (("promoted", 1.0), ("rolled-back", 0.0)):
        over = Progress(phase, 1, 0, "so it was")
        assert decide(PLAN, over, seen, now_ns) == (over, None)
        assert over.share(PLAN) == share


@given(st.integers(1, 2000), st.data(), st.integers(0, 60))
def test_nobody_goes_on_above_a_limit_and_only_going_on_raises_the_share(requests, data, minutes):
    errors = data.draw(st.integers(0, requests))
    before = begin(0)
    after, event = decide(PLAN, before, Evidence(requests=requests, errors=errors), minutes * MINUTE_NS)
    if event == "advanced":
        assert errors / requests <= LIMITS.error_rate_max
        assert minutes >= 10
        assert requests >= 100
    else:
        assert after.share(PLAN) <= before.share(PLAN)


@given(st.lists(st.floats(0.0002, 9.0), min_size=1, max_size=300))
def test_a_quantile_of_buckets_lies_in_the_bucket_of_the_true_one(seconds):
    counts = times(*[each * 1000 for each in seconds])
    true = sorted(seconds)[max(0, int(np.ceil(0.99 * len(seconds))) - 1)]
    found = quantile(counts, TIMES, 0.99)
    assert true / 1.2590 <= found <= true * 1.2590


def test_a_quantile_is_interpolated_in_its_bucket():
    assert quantile([0, 10, 0], [1.0, 2.0], 0.25) == 1.25
    assert quantile([10, 0, 0], [1.0, 2.0], 0.5) == 0.5


def test_a_quantile_of_nothing_is_nothing_and_of_the_open_bucket_its_bound():
    assert quantile([0] * 52, TIMES, 0.99) == 0
    assert quantile(times(20_000), TIMES, 0.99) == 10.0

"""Whole gateways: what is counted is recorded, and what is recorded replays."""

import pytest

from gateway.bench import h2load
from gateway.bench.audit_gateway import measure_overload, measure_replay
from gateway.bench.workspace import workspace

pytestmark = pytest.mark.slow


@pytest.mark.skipif(h2load.missing() is not None, reason="h2load is not installed")
def test_every_call_of_a_flood_is_in_the_log():
    with workspace(None) as directory:
        found = measure_overload(directory / "o", seconds=2)
    assert found["overload_refused"] > 0
    assert found["overload_unrecorded"] == 0


def test_all_that_was_recorded_comes_out_the_same():
    with workspace(None) as directory:
        found = measure_replay(directory / "r", requests=100)
    assert found["replay_requests"] >= 100
    assert (found["replay_r1"], found["replay_r2"]) == (100, 100)

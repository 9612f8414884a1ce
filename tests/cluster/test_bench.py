"""The benchmark's own phases on a real cluster: replicas that are killed, and a model that changes, under load."""

from __future__ import annotations

from gateway.tools.bench.load import first_request
from gateway.tools.bench.machine import workspace
from gateway.tools.bench.phases import PHASES, REQUESTS_BESIDE, measure_phases
from gateway.tools.samples import bundles_directory


def test_both_phases_are_gone_through_and_no_call_fails():
    steps = []
    with workspace(None) as directory:
        found = measure_phases(directory, bundles_directory(), first_request(), lambda text, cells: steps.append(cells))
    assert tuple(found) == PHASES
    assert sum(steps) == len(PHASES)
    assert [phase.errors for phase in found.values()] == [{}, {}]
    assert found["replica_kill"].versions.keys() == {"1"}
    assert found["rolling_update"].versions.keys() == {"1", "2"}
    assert all(phase.requests >= 2 * REQUESTS_BESIDE for phase in found.values())

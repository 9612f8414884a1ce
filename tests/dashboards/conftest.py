"""Skipped unless `make test-dashboards` asks: npm packages, a browser and half a minute of traffic."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.dashboards.stage import Stage, staged

TRAFFIC_S = 30.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("STOCKADE_TEST_DASHBOARDS") != "1":
        for item in items:
            if "tests/dashboards/" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason="make test-dashboards runs it"))


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A gateway after half a minute of traffic, and the Prometheus that has watched it."""
    with staged(tmp_path_factory.mktemp("stage")) as stage:
        assert stage.play(TRAFFIC_S) > 100
        yield stage

"""What more than one folder of tests stands on: one gateway that runs for as long as the tests do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from serving.bundles.bundle import Bundle
    from serving.engines.engine import Engine
    from tests.cluster.standing import Stand
    from tests.e2e.running import Running
    from tests.e2e.site import Site


# The same examples each time, and none of them timed: what was right a minute ago is not wrong on a busier machine.
# `pytest --hypothesis-profile=explore` looks further.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeat", settings.get_profile("explore"), derandomize=True)
settings.load_profile("repeat")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write down pytest's exit code for `.ci/run`, which asks make and would not hear it."""
    cache = getattr(session.config, "cache", None)
    if cache is not None and not hasattr(session.config, "workerinput"):
        cache.set("stockade/exit_code", int(exitstatus))


@pytest.fixture(scope="session")
def made_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site that nobody serves: to be copied."""
    from tests.e2e.site import make_site

    return make_site(tmp_path_factory.mktemp("sites") / "made")


@pytest.fixture(scope="session")
def stand(made_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A running gateway for tests that leave it as they found it."""
    from tests.e2e.running import serving
    from tests.e2e.site import copy_site

    with serving(copy_site(made_site, tmp_path_factory.mktemp("sites") / "stand")) as running:
        yield running


CLUSTER = "STOCKADE_TEST_CLUSTER"
collect_ignore = [] if os.environ.get(CLUSTER) else ["cluster"]


@pytest.fixture(scope="session")
def ray_stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A Ray cluster with deployed models, for tests that leave it as they found it."""
    if not os.environ.get(CLUSTER):
        pytest.skip("needs a Ray cluster: `make test-cluster` starts one")
    from tests.cluster.standing import standing

    with standing(tmp_path_factory.mktemp("ray")) as stand:
        yield stand


@pytest.fixture
def over_ray(ray_stand: Stand) -> Callable[[Bundle], Engine]:
    """What makes a Ray engine of a bundle that has replicas of its own."""
    return ray_stand.own


@pytest.fixture
def over_shared_ray(ray_stand: Stand) -> Callable[[Bundle], Engine]:
    """What makes a Ray engine of a bundle that shares its replicas with others."""
    return ray_stand.shared

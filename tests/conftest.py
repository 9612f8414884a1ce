"""What more than one folder of tests stands on: one gateway that runs for as long as the tests do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.running import Running
    from tests.e2e.site import Site


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

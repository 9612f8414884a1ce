"""A gateway in the test's own process, for tests of what happens inside of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.gateway.rig import Rig


@pytest.fixture
async def rig(made_site, tmp_path) -> AsyncIterator[Rig]:
    from tests.gateway.rig import open_rig

    async with open_rig(made_site, tmp_path) as opened:
        yield opened

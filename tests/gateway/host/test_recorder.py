"""Who keeps the recorder, where it is met, and what `stockade recorder` refuses."""

from __future__ import annotations

import asyncio
import shutil
import stat
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from gateway.cli.main import main
from gateway.config.load import load_config
from gateway.config.place import from_here, place_of
from gateway.host.neighbour import Neighbour, greets
from gateway.host.recorder import recorder_settings
from gateway.tools.check.check import check
from gateway.tools.init.init import init_directory
from gateway.tools.samples import bundles_directory
from ops.audit.store.recorder_main import listen
from ops.audit.store.settings import SOCKET_GROUP, SOCKET_OWNER
from tests.gateway.rig import until


@pytest.fixture
def site(tmp_path):
    """A directory of `stockade init`."""
    directory = tmp_path / "site"
    init_directory(directory, now=datetime.now(UTC), random_bytes=bytes_of, bundles=bundles_directory())
    return directory / "stockade.yaml"


def bytes_of(count):
    return bytes(range(count))


def let_it_run_apart(file):
    file.write_text(file.read_text().replace("audit:\n", "audit:\n  recorder: external\n"))


def test_a_managed_recorder_cannot_be_run_apart(site, capsys):
    assert main(["recorder", str(site)]) == 2
    assert "write `recorder: external` under `audit`" in capsys.readouterr().err


def test_what_both_use_is_for_the_owner_or_for_the_group(site):
    place = place_of(load_config(site))
    place.make_shared()
    assert modes(place) == [0o700, 0o700, 0o700]
    assert recorder_settings(load_config(site), place).socket_mode == SOCKET_OWNER
    let_it_run_apart(site)
    place = place_of(load_config(site))
    place.make_shared()
    assert modes(place) == [0o3770, 0o2770, 0o3770]
    assert recorder_settings(load_config(site), place).socket_mode == SOCKET_GROUP


def modes(place):
    return [stat.S_IMODE(directory.stat().st_mode) for directory in (place.state, place.rings, place.metrics)]


def test_the_policys_memory_is_where_the_gateway_may_write(site):
    assert place_of(load_config(site)).memory.parent == load_config(site).audit.state_directory
    let_it_run_apart(site)
    assert place_of(load_config(site)).memory.parent == load_config(site).audit.key_database.parent


def test_check_does_not_ask_for_a_key_that_is_the_recorders_alone(site, tmp_path):
    (site.parent / "keys/log.key").unlink()
    assert [finding.where for finding in check(site, datetime.now(UTC)).findings] == ["audit.signing_key"]
    let_it_run_apart(site)
    assert check(site, datetime.now(UTC)).findings == ()
    other = tmp_path / "other"
    init_directory(other, now=datetime.now(UTC), random_bytes=lambda count: bytes(reversed(range(count))))
    shutil.copy(other / "keys/log.vkey", site.parent / "keys/log.vkey")
    assert [finding.where for finding in check(site, datetime.now(UTC)).findings] == ["audit.origin"]


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("0.0.0.0:8001", "localhost:8001"),
        ("[::]:8001", "localhost:8001"),
        ("10.0.0.1:8001", "10.0.0.1:8001"),
        ("gateway.example.org:8001", "gateway.example.org:8001"),
    ],
)
def test_a_client_here_finds_what_listens_everywhere(address, found):
    assert from_here(address) == found


async def test_a_neighbour_is_found_missed_and_found_again():
    told, there = [], asyncio.Queue(1)
    neighbour = Neighbour("recorder", there.get, lambda event, **_: told.append(event))
    looking = asyncio.create_task(neighbour.run())
    try:
        for answer in (False, True, True, False, True):
            await there.put(answer)
            await until(lambda answer=answer: neighbour.ready.is_set() == answer)
    finally:
        await neighbour.stop(0)
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
    assert told == ["neighbour-found", "neighbour-missed", "neighbour-found"]


async def test_what_listens_and_says_nothing_is_not_there(tmp_path):
    path = tmp_path / "s"
    assert not await greets(path, 5)
    with listen(path, SOCKET_OWNER):
        assert not await greets(path, 0.05)

    async def hello(_, writer):
        writer.write(b"hello")
        writer.close()

    path.unlink()
    async with await asyncio.start_unix_server(hello, path):
        assert await greets(path, 20)

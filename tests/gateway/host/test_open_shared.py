"""What keeps shared limits from being opened is said at the start, and is never the fault of a Redis that is away."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.admission.memory import MemoryLimiter
from gateway.config.document import ConfigRejected
from gateway.config.load import parse_config
from gateway.host import shared_limits
from gateway.host.shared_limits import open_shared, shares_limits, worker_share
from gateway.policy.load import parse_policy
from ops.process.logging import configure

CONFIGS = Path(__file__).parents[2] / "configs"
MINIMAL = (CONFIGS / "ok/config/minimal.yaml").read_bytes()
POLICY = (CONFIGS / "ok/policy/every-key.yaml").read_bytes()


def config_with(tmp_path: Path, settings: str, more: str = "") -> Any:
    return parse_config(MINIMAL + f"shared_limits: {{{settings}}}\n{more}".encode(), tmp_path / "stockade.yaml")


async def opened(tmp_path: Path, settings: str) -> Any:
    log = configure("error", sys.stderr, format="json")
    return await open_shared(config_with(tmp_path, settings), bytes(32), MemoryLimiter(), log)


AWAY = 'url: "unix:/nowhere/redis.sock"'
OVER_TLS = 'url: "rediss://127.0.0.1:9"'


async def test_a_redis_that_is_away_stops_nobody(tmp_path, capsys):
    limiter = await opened(tmp_path, AWAY)
    try:
        assert not limiter.up
    finally:
        await limiter.close()
    assert "shared-limits-lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (f"{AWAY}, password_file: none", "shared_limits.password_file: "),
        (f"{AWAY}, password_file: two-lines", "shared_limits.password_file: "),
        (f"{OVER_TLS}, ca: none", "shared_limits: the certificates cannot be used"),
        (f"{OVER_TLS}, ca: two-lines", "shared_limits: the certificates cannot be used"),
        (f"{OVER_TLS}, certificate: two-lines, key: two-lines", "shared_limits: the certificates cannot be used"),
    ],
)
async def test_a_file_that_is_not_what_it_should_be_stops_the_start(tmp_path, settings, problem):
    (tmp_path / "two-lines").write_bytes(b"one\ntwo\n")
    with pytest.raises(ConfigRejected) as rejected:
        await opened(tmp_path, settings)
    (line,) = rejected.value.lines
    assert line.startswith(problem)


async def test_a_missing_extra_stops_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_limits, "installed", lambda: False)
    with pytest.raises(ConfigRejected) as rejected:
        await opened(tmp_path, AWAY)
    assert rejected.value.lines == (f"shared_limits: {shared_limits.MISSING_EXTRA}",)


def test_limits_are_shared_where_the_configuration_says_so_and_there_are_any(tmp_path):
    assert not shares_limits(parse_config(MINIMAL, tmp_path / "stockade.yaml"))
    assert shares_limits(config_with(tmp_path, AWAY))
    assert not shares_limits(config_with(tmp_path, AWAY, "unsafe_unprotected: true\n"))


def test_the_workers_of_a_gateway_share_its_share(tmp_path):
    policy = parse_policy(POLICY, tmp_path / "policy.yaml")
    assert policy.shared_limits.share == 0.001
    assert worker_share(policy, 4) == 0.00025
    refusing = parse_policy(POLICY[: POLICY.index(b"shared_limits:")], tmp_path / "policy.yaml")
    assert worker_share(refusing, 4) is None

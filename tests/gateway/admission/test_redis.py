"""What stands in Redis: moments to the nanosecond, whatever the second; keys that live long enough; the larger debt."""

from __future__ import annotations

import pytest

from gateway.admission.limiter import Bucket, Rule
from gateway.admission.shared import LedgerFailed
from tests.gateway.admission.stepped import SECRET, ledger_at, runner, stepped
from tests.redis_server import common_server, needs_redis

pytestmark = needs_redis
US = 1_000
MS = 1_000 * US
S = 1_000 * MS
RULE = Rule("r", interval_ns=400 * MS + 7, burst=10)
KEY = "principal-requests/a"
NOW_S = 1_795_630_000  # such seconds with nine more digits are beyond 2^53


@pytest.mark.parametrize("now_us", [0, 1, 399_999, 600_000, 999_999])
@pytest.mark.parametrize("cost", [1, 2, 3, 10])
def test_a_spend_moves_the_moment_by_its_price_to_the_nanosecond(now_us, cost):
    limiter = stepped()
    now_ns = NOW_S * S + now_us * US
    assert limiter.spend([(Bucket(KEY, RULE), cost)], now_ns).admitted
    assert int(limiter.stored(KEY)) == now_ns + cost * RULE.interval_ns
    assert limiter.spend([(Bucket(KEY, RULE), 0)], now_ns).remaining == 10 - cost


@pytest.mark.parametrize("back_s", [5, 3_600, 30 * 86_400])
def test_a_clock_that_goes_back_costs_nobody_more_than_a_burst(back_s):
    """As after a failover to a replica whose clock is behind."""
    limiter, bucket = stepped(), Bucket(KEY, RULE)
    full_ns = RULE.burst * RULE.interval_ns
    assert limiter.spend([(bucket, 1)], NOW_S * S).admitted
    back_ns = (NOW_S - back_s) * S
    assert not limiter.spend([(bucket, 1)], back_ns).admitted
    assert int(limiter.stored(KEY)) == back_ns + full_ns
    later_ns = -(-(back_ns + full_ns) // US) * US
    assert limiter.spend([(bucket, 10)], later_ns).admitted


def test_prices_of_a_month_are_exact():
    month = Rule("month", interval_ns=30 * 86_400 * S // 7, burst=7)
    limiter = stepped()
    for spent in range(1, 8):
        assert limiter.spend([(Bucket(KEY, month), 1)], NOW_S * S + 999_999 * US).admitted
        assert int(limiter.stored(KEY)) == NOW_S * S + 999_999 * US + spent * month.interval_ns
    refused = limiter.spend([(Bucket(KEY, month), 1)], NOW_S * S + 999_999 * US)
    assert refused.retry_after_ms == -(-month.interval_ns // MS)


def test_a_key_lives_a_minute_longer_than_its_debt():
    limiter = stepped()
    limiter.spend([(Bucket(KEY, RULE), 5)], NOW_S * S)
    left_ms = limiter.lives_ms(KEY)
    assert 2_001 + 30_000 < left_ms <= 2_001 + 60_000
    limiter.spend([(Bucket("full", RULE), 0)], NOW_S * S)
    assert limiter.stored("full") is None, "what only reads writes nothing"


def test_what_a_gateway_knows_raises_a_debt_and_never_lowers_it():
    ledger = ledger_at(common_server().url, namespace="known")
    debts = []

    async def tell() -> None:
        await ledger.connect()
        hour = Rule("hour", 3_600 * S, 10)
        for hours in (5, 2, 7):
            await ledger.exchange((), [("k", hours * 3_600 * S)])
            ((_, debt_ns),) = await ledger.exchange([((Bucket("k", hour), 0),)])
            debts.append(round(debt_ns / (3_600 * S), 2))
        await ledger.close()

    runner().run(tell())
    assert debts == [5, 5, 7]


def test_after_a_failure_only_a_new_connection_helps():
    ledger = ledger_at(common_server().url, script="return 'nonsense'")

    async def fail() -> None:
        await ledger.connect()
        for kind in ("wrong-answer", "unreachable"):
            with pytest.raises(LedgerFailed) as failed:
                await ledger.exchange([((Bucket(KEY, RULE), 1),)])
            assert failed.value.kind == kind

    runner().run(fail())


def test_names_are_apart_by_secret_and_namespace():
    url = common_server().url
    names = {
        ledger_at(url).name_of(KEY),
        ledger_at(url).name_of(KEY + "b"),
        ledger_at(url, secret=SECRET[::-1]).name_of(KEY),
        ledger_at(url, namespace="other").name_of(KEY),
    }
    assert len(names) == 4
    assert not any(b"principal" in name for name in names)

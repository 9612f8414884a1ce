"""Four gateways, one of them with two workers, and one Redis, as their users run them: five processes, one limit."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from tests.e2e.caller import calling, infer_body
from tests.e2e.running import Running, serving, until
from tests.e2e.site import copy_site
from tests.redis_server import needs_redis, redis_server

pytestmark = needs_redis
GATEWAYS = 4
BURST = 40
CALLS_AT_ONCE = 8
WORKERS = ("/worker-0", "/worker-1")


def ask_often(running: Running, ended: list[tuple[str, str]], times: int) -> None:
    """Ask on a new connection each time, so that both workers are asked."""
    for _ in range(times):
        with calling(running.site, running.facts["data"]) as caller:
            reply = caller.infer(infer_body(), metadata=running.site.bearer("rated"))
            ended.append((reply.request_id, reply.reason))


def still_refused(running: Running) -> bool:
    """Whether a new connection is told so; one that the dead worker had taken is told nothing."""
    with calling(running.site, running.facts["data"]) as caller:
        reply = caller.infer(infer_body(), metadata=running.site.bearer("rated"))
        assert reply.code is not grpc.StatusCode.OK
        return reply.reason == "RATE_LIMITED"


@pytest.mark.slow
def test_four_gateways_admit_the_limit_and_not_one_more(made_site, tmp_path):
    """The limit comes back within hours, so what is admitted now is the burst, to the unit, wherever one asks."""
    with redis_server() as server, ExitStack() as stack:

        def settings(document: dict[str, Any]) -> None:
            document["shared_limits"] = {"url": server.url, "timeout": "10s"}

        made = copy_site(made_site, tmp_path / "made")
        made.change_config(settings)
        made.change_policy(lambda policy: policy["limits"]["two-requests"].update(request_burst=BURST))
        sites = [copy_site(made, tmp_path / f"gateway-{number}") for number in range(GATEWAYS)]
        sites[0].change_config(lambda document: document.update(workers=2))
        gateways = [stack.enter_context(serving(site)) for site in sites]
        ended: list[list[tuple[str, str]]] = [[] for _ in gateways]
        asking = [
            threading.Thread(target=ask_often, args=(running, ended[number], 2 * BURST // CALLS_AT_ONCE))
            for number, running in enumerate(gateways)
            for _ in range(CALLS_AT_ONCE // GATEWAYS)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        reasons = [Counter(reason for _, reason in each) for each in ended]
        assert sum(each["OK"] for each in reasons) == BURST
        assert all(each["OK"] for each in reasons)
        assert set().union(*reasons) == {"OK", "RATE_LIMITED"}
        for running, answered in zip(gateways, ended, strict=True):
            until(lambda running=running: running.counted("stockade_ratelimit_shared_up") == 1, "Redis is there")
            admitted = [request_id for request_id, reason in answered if reason == "OK"]
            until(
                lambda running=running, admitted=admitted: (
                    running.counted("stockade_shared_limits_decisions_total", decision="admit") == len(admitted)
                ),
                "the page does not say how many were admitted",
            )
            assert all(running.entry(request_id)["gateway"].endswith(WORKERS) for request_id in admitted)
        # A worker that dies and its successor have not forgotten, nor has Redis.
        first = gateways[0]
        first.kill("worker-0")
        until(lambda: first.pid_of("worker-0") and len(first.pids()) >= 4, "no successor")
        until(lambda: still_refused(first), "the successor does not answer")
